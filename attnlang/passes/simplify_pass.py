"""Simplify every expression of a variant by the named rules.

Maps a variant to an equal one and what fired. Invariant: what has gone was a no-op: a factor of 1
on softmax, a sink of -inf, dropout with probability 0, a branch that cannot be taken.
"""

from __future__ import annotations

import math
from dataclasses import replace

from attnlang.ir.nodes import Variant, Weights
from attnlang.passes.map_variant import map_variant
from attnlang.symbolic.build import is_float
from attnlang.symbolic.fired import Fired
from attnlang.symbolic.simplify import Simplifier


def simplify_pass(variant: Variant) -> tuple[Variant, tuple[Fired, ...]]:
    """Return the simplified variant and the rules that fired, in order."""
    run = Simplifier()
    simpler = map_variant(variant, run.simplify)
    weights, fired = _drop_no_ops(simpler.weights)
    return replace(simpler, weights=weights), (*run.fired, *fired)


def _drop_no_ops(weights: Weights) -> tuple[Weights, tuple[Fired, ...]]:
    """Drop what multiplies the weights by 1 and adds 0 to the denominator."""
    fired: list[Fired] = []
    factor, sink, dropout = weights.factor, weights.sink, weights.dropout
    if weights.softmax is not None and factor is not None and is_float(factor, 1.0):
        fired.append(Fired("factor-of-one", factor, factor))
        factor = None
    if sink is not None and is_float(sink, -math.inf):
        fired.append(Fired("sink-of-nothing", sink, sink))
        sink = None
    if dropout is not None and is_float(dropout, 0.0):
        fired.append(Fired("dropout-of-nothing", dropout, dropout))
        dropout = None
    return replace(weights, factor=factor, sink=sink, dropout=dropout), tuple(fired)
