"""What is known of the sign of a value of the call: from constants, functions and `require`.

Maps an expression over parameters and sizes to whether it is certainly positive, or certainly not
negative. Invariant: certain means for every call that passes the variant's requirements; NaN is no
such value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attnlang.ir.nodes import (
    Binary,
    BinaryOp,
    Call,
    Cast,
    Compare,
    CompareOp,
    Const,
    Expr,
    Function,
    Kind,
    Require,
    Size,
    Unary,
    UnaryOp,
)
from attnlang.symbolic.build import conjuncts, value_of
from attnlang.symbolic.magnitudes import cannot_wrap

_ABOVE = {CompareOp.GT: True, CompareOp.GE: False}
_BELOW = {CompareOp.LT: True, CompareOp.LE: False}
_NOT_NEGATIVE = (
    Function.ABS,
    Function.EXP,
    Function.EXP2,
    Function.SQRT,
    Function.RSQRT,
    Function.SIGMOID,
    Function.SOFTPLUS,
    Function.RELU,
)
_NOT_ZERO = ("D", "DV", "HQ", "HKV")  # a call has at least one head, of at least one element


@dataclass(frozen=True, slots=True)
class Signs:
    """What `require` says of signs: the terms that are above 0, and those that are 0 or more."""

    positive_terms: tuple[Expr, ...] = ()
    other_terms: tuple[Expr, ...] = ()

    def is_positive(self, expr: Expr) -> bool:
        """Whether a number is certainly above 0."""
        if expr in self.positive_terms:
            return True
        value = value_of(expr)
        if value is not None:
            return value > 0
        match expr:
            case Size(name):
                return name in _NOT_ZERO
            case Cast(x, _):
                return x.type.kind == Kind.INT and self.is_positive(x)  # `int(x)` may truncate to 0
            case Binary(BinaryOp.ADD, x, y) if cannot_wrap(expr):
                return (self.is_positive(x) and self.is_not_negative(y)) or (
                    self.is_not_negative(x) and self.is_positive(y)
                )
            case Binary(BinaryOp.MUL | BinaryOp.DIV, x, y) if _is_exact(expr):
                return self.is_positive(x) and self.is_positive(y)
            case Call(Function.MAX, args):
                return any(map(self.is_positive, args))
            case Call(Function.MIN, args):
                return all(map(self.is_positive, args))
            case Call(Function.ABS | Function.SQRT | Function.RSQRT, (x,)):
                return self.is_positive(x)
        return False

    def is_not_negative(self, expr: Expr) -> bool:
        """Whether a number is certainly 0 or more."""
        if expr in self.other_terms or self.is_positive(expr):
            return True
        value = value_of(expr)
        if value is not None:
            return value >= 0
        match expr:
            case Size():
                return True
            case Cast(x, _):
                return x.type.kind == Kind.BOOL or self.is_not_negative(x)
            case Call(function) if function in _NOT_NEGATIVE:
                return True
            case Call(Function.MAX, args):
                return any(map(self.is_not_negative, args))
            case Call(Function.MIN, args):
                return all(map(self.is_not_negative, args))
            case Binary(BinaryOp.MUL, x, y) if x == y:
                return expr.type.kind == Kind.FLOAT
            case Binary(BinaryOp.ADD, x, y) if cannot_wrap(expr):
                return self.is_not_negative(x) and self.is_not_negative(y)
            case Binary(BinaryOp.MUL | BinaryOp.DIV, x, y) if _is_exact(expr):
                return self.is_not_negative(x) and self.is_not_negative(y)
            case Binary(BinaryOp.SUB, x, Call(Function.MIN, args)):
                return any(_is_at_most(a, x) for a in args)
            case Binary(BinaryOp.SUB, Call(Function.MAX, args), x):
                return any(_is_at_most(x, a) for a in args)
            case Unary(UnaryOp.NEG, x):
                value = value_of(x)
                return value is not None and value <= 0
        return False

    def is_not_positive(self, expr: Expr) -> bool:
        """Whether a number is certainly 0 or less."""
        value = value_of(expr)
        if value is not None:
            return value <= 0
        match expr:
            case Unary(UnaryOp.NEG, x):
                return self.is_not_negative(x)
            case Cast(x, _):
                return self.is_not_positive(x)
        return False


def _is_at_most(x: Expr, y: Expr) -> bool:
    a, b = value_of(x), value_of(y)
    return x == y or (a is not None and b is not None and a <= b)


def _is_exact(expr: Expr) -> bool:
    return expr.type.kind == Kind.FLOAT or cannot_wrap(expr)


def signs_of(requires: Iterable[Require]) -> Signs:
    """Return what the requirements of a variant say of the signs of its parameters."""
    positive: list[Expr] = []
    others: list[Expr] = []
    for require in requires:
        for condition in conjuncts(require.condition):
            found = _bound(condition)
            if found is not None:
                term, bound, strict = found
                if bound > 0 or (strict and bound == 0):
                    positive.append(term)
                elif bound == 0:
                    others.append(term)
    return Signs(tuple(positive), tuple(others))


def _bound(condition: Expr) -> tuple[Expr, float, bool] | None:
    """Return the term, the bound and whether it is strict, of `term > c` or the like."""
    match condition:
        case Compare(op, x, y) if op in _ABOVE and isinstance(y, Const | Cast):
            value = value_of(y)
            return None if value is None else (x, value, _ABOVE[op])
        case Compare(op, x, y) if op in _BELOW and isinstance(x, Const | Cast):
            value = value_of(x)
            return None if value is None else (y, value, _BELOW[op])
    return None
