"""The ranges of each block: a closed form, evaluated for the blocks of one (request, head).

Maps a mask and the values of a call to the ranges of key columns that each block of query rows may
keep and must keep, or to the ranges of rows of each block of columns. Linear in the number of
blocks; nothing of the size of the mask is built. Invariant: outside `may` every element of the
block is false, inside `must` every one is true, in float32 too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import numpy as np

from attnlang.ir.nodes import Expr
from attnlang.symbolic import range_sets as sets
from attnlang.symbolic.int_intervals import IntArray, Ints
from attnlang.symbolic.mask_env import MaskEnv
from attnlang.symbolic.range_sets import EVERYTHING, NOTHING, RangeSet
from attnlang.symbolic.range_tree import (
    Complement,
    Condition,
    Direction,
    Guarded,
    HalfLine,
    Intersection,
    Side,
    Tree,
    Union,
    Unsolved,
    parts_of,
)
from attnlang.symbolic.solve_mask import solve
from attnlang.symbolic.tiles import TileEvaluator
from attnlang.symbolic.verdicts import EMPTY, FULL, Bools


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a block may keep, and what it must keep: indices in the tensors."""

    may: RangeSet
    must: RangeSet

    def __and__(self, other: Coverage) -> Coverage:
        """Where both hold."""
        return Coverage(sets.intersect(self.may, other.may), sets.intersect(self.must, other.must))

    def __or__(self, other: Coverage) -> Coverage:
        """Where one of them holds."""
        return Coverage(sets.unite(self.may, other.may), sets.unite(self.must, other.must))

    def __invert__(self) -> Coverage:
        """Where it does not hold."""
        return Coverage(sets.complement(self.must), sets.complement(self.may))


_ALL, _NONE, _UNKNOWN = (
    Coverage(EVERYTHING, EVERYTHING),
    Coverage(NOTHING, NOTHING),
    Coverage(EVERYTHING, NOTHING),
)


def tile_ranges(
    mask: Expr, env: MaskEnv, *, tile: int, direction: Direction = Direction.KEYS
) -> tuple[Coverage, ...]:
    """Return the ranges of each block of `tile` rows (of columns, solving for rows)."""
    blocks, extent = env.q_len, env.kv_len
    if direction == Direction.ROWS:
        blocks, extent = extent, blocks
    first = np.arange(0, blocks, tile)
    last = np.minimum(first + tile, blocks) - 1
    inside = Coverage(((0, extent),), ((0, extent),)) if extent else _NONE
    found = evaluate(solve(mask, direction), env, direction, (first, last))
    return tuple(coverage & inside for coverage in found)


def evaluate(
    tree: Tree, env: MaskEnv, direction: Direction, blocks: tuple[IntArray, IntArray]
) -> list[Coverage]:
    """Return what a closed form is for blocks of rows (or columns) `[first, last]`."""
    nowhere = (np.zeros(1, np.int64), np.zeros(1, np.int64))  # no bound reads the solved coordinate
    extents = (blocks, nowhere) if direction == Direction.KEYS else (nowhere, blocks)
    values = TileEvaluator(env, *extents)
    count = blocks[0].size
    leaves: dict[int, list[Coverage]] = {}

    def prepare(node: Tree) -> None:
        match node:
            case HalfLine(coord, side, bound):
                interval = values.value(bound)
                assert isinstance(interval, Ints)
                offset = _offset(env, direction) if coord == direction.position else 0
                leaves[id(node)] = _half_lines(side, interval, offset, count)
            case Condition(expr) | Guarded(expr, _):
                verdict = values.value(expr)
                assert isinstance(verdict, Bools)
                known = {int(EMPTY): _NONE, int(FULL): _ALL}
                each = np.broadcast_to(verdict.verdict, (count,)).tolist()
                leaves[id(node)] = [known.get(v, _UNKNOWN) for v in each]
        for part in parts_of(node):
            prepare(part)

    prepare(tree)
    return [_of_block(tree, leaves, i) for i in range(count)]


def _offset(env: MaskEnv, direction: Direction) -> int:
    return env.kv_offset if direction == Direction.KEYS else env.q_offset


def _half_lines(side: Side, bound: Ints, offset: int, count: int) -> list[Coverage]:
    low, high = (np.broadcast_to(x, (count,)).tolist() for x in (bound.low, bound.high))
    half = sets.at_least if side == Side.LEAST else sets.at_most
    generous, strict = (low, high) if side == Side.LEAST else (high, low)
    return [
        Coverage(half(may - offset), half(must - offset))
        for may, must in zip(generous, strict, strict=True)
    ]


def _of_block(tree: Tree, leaves: dict[int, list[Coverage]], i: int) -> Coverage:
    match tree:
        case HalfLine() | Condition():
            return leaves[id(tree)][i]
        case Unsolved():
            return _UNKNOWN
        case Guarded(_, part):
            return _of_block(part, leaves, i) if leaves[id(tree)][i] == _ALL else _UNKNOWN
        case Complement(part):
            return ~_of_block(part, leaves, i)
        case Union(parts):
            result = _NONE
            for part in parts:
                result = result | _of_block(part, leaves, i)
            return result
        case Intersection(parts):
            result = _ALL
            for part in parts:
                result = result & _of_block(part, leaves, i)
            return result
        case _:
            assert_never(tree)
