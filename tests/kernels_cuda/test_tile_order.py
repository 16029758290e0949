"""The order of query tiles x heads: each once, late ones first, a short section at the start."""

from __future__ import annotations

import ctypes
from itertools import groupby

import pytest
from device_harness import EMULATOR, compile_unit

_UNIT = """
#include "kernels/cuda_problem.cuh"
extern "C" __attribute__((visibility("default"))) void place(int heads, int tiles, int section,
                                                              int index, int* head, int* tile) {
  const attnlang::cuda::TileOrder order{.heads = heads, .tiles = tiles, .section = section};
  const auto found = order[index];
  *head = found.head, *tile = found.tile;
}
"""


@pytest.fixture(scope="module")
def order() -> ctypes.CDLL:
    path, said = compile_unit(EMULATOR, _UNIT, "-O1")
    assert path is not None, said[-4000:]
    return ctypes.CDLL(str(path))


@pytest.mark.parametrize(
    ("heads", "tiles", "section"), [(7, 3, 7), (8, 5, 3), (32, 4, 6), (5, 1, 2)]
)
def test_every_tile_comes_once(order: ctypes.CDLL, heads: int, tiles: int, section: int) -> None:
    places = []
    for index in range(heads * tiles):
        head, tile = ctypes.c_int(), ctypes.c_int()
        order.place(heads, tiles, section, index, ctypes.byref(head), ctypes.byref(tile))
        places.append((head.value, tile.value))
    assert sorted(places) == [(h, t) for h in range(heads) for t in range(tiles)]
    few = heads % section
    widths = [
        len({head for head, _ in group})
        for _, group in groupby(places, lambda place: (place[0] - few) // section)
    ]
    assert widths == ([few] if few else []) + [section] * (heads // section)
    for _, group in groupby(places, lambda place: (place[0] - few) // section):
        late = [tile for _, tile in group]
        assert late == sorted(late, reverse=True)
