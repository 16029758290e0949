"""The score in terms of the bare dot product, with the factors of `exp2` folded in.

Maps a softmax's argument (and sink) to the argument of `exp2`: `Raw` becomes `scale * QK`, the
whole is multiplied by log2(e), and invariant factors meet in products that leave the inner loop
(`attnlang.symbolic.products`). Invariant: equal to the original times log2(e) up to rounding; no
`Raw` is left.
"""

from __future__ import annotations

import math

from attnlang.ir.nodes import FLOAT, QK, Binary, BinaryOp, Expr, Raw
from attnlang.ir.traverse import rewrite
from attnlang.symbolic.products import scaled

LOG2E = math.log2(math.e)


def lower_scale(expr: Expr, scale: Expr) -> Expr:
    """Return the expression with each `Raw` replaced by `scale * QK`."""

    def lower(node: Expr) -> Expr:
        if isinstance(node, Raw):
            return Binary(BinaryOp.MUL, scale, QK(span=node.span), FLOAT, span=node.span)
        return node

    return rewrite(expr, lower)


def exponent(argument: Expr, scale: Expr) -> Expr:
    """Return softmax's argument times log2(e), in terms of QK."""
    return scaled(lower_scale(argument, scale), LOG2E)


def weight(factor: Expr, scale: Expr) -> Expr:
    """Return an elementwise weight in terms of QK, its products gathered."""
    return scaled(lower_scale(factor, scale))
