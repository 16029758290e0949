"""Interval arithmetic whose ends are expressions over the call.

Maps the bounds of operands to those of the result, by what is known of signs (`symbolic.signs`).
Invariant: real numbers within the operands' bounds give one within the result's; an end is None
where nothing bounds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from attnlang.ir.nodes import (
    FLOAT,
    INT,
    Binary,
    BinaryOp,
    Call,
    Cast,
    Const,
    Expr,
    Function,
    Kind,
)
from attnlang.symbolic.build import binary, const, is_float, negate, value_of
from attnlang.symbolic.signs import Signs
from attnlang.symbolic.simplify import Simplifier

_INCREASING = (
    Function.FLOOR,
    Function.CEIL,
    Function.ROUND,
    Function.SQRT,
    Function.EXP,
    Function.EXP2,
    Function.LOG,
    Function.LOG2,
    Function.LOG1P,
    Function.SOFTPLUS,
    Function.RELU,
)
_LEAST = {  # of the functions that have a least value
    Function.ABS: 0.0,
    Function.SQRT: 0.0,
    Function.EXP: 0.0,
    Function.EXP2: 0.0,
    Function.SOFTPLUS: 0.0,
    Function.RELU: 0.0,
    Function.SIGMOID: 0.0,
    Function.SILU: -0.2784645427610738,
    Function.GELU: -0.16997120747990369,
}
_IN_UNIT = (Function.TANH, Function.ERF, Function.SIN, Function.COS, Function.SIGN)


@dataclass(frozen=True, slots=True)
class Bounds:
    """An interval; an end is an expression over the call, or None where nothing bounds it."""

    low: Expr | None
    high: Expr | None

    @property
    def is_known(self) -> bool:
        """Whether both ends are known."""
        return self.low is not None and self.high is not None


UNKNOWN = Bounds(None, None)


@dataclass(frozen=True, slots=True)
class BoundArithmetic:
    """The operations, under what is known of signs."""

    signs: Signs

    def arithmetic(self, expr: Binary, op: BinaryOp, x: Bounds, y: Bounds) -> Bounds:
        """Bound an arithmetic node."""

        def end(a: Expr | None, b: Expr | None) -> Expr | None:
            return None if a is None or b is None else binary(op, a, b, expr.span)

        match op:
            case BinaryOp.ADD:
                return Bounds(end(x.low, y.low), end(x.high, y.high))
            case BinaryOp.SUB:
                return Bounds(end(x.low, y.high), end(x.high, y.low))
            case BinaryOp.MUL:
                return self._product(expr, x, y)
            case BinaryOp.DIV:
                return self._quotient(expr, x, y)
            case BinaryOp.POW:
                return self._power(expr, x)
            case BinaryOp.MOD if expr.type == INT and y.high is not None:
                if y.low is not None and self.signs.is_positive(y.low):
                    last = binary(BinaryOp.SUB, y.high, const(1, expr.span), expr.span)
                    return Bounds(const(0, expr.span), last)
        return UNKNOWN

    def _product(self, expr: Binary, x: Bounds, y: Bounds) -> Bounds:
        def times(a: Expr | None, b: Expr | None) -> Expr | None:
            if a is None or b is None:
                return None
            zero = next((end for end in (a, b) if value_of(end) == 0), None)
            return zero or binary(BinaryOp.MUL, a, b, expr.span)

        if expr.left == expr.right:
            size = self.magnitude(x)
            return Bounds(_number(0, expr), times(size, size))
        for a, b in ((x, y), (y, x)):
            if self._is_not_negative(a):
                low = b.low if self._is_not_negative(b) else None
                if a.low is not None and a.low == a.high:
                    return Bounds(times(a.low, b.low), times(a.low, b.high))
                if low is not None:
                    return Bounds(times(a.low, low), times(a.high, b.high))
            elif a.low is not None and a.low == a.high and self.signs.is_not_positive(a.low):
                return Bounds(times(a.low, b.high), times(a.low, b.low))
        size = times(self.magnitude(x), self.magnitude(y))
        return UNKNOWN if size is None else symmetric(size)

    def _quotient(self, expr: Binary, x: Bounds, y: Bounds) -> Bounds:
        """Bound `x / y` by the least magnitude of y."""
        below = self._least_magnitude(y)
        if below is None:
            return UNKNOWN

        def over(a: Expr | None) -> Expr | None:
            return None if a is None else binary(BinaryOp.DIV, a, below, expr.span)

        if y.low is not None and y.low == y.high and self.signs.is_positive(y.low):
            return Bounds(over(x.low), over(x.high))
        if self._is_not_negative(x) and self._is_not_negative(y):
            return Bounds(_number(0, expr), over(x.high))
        size = over(self.magnitude(x))
        return UNKNOWN if size is None else symmetric(size)

    def _least_magnitude(self, y: Bounds) -> Expr | None:
        if y.low is None:
            return None
        if self.signs.is_positive(y.low):
            return y.low
        return applied(Function.ABS, y.low) if y.low == y.high else None

    def _power(self, expr: Binary, x: Bounds) -> Bounds:
        n, size = value_of(expr.right), self.magnitude(x)
        if n is None or n < 1 or n != int(n):
            return UNKNOWN
        if size is None:
            return Bounds(_number(0, expr), None) if n % 2 == 0 else UNKNOWN
        top = Binary(BinaryOp.POW, size, expr.right, expr.type, span=expr.span)
        if n % 2 == 0 or self._is_not_negative(x):
            return Bounds(_number(0, expr), top)
        return symmetric(top)

    def magnitude(self, x: Bounds) -> Expr | None:
        """Return an upper bound of `abs(x)`."""
        if x.low is None or x.high is None:
            return None
        if self.signs.is_not_negative(x.low):
            return x.high
        if x.low == x.high:
            return applied(Function.ABS, x.low)
        if x.low == negate(x.high):
            return x.high
        return applied(Function.MAX, negate(x.low), x.high)

    def _is_not_negative(self, x: Bounds) -> bool:
        return x.low is not None and self.signs.is_not_negative(x.low)

    def call(self, expr: Call, function: Function, x: list[Bounds]) -> Bounds:
        """Bound an elementwise function."""
        if function in _IN_UNIT:
            return between(0 if self._is_not_negative(x[0]) and _is_odd(function) else -1, 1, expr)
        match function:
            case Function.SIGMOID:
                return between(0, 1, expr)
            case Function.ABS:
                return Bounds(_number(0, expr), self.magnitude(x[0]))
            case Function.SILU | Function.GELU:
                high = x[0].high
                top = None if high is None else applied(Function.RELU, high)
                return Bounds(const(_LEAST[function], expr.span), top)
            case Function.MIN:
                if all(map(self._is_not_negative, x)) and any(_is_zero(b.low) for b in x):
                    return Bounds(_number(0, expr), _some(function, x, _high))
                return Bounds(_all_of(function, [b.low for b in x]), _some(function, x, _high))
            case Function.MAX:
                return Bounds(_some(function, x, _low), _all_of(function, [b.high for b in x]))
            case Function.CLAMP:
                return self._clamp(*x)
            case _ if function in _INCREASING:
                low, high = (
                    None if e is None else applied(function, e) for e in (x[0].low, x[0].high)
                )
                if low is None and function in _LEAST:
                    low = const(_LEAST[function], expr.span)
                return Bounds(low, high)
        return UNKNOWN

    def _clamp(self, x: Bounds, low: Bounds, high: Bounds) -> Bounds:
        """Bound `min(max(x, low), high)`: by the limits alone where they are in order."""
        least = _some(Function.MAX, [x, low], _low)
        bottom = _all_of(Function.MIN, [least, high.low])
        if least is not None and least == low.low and high.low is not None:
            room = binary(BinaryOp.SUB, high.low, least, least.span)
            if self.signs.is_not_negative(Simplifier().simplify(room)):
                bottom = least
        above = _all_of(Function.MAX, [x.high, low.high])
        return Bounds(bottom, _some(Function.MIN, [Bounds(above, above), high], _high))


def _is_odd(function: Function) -> bool:
    return function in (Function.TANH, Function.ERF, Function.SIGN)


def _is_zero(end: Expr | None) -> bool:
    return end is not None and value_of(end) == 0


def _low(x: Bounds) -> Expr | None:
    return x.low


def _high(x: Bounds) -> Expr | None:
    return x.high


def _some(
    function: Function, x: list[Bounds], pick: Callable[[Bounds], Expr | None]
) -> Expr | None:
    """Return the `min` or `max` of the ends that are known: any of them is a bound."""
    ends = [end for end in map(pick, x) if end is not None]
    return applied(function, *ends) if len(ends) > 1 else next(iter(ends), None)


def _all_of(function: Function, ends: list[Expr | None]) -> Expr | None:
    """Return the `min` or `max` of ends that must all be known."""
    known = [end for end in ends if end is not None]
    if len(known) < len(ends):
        return None
    return applied(function, *known) if len(known) > 1 else next(iter(known), None)


def applied(function: Function, *args: Expr) -> Expr:
    """Return a function of ends."""
    return Call(function, args, args[0].type, span=args[0].span)


def cast(end: Expr | None, kind: Kind) -> Expr | None:
    """Return an end in a kind of number."""
    if end is None or end.type.kind == kind:
        return end
    return Cast(end, FLOAT if kind == Kind.FLOAT else INT, span=end.span)


def _number(value: int, like: Expr) -> Const:
    return const(float(value) if like.type.kind == Kind.FLOAT else value, like.span)


def finite(end: Expr | None) -> Expr | None:
    """Return an end; None for an infinite one."""
    infinite = end is not None and any(is_float(end, x) for x in (math.inf, -math.inf))
    return None if infinite else end


def between(low: int, high: int, like: Expr) -> Bounds:
    """Return the bounds of what lies between two constants."""
    return Bounds(_number(low, like), _number(high, like))


def symmetric(size: Expr) -> Bounds:
    """Return the bounds of a magnitude."""
    return Bounds(negate(size), size)


def negated(x: Bounds) -> Bounds:
    """Return the bounds of `-x`."""
    low, high = (None if end is None else negate(end) for end in (x.high, x.low))
    return Bounds(low, high)


def hull(x: Bounds, y: Bounds) -> Bounds:
    """Return the bounds of what is the one or the other."""
    if x == y:
        return x
    lows = [end for end in (x.low, y.low) if end is None or not is_float(end, math.inf)]
    highs = [end for end in (x.high, y.high) if end is None or not is_float(end, -math.inf)]
    return Bounds(
        _all_of(Function.MIN, [None if end is None else finite(end) for end in lows]),
        _all_of(Function.MAX, [None if end is None else finite(end) for end in highs]),
    )
