"""Constant folding.

Floats fold in float64, ints exactly. What would raise in the reference (`1 // 0`), leave 64 bits or
give NaN stays as it is written.
"""

from __future__ import annotations

import math

from attnlang.ir.nodes import (
    INT,
    Binary,
    BinaryOp,
    Call,
    Cast,
    Compare,
    Const,
    Expr,
    Logic,
    Select,
    Unary,
)
from attnlang.ir.traverse import children
from attnlang.symbolic.build import const_of_kind
from attnlang.symbolic.evaluate import evaluate
from attnlang.symbolic.rules.rule import rule

_INT64 = range(-(2**63), 2**63)
_MAX_EXPONENT = 64  # of an int power: beyond it only 0, 1 and -1 stay within 64 bits
_EXACT_FLOAT = 2**53


def _no_leaf(*_: object) -> object:
    raise AssertionError("a constant expression has no leaf")


@rule("fold-constants")
def fold_constants(expr: Expr) -> Expr | None:
    """Compute an operation on constants: `2 * 3.5` is `7.0`."""
    if expr.type.vector or not isinstance(
        expr, Unary | Binary | Compare | Logic | Select | Cast | Call
    ):
        return None
    if not all(isinstance(c, Const) for c in children(expr)):
        return None
    if expr.type == INT and not isinstance(expr, Select):
        value: bool | int | float | None = _int_value(expr)
    else:
        value = _value(expr)
    return None if value is None else const_of_kind(value, expr.type.kind, expr.span)


def _value(expr: Expr) -> bool | int | float | None:
    if isinstance(expr, Binary) and expr.op in (BinaryOp.FLOORDIV, BinaryOp.MOD):
        assert isinstance(expr.right, Const)
        if expr.right.value == 0:
            return None
    value: bool | int | float = evaluate(expr, _no_leaf, _no_leaf).item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _int_value(expr: Expr) -> int | None:
    """Return the exact value of an int operation, or None where 64 bits do not hold it."""
    match expr:
        case Unary(_, Const(int(x))):
            value = -x
        case Binary(op, Const(int(x)), Const(int(y))):
            exact = _int_binary(op, x, y)
            if exact is None:
                return None
            value = exact
        case Cast(Const(float(x))):
            if not abs(x) < _EXACT_FLOAT:
                return None
            value = int(x)
        case Cast(Const(x)):
            value = int(x)
        case _ if any(c.value not in _INT64 for c in children(expr) if isinstance(c, Const)):
            return None
        case _:
            value = int(evaluate(expr, _no_leaf, _no_leaf))
    return value if value in _INT64 else None


def _int_binary(op: BinaryOp, x: int, y: int) -> int | None:
    match op:
        case BinaryOp.ADD:
            return x + y
        case BinaryOp.SUB:
            return x - y
        case BinaryOp.MUL:
            return x * y
        case BinaryOp.FLOORDIV:
            return x // y if y else None
        case BinaryOp.MOD:
            return x % y if y else None
        case BinaryOp.POW:
            if y < 0 or (y > _MAX_EXPONENT and abs(x) > 1):
                return None
            return int(x**y)
        case BinaryOp.DIV:
            return None


RULES = (fold_constants,)
