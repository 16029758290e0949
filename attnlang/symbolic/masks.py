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
from attnlang.symbolic.range_tree import Direction
from attnlang.symbolic.solve_mask import solve
from attnlang.symbolic.tile_form import for_tiles
from attnlang.symbolic.tile_ranges import evaluate as evaluate_ranges
from attnlang.symbolic.tiles import TileEvaluator
from attnlang.symbolic.variability import variability
from attnlang.symbolic.verdicts import EMPTY, FULL, UNKNOWN, Bools

Array = npt.NDArray[Any]

__all__ = [
    "EMPTY",
    "FULL",
    "UNKNOWN",
    "MaskEnv",
    "brute_force",
    "elements",
    "split_mask",
    "tile_verdicts",
    "verdicts_at",
    "verdicts_of",
]


def tile_verdicts(mask: Expr, env: MaskEnv, *, q_tile: int, kv_tile: int) -> npt.NDArray[np.int8]:
    """Return a verdict for each tile, [ceil(Q / q_tile), ceil(KV / kv_tile)].

    Three-valued interval evaluation, and the ranges of the closed form: nothing of the size
    Q x KV is built.
    """
    first_rows = np.arange(0, env.q_len, q_tile)
    first_columns = np.arange(0, env.kv_len, kv_tile)
    return verdicts_at(mask, env, (first_rows, q_tile), (first_columns, kv_tile))


def verdicts_at(
    mask: Expr, env: MaskEnv, rows: tuple[Array, int], columns: tuple[Array, int]
) -> npt.NDArray[np.int8]:
    """Return a verdict for each pair of a block of rows and one of columns, [blocks, blocks].

    Blocks are given by their first indices and their length; the ends of the sequence cut them.
    """
    shape = (rows[0].size, columns[0].size)
    if 0 in shape:
        return np.empty(shape, np.int8)
    row_extent, column_extent = (
        (first, np.minimum(first + length, limit) - 1)
        for (first, length), limit in ((rows, env.q_len), (columns, env.kv_len))
    )
    tall = (row_extent[0].reshape(-1, 1), row_extent[1].reshape(-1, 1))
    wide = (column_extent[0].reshape(1, -1), column_extent[1].reshape(1, -1))
    value = TileEvaluator(env, tall, wide).value(for_tiles(mask))
    assert isinstance(value, Bools)
    verdicts = np.broadcast_to(value.verdict, shape).copy()
    ranges = evaluate_ranges(solve(mask, Direction.KEYS), env, Direction.KEYS, row_extent)
    for line, coverage in zip(verdicts, ranges, strict=True):
        line[~_touched(coverage.may, *column_extent)] = EMPTY
        line[_filled(coverage.must, *column_extent)] = FULL
    return verdicts


def verdicts_of(
    mask: Expr, env: MaskEnv, rows: tuple[Array, Array], columns: tuple[Array, Array]
) -> npt.NDArray[np.int8]:
    """Return a verdict for each block of rows and the block of columns beside it, [blocks].

    Blocks are given by their first and last indices. The mask reads no tensor.
    """
    value = TileEvaluator(env, rows, columns).value(for_tiles(mask))
    assert isinstance(value, Bools)
    verdicts = np.broadcast_to(value.verdict, rows[0].shape).copy()
    ranges = evaluate_ranges(solve(mask, Direction.KEYS), env, Direction.KEYS, rows)
    for i, coverage in enumerate(ranges):
        block = columns[0][i : i + 1], columns[1][i : i + 1]
        if not _touched(coverage.may, *block)[0]:
            verdicts[i] = EMPTY
        elif _filled(coverage.must, *block)[0]:
            verdicts[i] = FULL
    return verdicts


def _touched(ranges: RangeSet, first: Array, last: Array) -> npt.NDArray[np.bool_]:
    """Return the blocks, sorted, that hold a column of the ranges."""
    found = np.zeros(first.size, np.bool_)
    for begin, end in ranges:
        found[np.searchsorted(last, begin) : np.searchsorted(first, end)] = True
    return found


def _filled(ranges: RangeSet, first: Array, last: Array) -> npt.NDArray[np.bool_]:
    """Return the blocks, sorted, whose columns all lie in one range."""
    found = np.zeros(first.size, np.bool_)
    for begin, end in ranges:
        found[np.searchsorted(first, begin) : np.searchsorted(last, end)] = True
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
    rows = np.arange(env.q_len).reshape(-1, 1)
    columns = np.arange(env.kv_len).reshape(1, -1)
    return elements(mask, env, rows, columns)


def elements(mask: Expr, env: MaskEnv, rows: Array, columns: Array) -> npt.NDArray[np.bool_]:
    """Return the mask at some rows and columns, which are broadcast against each other."""
    assert mask.type == BOOL

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

    shape = np.broadcast_shapes(rows.shape, columns.shape)
    return np.broadcast_to(evaluate(mask, leaf, read), shape).astype(np.bool_)
