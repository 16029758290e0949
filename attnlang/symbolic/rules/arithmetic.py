"""Identities of arithmetic.

Floats follow IEEE but for the sign of zero: `x * 0` and `x - x` are left alone, for x may be NaN
or infinite.
"""

from __future__ import annotations

from dataclasses import replace

from attnlang.ir.nodes import (
    Binary,
    BinaryOp,
    Cast,
    Expr,
    Kind,
    Unary,
    UnaryOp,
)
from attnlang.symbolic.build import binary, const, is_float, is_int, negate, value_of
from attnlang.symbolic.rules.rule import rule


def _is(expr: Expr, value: int) -> bool:
    return is_int(expr, value) or is_float(expr, value)


@rule("add-zero")
def add_zero(expr: Expr) -> Expr | None:
    """`x + 0`, `0 + x` and `x - 0` are `x`; `0 - x` is `-x`."""
    match expr:
        case Binary(BinaryOp.ADD | BinaryOp.SUB, x, y) if _is(y, 0):
            return x
        case Binary(BinaryOp.ADD, x, y) if _is(x, 0):
            return y
        case Binary(BinaryOp.SUB, x, y) if _is(x, 0):
            return negate(y)
    return None


@rule("multiply-one")
def multiply_one(expr: Expr) -> Expr | None:
    """`x * 1`, `1 * x`, `x / 1` and `x // 1` of an int are `x`; `x * -1` is `-x`."""
    match expr:
        case Binary(BinaryOp.MUL | BinaryOp.DIV, x, y) if _is(y, 1):
            return x
        case Binary(BinaryOp.FLOORDIV, x, y) if is_int(y, 1):
            return x
        case Binary(BinaryOp.MUL, x, y) if _is(x, 1):
            return y
        case Binary(BinaryOp.MUL | BinaryOp.DIV, x, y) if _is(y, -1):
            return negate(x)
        case Binary(BinaryOp.MUL, x, y) if _is(x, -1):
            return negate(y)
    return None


@rule("int-zero")
def int_zero(expr: Expr) -> Expr | None:
    """Of ints: `0 * x`, `x - x`, `x % 1`, `0 % x` and `0 // x` are 0."""
    if not isinstance(expr, Binary) or expr.type.kind != Kind.INT or expr.type.vector:
        return None
    match expr:
        case Binary(BinaryOp.MUL, x, y) if is_int(x, 0) or is_int(y, 0):
            return const(0, expr.span)
        case Binary(BinaryOp.SUB, x, y) if x == y:
            return const(0, expr.span)
        case Binary(BinaryOp.MOD, _, y) if is_int(y, 1):
            return const(0, expr.span)
        case Binary(BinaryOp.MOD | BinaryOp.FLOORDIV, x, _) if is_int(x, 0):
            return const(0, expr.span)
    return None


@rule("power")
def power(expr: Expr) -> Expr | None:
    """`x ** 1` is `x`, `x ** 0` is 1 (of 0 and NaN too), `x ** 2` is `x * x`."""
    match expr:
        case Binary(BinaryOp.POW, x, y):
            match value_of(y):
                case 0 if not expr.type.vector:
                    return const(1.0 if expr.type.kind == Kind.FLOAT else 1, expr.span)
                case 1:
                    return x
                case 2:
                    return binary(BinaryOp.MUL, x, x, expr.span)
    return None


@rule("double-negation")
def double_negation(expr: Expr) -> Expr | None:
    """`-(-x)` is `x`; `x + (-y)` is `x - y`, `x - (-y)` is `x + y`, `(-x) + y` is `y - x`."""
    match expr:
        case Unary(UnaryOp.NEG, Unary(UnaryOp.NEG, x)):
            return x
        case Binary(BinaryOp.ADD, x, Unary(UnaryOp.NEG, y)):
            return replace(expr, op=BinaryOp.SUB, right=y)
        case Binary(BinaryOp.SUB, x, Unary(UnaryOp.NEG, y)):
            return replace(expr, op=BinaryOp.ADD, right=y)
        case Binary(BinaryOp.ADD, Unary(UnaryOp.NEG, x), y):
            return replace(expr, op=BinaryOp.SUB, left=y, right=x)
    return None


@rule("negated-difference")
def negated_difference(expr: Expr) -> Expr | None:
    """`-(x - y)` is `y - x`."""
    match expr:
        case Unary(UnaryOp.NEG, Binary(BinaryOp.SUB, x, y)):
            return binary(BinaryOp.SUB, y, x, expr.span)
    return None


@rule("cast-twice")
def cast_twice(expr: Expr) -> Expr | None:
    """`int(float(n))` is `n` for an int; a cast to the type that is there already is none."""
    match expr:
        case Cast(x, kind) if x.type == kind:
            return x
        case Cast(Cast(x, inner), kind) if x.type == kind and (
            (kind.kind, inner.kind) == (Kind.INT, Kind.FLOAT)
        ):
            return x
    return None


RULES = (
    add_zero,
    multiply_one,
    int_zero,
    power,
    double_negation,
    negated_difference,
    cast_twice,
)
