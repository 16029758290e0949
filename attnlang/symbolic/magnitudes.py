"""Which ints cannot leave 64 bits, whatever the parameters are.

Maps an int expression to whether it is certainly small. Coordinates and sizes are below 2 ** 30
(the host refuses larger ones); a run-time parameter and what a tensor holds may be anything.
"""

from __future__ import annotations

from attnlang.ir.nodes import Anchor, Binary, BinaryOp, Call, Const, Coord, Expr, Function, Size
from attnlang.symbolic.affine import Affine

_MAX_COEFFICIENT, MAX_CONSTANT = 2**16, 2**40


def is_bounded_sum(found: Affine) -> bool:
    """Whether a sum, and every part of it, stays within 64 bits."""
    small = abs(found.constant) <= MAX_CONSTANT
    return small and all(abs(c) <= _MAX_COEFFICIENT and _bounded(t) for t, c in found.terms)


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
    return False
