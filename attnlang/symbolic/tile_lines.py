"""What is known of the lines of a mask in each tile of rows and columns.

Maps a line to the interval of its values over each tile, and two lines to whether they have a value
in common there, for all tiles at once. Linear (times a logarithm) in the rows and columns.
Invariant: bounds hold for the rows and columns that count; where none counts they mean nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from attnlang.ir.nodes import Coord, Expr, Given, Kind, Scalar, Size
from attnlang.symbolic import int_intervals as ints
from attnlang.symbolic.evaluate import Leaf, evaluate
from attnlang.symbolic.float_intervals import widened
from attnlang.symbolic.int_intervals import IntArray
from attnlang.symbolic.intervals import Value
from attnlang.symbolic.lines import Axis, Line, Pair
from attnlang.symbolic.mask_env import MaskEnv
from attnlang.symbolic.tile_reads import running
from attnlang.symbolic.verdicts import BoolArray, Bools

Array = npt.NDArray[Any]
Extent = tuple[IntArray, IntArray]  # the first and the last of each tile

_MAX_VALUES = 4096  # beyond it, values share a place in the sets that are compared
_MIX = 0x9E3779B97F4A7C15  # of tuples


class TileLines:
    """Judges lines over tiles of rows and columns."""

    def __init__(self, env: MaskEnv, rows: Extent, columns: Extent) -> None:
        self._env = env
        self._tiles = {Axis.ROW: rows, Axis.COLUMN: columns}
        self._known: dict[tuple[Axis, int], tuple[Expr, Array]] = {}

    def interval(self, line: Line) -> Value:
        """Return the interval, or the three-valued bool, of a line over each tile."""
        (expr,) = line.values
        values, counts = self._values(line.axis, expr), self._counts(line)
        first, last = self._tiles[line.axis]
        if expr.type.kind == Kind.FLOAT:
            nan = np.isnan(values)
            low = running(np.minimum, np.where(counts & ~nan, values, np.inf), first, last)
            high = running(np.maximum, np.where(counts & ~nan, values, -np.inf), first, last)
            some = running(np.maximum, counts & nan, first, last)
            none = low > high
            return widened(np.where(none, -np.inf, low), np.where(none, np.inf, high), some)
        values = values.astype(np.int64)
        limit = np.iinfo(np.int64)
        low = running(np.minimum, np.where(counts, values, limit.max), first, last)
        high = running(np.maximum, np.where(counts, values, limit.min), first, last)
        none = low > high
        low, high = np.where(none, 0, low), np.where(none, 0, high)
        return (
            Bools(high != 0, low == 0) if expr.type.kind == Kind.BOOL else ints.between(low, high)
        )

    def may_meet(self, pair: Pair) -> BoolArray:
        """Return for which tiles a row and a column that count have one value."""
        both = [self._tuples(line) for line in (pair.row, pair.column)]
        shared = np.intersect1d(both[0], both[1])
        rows, columns = (
            self._sets(line, np.searchsorted(shared, values), np.isin(values, shared))
            for line, values in zip((pair.row, pair.column), both, strict=True)
        )
        found = np.zeros((rows.shape[0], columns.shape[0]), np.bool_)
        for word in range(rows.shape[1]):
            found |= (rows[:, None, word] & columns[None, :, word]) != 0
        return found

    def _sets(self, line: Line, names: Array, named: BoolArray) -> Array:
        """Return the set of each tile as a row of words, a bit a value."""
        here = named & self._counts(line)
        first, last = (edge.reshape(-1) for edge in self._tiles[line.axis])
        words = min(_MAX_VALUES, int(names.max(initial=0)) + 1) // 64 + 1
        sets = np.zeros((first.size, words), np.uint64)
        for tile, (start, stop) in enumerate(zip(first, last + 1, strict=True)):
            places = np.unique(names[start:stop][here[start:stop]] % _MAX_VALUES)
            bits = np.uint64(1) << (places % 64).astype(np.uint64)
            np.bitwise_or.at(sets[tile], places // 64, bits)
        return sets

    def _tuples(self, line: Line) -> Array:
        """Return one int for each value, equal for equal tuples."""
        mixed = np.zeros((), np.uint64)
        with np.errstate(over="ignore"):
            for expr in line.values:
                mixed = (mixed * np.uint64(_MIX)) ^ (mixed >> np.uint64(29))
                mixed = mixed + self._values(line.axis, expr).astype(np.uint64)
        return mixed

    def _counts(self, line: Line) -> BoolArray:
        if line.guard is None:
            return np.ones(self._length(line.axis), np.bool_)
        return np.asarray(self._values(line.axis, line.guard), np.bool_)

    def _length(self, axis: Axis) -> int:
        return self._env.q_len if axis == Axis.ROW else self._env.kv_len

    def _values(self, axis: Axis, expr: Expr) -> Array:
        """Return the value of an expression for each row or each column."""
        if (axis, id(expr)) not in self._known:
            places = np.arange(self._length(axis))
            values = evaluate(expr, lambda leaf: self._leaf(leaf, places), self._read)
            self._known[axis, id(expr)] = expr, np.broadcast_to(values, places.shape)
        return self._known[axis, id(expr)][1]

    def _leaf(self, leaf: Leaf, places: Array) -> object:
        env = self._env
        match leaf:
            case Coord(name):
                return env.coordinate(name, places, places)
            case Size(name):
                return env.size(name)
            case Scalar(name, kind):
                return (
                    _in_float32(env.scalars[name]) if kind.kind == Kind.FLOAT else env.scalars[name]
                )
            case Given(name):
                return name in env.tensors
        raise AssertionError(f"{type(leaf).__name__} is not of a row or a column alone")

    def _read(self, name: str, indices: tuple[Array, ...]) -> object:
        tensor = self._env.tensors.get(name)
        if tensor is None or tensor.size == 0:
            return 0
        limits = zip(indices, tensor.shape, strict=True)
        found = tensor[tuple(np.clip(index, 0, extent - 1) for index, extent in limits)]
        return _in_float32(found) if np.issubdtype(found.dtype, np.floating) else found


def _in_float32(x: Any) -> Any:  # noqa: ANN401
    """Round as kernels do where they read a number."""
    return np.asarray(x, np.float32)
