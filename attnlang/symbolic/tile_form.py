"""The form of a mask in which intervals lose least.

Maps a mask to an equal one for the verdicts of tiles; elements are computed as they were written,
for what is good for intervals may be worse there (`i % n == j % n` hoists both remainders).
"""

from __future__ import annotations

from attnlang.ir.nodes import INT, Binary, BinaryOp, Compare, CompareOp, Expr
from attnlang.ir.traverse import rewrite
from attnlang.symbolic.affine import affine, build_sum
from attnlang.symbolic.build import const
from attnlang.symbolic.no_wrap import NoWrap


def for_tiles(mask: Expr) -> Expr:
    """Return the mask as tiles are judged by it."""
    return rewrite(mask, congruence)


def congruence(expr: Expr) -> Expr:
    """Make `a % n == b % n` into `(a - b) % n == 0`: known wherever a tile fits into a period.

    For n = 0 all four remainders are 0.
    """
    match expr:
        case Compare(
            CompareOp.EQ | CompareOp.NE as op,
            Binary(BinaryOp.MOD, a, n),
            Binary(BinaryOp.MOD, b, m),
        ) if a.type == INT and n == m:
            pass
        case _:
            return expr
    bounds = NoWrap(lambda _: False)
    first, second = affine(a), affine(b)
    if first is None or second is None or bounds.range(a) is None or bounds.range(b) is None:
        return expr
    span = expr.span
    difference = build_sum(first.minus(second), span)
    remainder = Binary(BinaryOp.MOD, difference, n, INT, span=span)
    return Compare(op, remainder, const(0, span), span=span)
