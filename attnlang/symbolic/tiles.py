"""Interval evaluation of an expression over all tiles of one (request, head).

Maps an IR expression to an interval of ints or floats, or a three-valued bool, for each tile.
Invariant: the interval holds the value of every element of the tile, guarded or not.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from attnlang.ir.nodes import (
    QK,
    Anchor,
    Binary,
    Call,
    CallScale,
    Cast,
    Compare,
    CompareOp,
    Const,
    Coord,
    Dot,
    Expr,
    Given,
    L2Norm,
    Load,
    Logic,
    LogicOp,
    Lse,
    Raw,
    RmsNorm,
    Rope,
    RowSum,
    Scalar,
    Select,
    Size,
    Slice,
    Unary,
    Vector,
)
from attnlang.ir.traverse import children
from attnlang.symbolic import float_intervals as floats
from attnlang.symbolic import int_intervals as ints
from attnlang.symbolic import intervals
from attnlang.symbolic import verdicts as bools
from attnlang.symbolic.int_intervals import Ints
from attnlang.symbolic.intervals import Value
from attnlang.symbolic.lines import Domain, Lines, Part
from attnlang.symbolic.mask_env import MaskEnv
from attnlang.symbolic.tile_lines import Extent, TileLines
from attnlang.symbolic.verdicts import Bools

Array = npt.NDArray[Any]


class TileEvaluator:
    """Evaluates expressions over tiles of rows and columns."""

    def __init__(self, env: MaskEnv, rows: Extent, columns: Extent) -> None:
        self._env, self._rows, self._columns = env, rows, columns
        self._lines, self._tile_lines = Lines(), TileLines(env, rows, columns)

    def value(self, expr: Expr) -> Value:
        """Return the interval or the three-valued bool of an expression for each tile."""
        root = Part(expr, Domain())
        values: dict[tuple[int, int], Value] = {}
        operands: dict[tuple[int, int], tuple[Part, ...]] = {}  # parts, so that their ids stay
        stack = [root]
        while stack:
            part = stack[-1]
            at = _key(part)
            if at not in operands:
                operands[at] = self._operands(part)
                stack += operands[at]
                continue
            if at not in values:
                values[at] = self._part(part, [values[_key(p)] for p in operands[at]])
            stack.pop()
        return values[_key(root)]

    def _operands(self, part: Part) -> tuple[Part, ...]:
        """Return what must be known first: nothing below a line."""
        expr, domain = part.expr, part.domain
        if self._lines.line(expr, domain) or self._lines.pair(expr, domain):
            return ()
        if isinstance(expr, Logic):
            return self._lines.parts(expr, domain)
        return tuple(Part(child, domain) for child in children(expr))

    def _part(self, part: Part, x: list[Value]) -> Value:
        """Judge a part, whose operands are known."""
        value = self._line(part)
        if value is None:
            value = self._node(part.expr, x)
        known = self._lines.known_pair(part.expr, part.domain)
        if known is None:
            return value
        assert isinstance(value, Bools)
        return Bools(value.true & self._tile_lines.may_meet(known), value.false)

    def _line(self, part: Part) -> Value | None:
        """Judge a line, or a comparison of two."""
        line = self._lines.line(part.expr, part.domain)
        if line is not None:
            return self._tile_lines.interval(line)
        pair = self._lines.pair(part.expr, part.domain)
        if pair is None:
            return None
        assert isinstance(part.expr, Compare)
        sides = (self._tile_lines.interval(side) for side in (pair.row, pair.column))
        equal = intervals.compare(CompareOp.EQ, *sides)
        equal = Bools(equal.true & self._tile_lines.may_meet(pair), equal.false)
        return equal if part.expr.op == CompareOp.EQ else bools.negation(equal)

    def _node(self, expr: Expr, x: list[Value]) -> Value:
        match expr:
            case Const(value):
                return intervals.point(value)
            case Scalar(name, kind):
                return intervals.cast(intervals.point(self._env.scalars[name]), kind.kind)
            case Size(name):
                return ints.point(self._env.size(name))
            case Coord(name):
                low, high = (
                    np.asarray(self._env.coordinate(name, self._rows[i], self._columns[i]))
                    for i in (0, 1)
                )
                return ints.between(low, high)
            case Given(name):
                return bools.point(name in self._env.tensors)
            case Load(tensor):
                return self._read(expr, self._env.tensors.get(tensor), x)
            case Unary(op):
                return intervals.unary(op, x[0])
            case Binary(op):
                return intervals.binary(op, expr, x[0], x[1])
            case Compare(op):
                return intervals.compare(op, x[0], x[1])
            case Logic(op, _, _):
                join = bools.conjunction if op == LogicOp.AND else bools.disjunction
                return reduce(join, [operand for operand in x if isinstance(operand, Bools)])
            case Select():
                return intervals.select(*x)
            case Cast(_, kind):
                return intervals.cast(x[0], kind.kind)
            case Call(function):
                return intervals.call(function, x, expr.type.kind)
            case Anchor():
                return ints.anything()
            case CallScale() | Raw() | QK() | RowSum() | Lse():
                return floats.anything()
            case Vector() | Slice() | RmsNorm() | L2Norm() | Rope() | Dot():
                return floats.anything()
            case _:
                assert_never(expr)

    def _read(self, expr: Load, tensor: Array | None, indices: list[Value]) -> Value:
        if tensor is None:
            return intervals.anything(expr.type.kind)
        boxes = tuple(i for i in indices if isinstance(i, Ints))
        assert len(boxes) == len(indices) == tensor.ndim
        return intervals.read(tensor, boxes, expr.type.kind)


def _key(part: Part) -> tuple[int, int]:
    return id(part.expr), id(part.domain)
