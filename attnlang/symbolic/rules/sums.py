"""Sums of ints: like terms are collected, products expanded where that lets them cancel."""

from __future__ import annotations

from attnlang.ir.nodes import INT, Binary, BinaryOp, Const, Expr
from attnlang.ir.traverse import walk
from attnlang.symbolic.affine import affine, build_sum, sum_size
from attnlang.symbolic.count import count_operations
from attnlang.symbolic.rules.rule import rule

_SUMS = (BinaryOp.ADD, BinaryOp.SUB)
_MAX_TERMS = 64  # of a polynomial that is expanded


@rule("collect-terms")
def collect_terms(expr: Expr) -> Expr | None:
    """Collect like terms of an int sum: `q_idx + 1 - kv_idx - q_idx` is `1 - kv_idx`."""
    if expr.type != INT or not isinstance(expr, Binary) or expr.op not in _SUMS:
        return None
    found = affine(expr)
    if found is None:
        return None
    simpler = build_sum(found, expr.span)
    return simpler if sum_size(simpler) < sum_size(expr) else None


@rule("expand-products")
def expand_products(expr: Expr) -> Expr | None:
    """Expand int products of sums where terms cancel: `(i + 1) * n - i * n` is `n`."""
    if expr.type != INT or not isinstance(expr, Binary) or expr.op not in _SUMS:
        return None
    products = [e for e in walk(expr) if _is_product_of_sum(e)]
    if not products:
        return None
    from attnlang.symbolic.bridge import expanded  # a spec that needs sympy pays for its import

    simpler = expanded(expr, _MAX_TERMS)
    fewer = simpler is not None and count_operations([simpler]) < count_operations([expr])
    return simpler if fewer else None


def _is_product_of_sum(expr: Expr) -> bool:
    match expr:
        case Binary(BinaryOp.MUL, left, right) if expr.type == INT:
            operands = (left, right)
            return not any(isinstance(x, Const) for x in operands) and any(
                isinstance(x, Binary) and x.op in _SUMS for x in operands
            )
    return False


RULES = (collect_terms, expand_products)
