"""Interval evaluation of an expression over all tiles of one (request, head).

Maps an IR expression to an interval of ints or floats, or a three-valued bool, for each tile.
Invariant: the interval holds the value of every element of the tile, guarded or not.
"""

from __future__ import annotations

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
from attnlang.ir.traverse import children, walk
from attnlang.symbolic import float_intervals as floats
from attnlang.symbolic import int_intervals as ints
from attnlang.symbolic import intervals
from attnlang.symbolic import verdicts as bools
from attnlang.symbolic.int_intervals import IntArray, Ints
from attnlang.symbolic.intervals import Value
from attnlang.symbolic.mask_env import MaskEnv
from attnlang.symbolic.verdicts import Bools

Array = npt.NDArray[Any]
Extent = tuple[IntArray, IntArray]  # the first and the last of each tile


class TileEvaluator:
    """Evaluates expressions over tiles of rows and columns."""

    def __init__(self, env: MaskEnv, rows: Extent, columns: Extent) -> None:
        self._env, self._rows, self._columns = env, rows, columns

    def value(self, expr: Expr) -> Value:
        """Return the interval or the three-valued bool of an expression for each tile."""
        values: dict[int, Value] = {}
        for node in walk(expr):
            values[id(node)] = self._node(node, [values[id(c)] for c in children(node)])
        return values[id(expr)]

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
                assert isinstance(x[0], Bools)
                assert isinstance(x[1], Bools)
                join = bools.conjunction if op == LogicOp.AND else bools.disjunction
                return join(x[0], x[1])
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
