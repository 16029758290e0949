"""Masks: what can be said of a tile without looking at its elements."""

from __future__ import annotations

from attnlang.ir.nodes import Expr
from attnlang.symbolic.build import conjuncts
from attnlang.symbolic.variability import variability


def split_mask(mask: Expr) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
    """Return the top-level conjuncts that read no row, and the others.

    A key hidden by one of the first is hidden from every row: what k and v hold there may be NaN.
    A constant, and what depends on the request alone, is among them.
    """
    columns: list[Expr] = []
    rest: list[Expr] = []
    for term in conjuncts(mask):
        (rest if variability(term) & {"q", "raw"} else columns).append(term)
    return tuple(columns), tuple(rest)
