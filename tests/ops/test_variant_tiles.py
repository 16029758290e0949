"""Kernels that visit the ranges of a closed form: results, numbers of tiles, memory."""

from __future__ import annotations

import resource

import pytest
import torch
from support import Sizes, assert_accurate, make_qkv

import attnlang

D = 8
# Sinks and a window, or a chunk and a stretch of far keys: two ranges with a gap, and a guard.
RANGES = (
    "attention ranges(sinks: int = 4, w: int = 50, c: int = 96, chunks: bool = false, "
    "far: float = 300.0, prefix: int[B]): "
    "mask = kv_idx < prefix[b] or (kv_idx <= q_idx and (q_idx // c == kv_idx // c "
    "or not (float(q_idx - kv_idx) < far)) if chunks "
    "else kv_idx <= q_idx and (kv_idx < sinks or q_idx - kv_idx < w))"
)
WINDOW = "attention window(w: int): mask = sliding_window(w)"
SHAPES = [
    Sizes(2, 4, 2, 70, 131, D, D),
    Sizes(2, 2, 2, 200, 517, D, D),
    Sizes(2, 6, 2, 1, 700, D, D),
    Sizes(1, 2, 1, 70, 2100, D, D),  # keys in parts
    Sizes(1, 2, 1, 1, 2100, D, D),
    Sizes(2, 2, 2, 140, 90, D, D),  # negative positions
]


@pytest.fixture(scope="module")
def ranges() -> attnlang.Variant:
    return attnlang.loads(RANGES)


@pytest.fixture(scope="module")
def window() -> attnlang.Variant:
    return attnlang.loads(WINDOW)


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(s, id=f"{s.q}x{s.kv}", marks=[] if i in (0, 3) else pytest.mark.slow)
        for i, s in enumerate(SHAPES)
    ],
)
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"w": 1, "sinks": 0},
        {"w": 2**63 - 1},
        {"w": -(2**63), "sinks": 2**62},
        {"kv_offset": -37},
        {"chunks": True},
        {"chunks": True, "c": 0},
        {"chunks": True, "c": 64, "far": float("inf"), "kv_offset": 11},
        {"chunks": True, "c": 2**40, "far": float("nan")},
        {"chunks": True, "c": -5, "far": 17.25},
    ],
    ids=str,
)
def test_results(ranges: attnlang.Variant, sizes: Sizes, values: dict[str, object]) -> None:
    g = torch.Generator().manual_seed(3)
    q, k, v = make_qkv(sizes, torch.float32, g)
    prefix = torch.randint(-3, 30, (sizes.b,), generator=g)
    if values.get("c") == 0:  # by 0 the reference raises; kernels give 0: one chunk
        found = ranges(q, k, v, prefix=prefix, **values)
        wanted = ranges(q, k, v, prefix=prefix, **{**values, "c": 2**40})
        torch.testing.assert_close(found, wanted)
        return
    assert_accurate(ranges, q, k, v, prefix=prefix, **values)


def test_tiles_of_two_ranges(ranges: attnlang.Variant) -> None:
    q, k, v = make_qkv(Sizes(1, 1, 1, 1024, 1024, D, D), torch.float32, torch.Generator())
    tiles = ranges.tiles(q, k, v, w=65, sinks=4, prefix=torch.zeros(1, dtype=torch.int32))
    # Row tile t: the sink's tile, and of the window tiles t - 1 and t, all crossed by an edge.
    assert (tiles.full, tiles.partial) == (0, 1 + 2 + 14 * 3)
    tiles = ranges.tiles(q, k, v, w=193, sinks=64, prefix=torch.zeros(1, dtype=torch.int32))
    full = sum(min(t, 2) + (t >= 3) for t in range(16))  # of the window, and the sinks
    partial = sum(1 + (t >= 4) for t in range(16))  # the diagonal, and the window's other edge
    assert (tiles.full, tiles.partial) == (full, partial)


@pytest.mark.parametrize("rows", [64, 4096])
def test_a_million_keys_cost_what_the_window_costs(window: attnlang.Variant, rows: int) -> None:
    n, w = 1_000_000, 1024
    g = torch.Generator().manual_seed(5)
    q = torch.randn(1, 1, rows, D, generator=g)
    k, v = (torch.randn(1, 1, n, D, generator=g) for _ in range(2))
    tiles = window.tiles(q, k, v, w=w)
    blocks = rows // 64
    assert tiles.visited == 17 * blocks
    assert tiles.full + tiles.partial + tiles.empty == -(-n // 64) * blocks
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out = window(q, k, v, w=w)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024, "KiB: the keys alone take 32 MiB, a mask of bits 0.5 GiB"
    seen = rows + w
    wanted = window.reference(
        q.double(), k[:, :, -seen:].double(), v[:, :, -seen:].double(), kv_offset=n - seen, w=w
    )
    torch.testing.assert_close(out.double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "meant"), [("kv_len", "`kv_lens`"), ("scal", None)])
def test_a_misspelt_keyword_is_told_one_that_is_taken(window, name, meant) -> None:
    q = torch.zeros(1, 1, 3, D)
    with pytest.raises(attnlang.CallError) as caught:
        window.tiles(q, q, q, 2, **{name: None})
    assert caught.value.help == (meant and f"a similar name exists: {meant}")
