"""The pieces of which an equation over ints is rebuilt while it is solved.

Maps operands to IR expressions, sums in their normal form.
"""

from __future__ import annotations

from attnlang.ir.nodes import (
    INT,
    BinaryOp,
    Call,
    Compare,
    CompareOp,
    Const,
    Expr,
    Function,
    Unary,
    UnaryOp,
)
from attnlang.symbolic.affine import Affine, affine, build_sum
from attnlang.symbolic.build import binary, const, negate
from attnlang.symbolic.range_tree import ALL, NONE, Condition, Side, Tree


def decided(side: Side, left: Expr, right: Expr) -> Tree:
    """Return the tree of a relation that does not read the coordinate."""
    if isinstance(left, Const) and isinstance(right, Const):
        holds = left.value >= right.value if side == Side.LEAST else left.value <= right.value
        return ALL if holds else NONE
    return Condition(relate(side, left, right))


def relate(side: Side, left: Expr, right: Expr) -> Compare:
    """Return `left >= right` or `left <= right`."""
    return Compare(CompareOp(side.value), left, right, span=left.span)


def within(x: Expr, low: int, high: int) -> Expr:
    """Return `clamp(x, low, high)`."""
    ends = const(low, x.span), const(high, x.span)
    return Call(Function.CLAMP, (x, *ends), INT, span=x.span)


def minus(x: Expr, rest: Affine) -> Expr:
    """Return `x - rest`."""
    found = affine(x)
    if found is None:
        return binary(BinaryOp.SUB, x, build_sum(rest, x.span), x.span)
    return build_sum(found.minus(rest), x.span)


def plus(x: Expr, n: int) -> Expr:
    """Return `x + n`."""
    return minus(x, Affine((), -n))


def negated(x: Expr) -> Expr:
    """Return `-x`."""
    match x:
        case Const(int(value)):
            return const(-value, x.span)
        case Unary(UnaryOp.NEG, operand):
            return operand
    found = affine(x)
    return negate(x) if found is None else build_sum(found.scaled(-1), x.span)


def floor_divide(x: Expr, n: Expr) -> Expr:
    """Return `x // n`, for n > 0."""
    if isinstance(x, Const) and isinstance(n, Const):
        return const(int(x.value) // int(n.value), x.span)
    return binary(BinaryOp.FLOORDIV, x, n, x.span)


def ceil_divide(x: Expr, n: Expr) -> Expr:
    """Return `x / n` rounded up, for n > 0."""
    return negated(floor_divide(negated(x), n))
