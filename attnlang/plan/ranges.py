"""How wide an int is: bounds of an IR int expression, for choosing 32-bit or 64-bit lanes.

Maps an expression to a closed interval of Python ints, all of 64 bits where it may wrap. Assumes
what the host checks before a kernel runs: sizes, rows and positions are below 2 ** 30 in magnitude.
A run-time int parameter may hold anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from attnlang.ir.nodes import (
    Anchor,
    Binary,
    BinaryOp,
    Call,
    Cast,
    Const,
    Coord,
    CoordName,
    Expr,
    Function,
    Kind,
    Load,
    Scalar,
    Select,
    Size,
    Unary,
)

INT64 = (-(2**63), 2**63 - 1)
INT32 = (-(2**31), 2**31 - 1)
POSITION_LIMIT = 2**30

Range = tuple[int, int]

_DTYPE_RANGES: Mapping[str, Range] = {
    "i8": (-(2**7), 2**7 - 1),
    "u8": (0, 2**8 - 1),
    "i16": (-(2**15), 2**15 - 1),
    "i32": INT32,
    "i64": INT64,
}


@dataclass(frozen=True, slots=True)
class Ranges:
    """Bounds of int expressions, given the dtypes of the tensor parameters."""

    dtypes: Mapping[str, str]

    def of(self, expr: Expr) -> Range:
        """Return bounds of an int expression; what may leave 64 bits wraps, to anywhere in them."""
        low, high = self._of(expr)
        return (low, high) if INT64[0] <= low and high <= INT64[1] else INT64

    def fits32(self, expr: Expr) -> bool:
        """Whether 32 bits hold every value of the expression."""
        low, high = self.of(expr)
        return INT32[0] <= low and high <= INT32[1]

    def _of(self, expr: Expr) -> Range:
        match expr:
            case Const(value=value):
                return int(value), int(value)
            case Coord(name=name) | Anchor(name=name):
                positions = name in (CoordName.Q_IDX, CoordName.KV_IDX)
                return (1 - POSITION_LIMIT if positions else 0), POSITION_LIMIT - 1
            case Size():
                return 0, POSITION_LIMIT - 1
            case Load(tensor=tensor):
                return _DTYPE_RANGES[self.dtypes[tensor]]
            case Unary(operand=operand):
                low, high = self.of(operand)
                return -high, -low
            case Binary():
                return self._binary(expr)
            case Select(then=then, otherwise=otherwise):
                return _hull(self.of(then), self.of(otherwise))
            case Cast(operand=operand):
                return (0, 1) if operand.type.kind == Kind.BOOL else INT64
            case Call():
                return self._call(expr)
            case Scalar():
                return INT64
            case _:
                return INT64

    def _binary(self, expr: Binary) -> Range:
        a, b = self.of(expr.left), self.of(expr.right)
        match expr.op:
            case BinaryOp.ADD:
                return a[0] + b[0], a[1] + b[1]
            case BinaryOp.SUB:
                return a[0] - b[1], a[1] - b[0]
            case BinaryOp.MUL:
                corners = [x * y for x in a for y in b]
                return min(corners), max(corners)
            case BinaryOp.FLOORDIV:
                # |a // b| <= |a|, but -1 // large is -1, and 0 // b is 0.
                size = max(abs(a[0]), abs(a[1]))
                if a[0] >= 0 and b[0] >= 0:
                    return 0, a[1]
                return -size, size
            case BinaryOp.MOD:
                if a[0] >= 0 and b[0] >= 0:
                    return 0, min(a[1], max(b[1] - 1, 0))
                return min(b[0] + 1, 0), max(b[1] - 1, 0)
            case BinaryOp.POW | BinaryOp.DIV:
                return INT64
            case _:
                assert_never(expr.op)

    def _call(self, expr: Call) -> Range:
        args = [self.of(a) for a in expr.args]
        match expr.function:
            case Function.ABS:
                low, high = args[0]
                return (0 if low <= 0 <= high else min(abs(low), abs(high))), max(
                    abs(low), abs(high)
                )
            case Function.MIN:
                return min(a[0] for a in args), min(a[1] for a in args)
            case Function.MAX:
                return max(a[0] for a in args), max(a[1] for a in args)
            case Function.CLAMP:
                x, low_, high_ = args
                return min(max(x[0], low_[0]), high_[0]), min(max(x[1], low_[1]), high_[1])
            case Function.SIGN:
                return -1, 1
            case _:
                return INT64


def _hull(a: Range, b: Range) -> Range:
    return min(a[0], b[0]), max(a[1], b[1])
