"""Which ints cannot leave 64 bits, whatever the parameters are.

Maps an int expression to whether it is certainly small. Coordinates and sizes are below 2 ** 30
(the host refuses larger ones); a run-time parameter and what a tensor holds may be anything.
"""

from __future__ import annotations

from attnlang.ir.nodes import (
    INT,
    Anchor,
    Binary,
    BinaryOp,
    Call,
    Const,
    Coord,
    Expr,
    Function,
    Size,
    Unary,
)
from attnlang.symbolic.affine import Affine, affine

_MAX_COEFFICIENT, MAX_CONSTANT = 2**16, 2**40


def is_bounded_sum(found: Affine) -> bool:
    """Whether a sum, and every part of it, stays within 64 bits."""
    small = abs(found.constant) <= MAX_CONSTANT
    return small and all(abs(c) <= _MAX_COEFFICIENT and _bounded(t) for t, c in found.terms)


def cannot_wrap(expr: Expr) -> bool:
    """Whether an operation on ints stays within 64 bits, its operands being what they are."""
    match expr:
        case Binary() | Unary() if expr.type != INT:
            return True
        case Binary(BinaryOp.ADD | BinaryOp.SUB | BinaryOp.MUL) | Unary():
            found = affine(expr)
            return found is not None and is_bounded_sum(found)
        case Binary(op):
            return op == BinaryOp.MOD
        case Call(Function.ABS, (x,)):
            found = affine(x)
            return found is not None and is_bounded_sum(found)
    return True


def _bounded(term: Expr) -> bool:
    """Whether a term is below 2 ** 40 in magnitude, whatever the parameters are."""
    match term:
        case Coord() | Anchor() | Size():
            return True
        case Const(value):
            return abs(value) <= MAX_CONSTANT
        case Binary(BinaryOp.FLOORDIV, x, _):
            return _bounded(x)
        case Binary(BinaryOp.MOD, _, y):
            return _bounded(y)
        case Call(Function.MIN | Function.MAX | Function.CLAMP | Function.ABS, args):
            return all(_bounded(a) for a in args)
        case Binary(BinaryOp.ADD | BinaryOp.SUB | BinaryOp.MUL) | Unary():
            return _is_small_sum(affine(term))
    return False


def _is_small_sum(found: Affine | None) -> bool:
    """Whether a sum of coordinates and sizes stays below 2 ** 40."""
    if found is None or not all(isinstance(t, Coord | Anchor | Size) for t, _ in found.terms):
        return False
    return abs(found.constant) + sum(abs(c) for _, c in found.terms) * 2**30 <= MAX_CONSTANT
