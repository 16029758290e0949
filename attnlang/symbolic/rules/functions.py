"""Identities of the functions."""

from __future__ import annotations

import math
from dataclasses import replace

from attnlang.ir.nodes import Call, Cast, Expr, Function, Kind, Unary, UnaryOp
from attnlang.symbolic.build import is_float, value_of
from attnlang.symbolic.rules.rule import rule

_EXTREMES = {Function.MIN: math.inf, Function.MAX: -math.inf}  # the neutral elements
_TO_INTEGER = (Function.FLOOR, Function.CEIL, Function.ROUND)


@rule("min-max")
def min_max(expr: Expr) -> Expr | None:
    """`min` and `max` lose nested calls, repeated arguments and `inf`; of one argument it is it."""
    match expr:
        case Call(Function.MIN | Function.MAX as function, args):
            flat: list[Expr] = []
            for arg in args:
                nested = isinstance(arg, Call) and arg.function == function
                for x in arg.args if isinstance(arg, Call) and nested else (arg,):
                    if not is_float(x, _EXTREMES[function]) and x not in flat:
                        flat.append(x)
            if not flat:
                return args[0]
            if len(flat) == 1:
                return flat[0]
            return None if tuple(flat) == args else replace(expr, args=tuple(flat))
    return None


@rule("clamp-open")
def clamp_open(expr: Expr) -> Expr | None:
    """`clamp(x, -inf, inf)` is `x`; with one infinite bound it is `max` or `min`."""
    match expr:
        case Call(Function.CLAMP, (x, low, high)):
            no_low, no_high = is_float(low, -math.inf), is_float(high, math.inf)
            if no_low and no_high:
                return x
            if no_low:
                return replace(expr, function=Function.MIN, args=(x, high))
            if no_high:
                return replace(expr, function=Function.MAX, args=(x, low))
    return None


@rule("abs-of-sign")
def abs_of_sign(expr: Expr) -> Expr | None:
    """`abs(-x)` and `abs(abs(x))` are `abs(x)`; `relu(relu(x))` is `relu(x)`."""
    match expr:
        case Call(Function.ABS, (Unary(UnaryOp.NEG, x),)):
            return replace(expr, args=(x,))
        case Call(Function.ABS | Function.RELU as function, (Call(inner, _) as x,)) if (
            inner == function
        ):
            return x
    return None


@rule("whole-number")
def whole_number(expr: Expr) -> Expr | None:
    """`floor`, `ceil` and `round` of an int, or of their own result, change nothing."""
    match expr:
        case Call(function, (Cast(n, _) as x,)) if (
            function in _TO_INTEGER and n.type.kind == Kind.INT
        ):
            return x
        case Call(function, (Call(inner, _) as x,)) if (
            function in _TO_INTEGER and inner in _TO_INTEGER
        ):
            return x
    return None


@rule("clamp-point")
def clamp_point(expr: Expr) -> Expr | None:
    """`clamp(clamp(x, a, b), a, b)` is `clamp(x, a, b)`."""
    match expr:
        case Call(Function.CLAMP, (Call(Function.CLAMP, (_, low, high)) as x, a, b)) if (
            a == low and b == high and value_of(a) is not None and value_of(b) is not None
        ):
            return x
    return None


RULES = (min_max, clamp_open, abs_of_sign, whole_number, clamp_point)
