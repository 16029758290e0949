"""What is known of a lowered variant beside its expressions, and what could not be found out.

Maps `Lowered` to facts for people: bounds of the score, rows that cannot be empty, the shift; and
to reasons, one for each analysis that came to nothing. Kernels take none of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnlang.ir.printer import print_expr
from attnlang.passes.lowered import Declined, Lowered
from attnlang.symbolic.bounds import bounds, describe_bounds, score_bounds
from attnlang.symbolic.nonempty import nonempty_rows
from attnlang.symbolic.variability import variability


@dataclass(frozen=True, slots=True)
class Fact:
    """One statement that holds for every call which the variant accepts."""

    name: str
    text: str


def facts(lowered: Lowered) -> tuple[Fact, ...]:
    """Return what is known."""
    variant = lowered.variant
    found: list[Fact] = []
    scores = score_bounds(variant)
    if scores.low is not None or scores.high is not None:
        found.append(Fact("score-bounds", describe_bounds(scores)))
    if variant.weights.softmax is None and variant.weights.factor is not None:
        weights = bounds(variant.weights.factor, variant)
        if weights.low is not None or weights.high is not None:
            found.append(Fact("weight-bounds", describe_bounds(weights, "weight")))
    rows = nonempty_rows(variant)
    if rows is not None:
        found.append(Fact("non-empty-rows", rows.text))
    if lowered.shift is not None:
        text = f"lse is that of the exponent plus {print_expr(lowered.shift)}, in base 2"
        found.append(Fact("shift", text))
    return tuple(found)


def reasons(lowered: Lowered) -> tuple[Declined, ...]:
    """Return why a rule or an analysis came to nothing."""
    variant = lowered.variant
    found = list(lowered.declined)
    scores = score_bounds(variant)
    if scores.low is None and scores.high is None:
        found.append(Declined("score-bounds", "nothing bounds a term of the score"))
    if nonempty_rows(variant) is None:
        text = "the mask hides the own position, the first and the last column, or cannot be told"
        found.append(Declined("non-empty-rows", text))
    if "raw" in variability(variant.mask):
        text = "the mask reads the score: every tile is computed, and every element asks the mask"
        found.append(Declined("tiles-without-mask", text))
    return tuple(found)
