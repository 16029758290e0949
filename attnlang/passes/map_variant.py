"""Apply a function to every expression of a variant.

Maps a variant to a variant. Invariant: parameters and the tensor that binds each size stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from attnlang.ir.nodes import Expr, TensorParam, Variant, Weights


def map_variant(variant: Variant, f: Callable[[Expr], Expr]) -> Variant:
    """Return the variant with `f` applied to each of its expressions."""
    return replace(
        variant,
        params=tuple(
            replace(p, dims=tuple(f(d) for d in p.dims)) if isinstance(p, TensorParam) else p
            for p in variant.params
        ),
        sizes=tuple(replace(s, offset=f(s.offset)) for s in variant.sizes),
        requires=tuple(replace(r, condition=f(r.condition)) for r in variant.requires),
        scale=f(variant.scale),
        q=f(variant.q),
        k=f(variant.k),
        v=f(variant.v),
        score=f(variant.score),
        mask=f(variant.mask),
        weights=_map_weights(variant.weights, f),
        out=f(variant.out),
    )


def _map_weights(weights: Weights, f: Callable[[Expr], Expr]) -> Weights:
    def opt(expr: Expr | None) -> Expr | None:
        return None if expr is None else f(expr)

    return replace(
        weights,
        softmax=opt(weights.softmax),
        sink=opt(weights.sink),
        factor=opt(weights.factor),
        dropout=opt(weights.dropout),
    )
