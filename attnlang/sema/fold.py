"""The value of an expression whose operands are constants, in Python's numbers.

Integers are 64-bit: a value beyond them is `Overflow`, found before it is computed. What has no
value (a division by zero, a logarithm of -1) is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt, ne
from typing import Final, TypeVar

from attnlang.ir import nodes as ir

Number = bool | int | float
N = TypeVar("N", int, float)

MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Overflow:
    """An int that 64 bits cannot hold."""


OVERFLOW: Final = Overflow()


def fold(expr: ir.Expr, operands: Sequence[Number | None]) -> Number | Overflow | None:
    """Return the value of an expression whose children have the values `operands`."""
    if isinstance(expr, ir.Const):
        return expr.value
    if expr.type.vector or not operands:
        return None
    known = [v for v in operands if v is not None]
    if len(known) < len(operands):
        return None
    try:
        value = _apply(expr, known)
    except (ArithmeticError, ValueError):
        return None
    if type(value) is int and not MIN_INT <= value <= MAX_INT:
        return OVERFLOW
    return value


def _apply(expr: ir.Expr, x: Sequence[Number]) -> Number | Overflow | None:
    match expr:
        case ir.Unary(ir.UnaryOp.NEG, _):
            return -x[0]
        case ir.Unary(ir.UnaryOp.NOT, _):
            return not x[0]
        case ir.Binary(ir.BinaryOp.POW, _, _):
            return _power(x[0], x[1])
        case ir.Binary(op, _, _):
            return _BINARY[op](x[0], x[1])
        case ir.Compare(op, _, _):
            return _COMPARE[op](x[0], x[1])
        case ir.Logic(op, _, _):
            return (x[0] and x[1]) if op == ir.LogicOp.AND else (x[0] or x[1])
        case ir.Select():
            return x[1] if x[0] else x[2]
        case ir.Cast(_, type_):
            return float(x[0]) if type_.kind == ir.Kind.FLOAT else int(x[0])
        case ir.Call(function, _):
            return _call(function, x)
        case _:
            return None


def _power(base: Number, exponent: Number) -> Number | Overflow | None:
    if isinstance(base, int) and isinstance(exponent, int):
        if exponent < 0:
            return float(base) ** exponent
        if abs(base) > 1 and exponent >= 64:
            return OVERFLOW
        return int(base**exponent)
    return math.pow(base, exponent)


def _call(function: ir.Function, x: Sequence[Number]) -> Number | None:
    match function:
        case ir.Function.MIN:
            return min(x)
        case ir.Function.MAX:
            return max(x)
        case ir.Function.CLAMP:
            return min(max(x[0], x[1]), x[2])
        case ir.Function.BIT:
            return bool(int(x[0]) >> min(max(int(x[1]), 0), 63) & 1)
        case ir.Function.ABS:
            return abs(x[0])
        case ir.Function.SIGN:
            return type(x[0])((x[0] > 0) - (x[0] < 0))
        case _:
            return _FLOAT[function](float(x[0]))


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


_BINARY: Final[dict[ir.BinaryOp, Callable[[Number, Number], Number]]] = {
    ir.BinaryOp.ADD: lambda x, y: x + y,
    ir.BinaryOp.SUB: lambda x, y: x - y,
    ir.BinaryOp.MUL: lambda x, y: x * y,
    ir.BinaryOp.DIV: lambda x, y: x / y,
    ir.BinaryOp.FLOORDIV: lambda x, y: x // y,
    ir.BinaryOp.MOD: lambda x, y: x % y,
}

_COMPARE: Final[dict[ir.CompareOp, Callable[[Number, Number], bool]]] = {
    ir.CompareOp.EQ: eq,
    ir.CompareOp.NE: ne,
    ir.CompareOp.LT: lt,
    ir.CompareOp.LE: le,
    ir.CompareOp.GT: gt,
    ir.CompareOp.GE: ge,
}

_FLOAT: Final[dict[ir.Function, Callable[[float], float]]] = {
    ir.Function.FLOOR: lambda x: float(math.floor(x)),
    ir.Function.CEIL: lambda x: float(math.ceil(x)),
    ir.Function.ROUND: lambda x: float(round(x)),
    ir.Function.SQRT: math.sqrt,
    ir.Function.RSQRT: lambda x: 1.0 / math.sqrt(x),
    ir.Function.EXP: math.exp,
    ir.Function.EXP2: lambda x: math.pow(2.0, x),
    ir.Function.LOG: math.log,
    ir.Function.LOG2: math.log2,
    ir.Function.LOG1P: math.log1p,
    ir.Function.SIN: math.sin,
    ir.Function.COS: math.cos,
    ir.Function.TANH: math.tanh,
    ir.Function.SIGMOID: _sigmoid,
    ir.Function.SOFTPLUS: _softplus,
    ir.Function.RELU: lambda x: max(x, 0.0),
    ir.Function.GELU: lambda x: 0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0))),
    ir.Function.SILU: lambda x: x * _sigmoid(x),
    ir.Function.ERF: math.erf,
}
