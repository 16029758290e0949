"""Masks: what can be said of a tile without looking at its elements.

Maps a mask and the values of a call, for one (request, head), to a verdict for each tile: FULL (all
its elements are true), EMPTY (none is), UNKNOWN. Invariant: UNKNOWN is always safe; the other two
hold for every element of the tile that lies within the sequence, in float32 too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from attnlang.ir.nodes import (
    BOOL,
    Coord,
    Expr,
    Given,
    Scalar,
    Size,
)
from attnlang.symbolic.build import conjuncts
from attnlang.symbolic.evaluate import Leaf, evaluate
from attnlang.symbolic.mask_env import MaskEnv
from attnlang.symbolic.range_sets import RangeSet
from attnlang.symbolic.tile_form import for_tiles
from attnlang.symbolic.tile_ranges import tile_ranges
from attnlang.symbolic.tiles import TileEvaluator
from attnlang.symbolic.variability import variability
from attnlang.symbolic.verdicts import EMPTY, FULL, UNKNOWN, Bools

Array = npt.NDArray[Any]

__all__ = ["EMPTY", "FULL", "UNKNOWN", "MaskEnv", "brute_force", "split_mask", "tile_verdicts"]


def tile_verdicts(mask: Expr, env: MaskEnv, *, q_tile: int, kv_tile: int) -> npt.NDArray[np.int8]:
    """Return a verdict for each tile, [ceil(Q / q_tile), ceil(KV / kv_tile)].

    Three-valued interval evaluation, and the ranges of the closed form: nothing of the size
    Q x KV is built.
    """
    first_row = np.arange(0, env.q_len, q_tile).reshape(-1, 1)
    first_column = np.arange(0, env.kv_len, kv_tile).reshape(1, -1)
    rows = (first_row, np.minimum(first_row + q_tile, env.q_len) - 1)
    columns = (first_column, np.minimum(first_column + kv_tile, env.kv_len) - 1)
    shape = (first_row.size, first_column.size)
    if 0 in shape:
        return np.empty(shape, np.int8)
    value = TileEvaluator(env, rows, columns).value(for_tiles(mask))
    assert isinstance(value, Bools)
    verdicts = np.broadcast_to(value.verdict, shape).copy()
    edges = np.append(first_column.reshape(-1), env.kv_len)
    for line, coverage in zip(verdicts, tile_ranges(mask, env, tile=q_tile), strict=True):
        line[~_touched(coverage.may, edges)] = EMPTY
        line[_filled(coverage.must, edges)] = FULL
    return verdicts


def _touched(ranges: RangeSet, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return the tiles that hold a column of the ranges."""
    found = np.zeros(edges.size - 1, np.bool_)
    for begin, end in ranges:
        found[np.searchsorted(edges, begin, "right") - 1 : np.searchsorted(edges, end)] = True
    return found


def _filled(ranges: RangeSet, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return the tiles whose columns all lie in one range."""
    found = np.zeros(edges.size - 1, np.bool_)
    for begin, end in ranges:
        first, last = np.searchsorted(edges, begin), np.searchsorted(edges, end, "right") - 1
        found[first:last] = True
    return found


def split_mask(mask: Expr) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
    """Return the top-level conjuncts that read no row and no score, and the others.

    A key hidden by one of the first is hidden from every row: what k and v hold there may be NaN.
    What depends on the request alone is among them.
    """
    columns: list[Expr] = []
    rest: list[Expr] = []
    for term in conjuncts(mask):
        (rest if variability(term) & {"q", "raw"} else columns).append(term)
    return tuple(columns), tuple(rest)


def brute_force(mask: Expr, env: MaskEnv) -> npt.NDArray[np.bool_]:
    """Return the mask element by element, [Q, KV]: for pictures of small sizes, and to test by."""
    assert mask.type == BOOL
    rows = np.arange(env.q_len).reshape(-1, 1)
    columns = np.arange(env.kv_len).reshape(1, -1)

    def leaf(found: Leaf) -> object:
        match found:
            case Coord(name):
                return env.coordinate(name, rows, columns)
            case Size(name):
                return env.size(name)
            case Scalar(name):
                return env.scalars[name]
            case Given(name):
                return name in env.tensors
        raise ValueError(f"a mask that reads {type(found).__name__} has no value without q and k")

    def read(name: str, indices: tuple[Array, ...]) -> object:
        tensor = env.tensors[name]
        if tensor.size == 0:
            return 0
        limits = zip(indices, tensor.shape, strict=True)
        return tensor[tuple(np.clip(index, 0, extent - 1) for index, extent in limits)]

    return np.broadcast_to(evaluate(mask, leaf, read), (env.q_len, env.kv_len)).astype(np.bool_)
