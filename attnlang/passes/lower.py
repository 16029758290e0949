"""From a checked variant to what a kernel evaluates: all passes, in their order.

Maps a variant with the values of its constants to `Lowered`. Invariant: the kernel's expressions
are equal to those of the variant (times log2(e) under softmax) up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from attnlang.ir.nodes import BinaryOp, Const, Expr, Variant
from attnlang.passes.exponent import LOG2E, exponent, lower_scale, weight
from attnlang.passes.lowered import Lowered
from attnlang.passes.powers import powers_by_exponentials
from attnlang.passes.shift import drop_row_terms
from attnlang.passes.simplify_pass import simplify_pass
from attnlang.passes.specialise import specialise
from attnlang.symbolic.build import binary, conjunction, const
from attnlang.symbolic.count import count_element_operations
from attnlang.symbolic.masks import split_mask
from attnlang.symbolic.simplify import Simplifier, count_operations


@dataclass(frozen=True, slots=True)
class Build:
    """What one kernel is built for: the const values and the optional tensors that are passed."""

    consts: Mapping[str, bool | int | float]
    given: frozenset[str]


@dataclass(frozen=True, slots=True)
class Pass:
    """One step, and why it stands where it does."""

    name: str
    reason: str
    run: Callable[[Lowered, Build], Lowered]


def _specialise(state: Lowered, build: Build) -> Lowered:
    variant = specialise(state.variant, build.consts, build.given)
    count = count_operations(_naive(variant))
    return replace(state, variant=variant, operations=(count, count))


def _simplify(state: Lowered, _: Build) -> Lowered:
    variant, fired = simplify_pass(state.variant)
    return replace(state, variant=variant, report=(*state.report, *fired))


def _shift(state: Lowered, _: Build) -> Lowered:
    return drop_row_terms(state)


def _exponent(state: Lowered, _: Build) -> Lowered:
    variant, weights, scale = state.variant, state.variant.weights, state.variant.scale
    mask = lower_scale(variant.mask, scale)
    factor = None if weights.factor is None else weight(weights.factor, scale)
    state = replace(state, mask=mask, dropout=weights.dropout)
    if weights.softmax is None:
        return replace(state, weight=factor, score=lower_scale(variant.score, scale))
    shift = None if state.shift is None else exponent(state.shift, scale)
    sink = None if weights.sink is None else exponent(weights.sink, scale)
    argument = weights.softmax if state.exponent is None else state.exponent
    lowered = exponent(argument, scale)
    return replace(state, sink=sink, shift=shift, factor=factor, exponent=lowered)


def _split_mask(state: Lowered, _: Build) -> Lowered:
    columns = tuple(c for c in split_mask(state.mask)[0] if not isinstance(c, Const))
    return replace(state, column_mask=conjunction(columns, state.mask.span) if columns else None)


def _tidy(state: Lowered, _: Build) -> Lowered:
    run = Simplifier()  # one for all, so that what they share stays shared

    def tidy(expr: Expr | None) -> Expr | None:
        return None if expr is None else run.simplify(expr)

    tidied = replace(
        state,
        exponent=tidy(state.exponent),
        shift=tidy(state.shift),
        sink=tidy(state.sink),
        factor=tidy(state.factor),
        weight=tidy(state.weight),
        score=tidy(state.score),
        dropout=tidy(state.dropout),
        mask=run.simplify(state.mask),
        column_mask=tidy(state.column_mask),
    )
    inner = (tidied.exponent, tidied.factor, tidied.weight, tidied.mask)
    count = count_element_operations(inner)
    report = (*state.report, *run.fired)
    return replace(tidied, report=report, operations=(state.operations[0], count))


def _powers(state: Lowered, _: Build) -> Lowered:
    changed = [
        None if root is None else powers_by_exponentials(root)
        for root in (state.exponent, state.factor, state.weight)
    ]
    argument, factor, weights = (None if c is None else c[0] for c in changed)
    report = (*state.report, *(f for c in changed if c is not None for f in c[1]))
    return replace(state, exponent=argument, factor=factor, weight=weights, report=report)


PASSES: tuple[Pass, ...] = (
    Pass(
        "specialise", "first: what is constant from here on folds in every later pass", _specialise
    ),
    Pass("simplify", "before the exponent, which takes products as it finds them", _simplify),
    Pass("shift", "after simplify, in the terms of the spec: a sum as it is written", _shift),
    Pass("exponent", "after simplify: a sum that cancelled takes no factor", _exponent),
    Pass(
        "split-mask",
        "after simplify, which makes conjuncts of what was `if` and `not`",
        _split_mask,
    ),
    Pass("powers", "after the exponent: its products are gathered without the guard", _powers),
    Pass("tidy", "last: folds the constants that the exponent brought together", _tidy),
)


def lower(
    variant: Variant,
    *,
    consts: Mapping[str, bool | int | float],
    given: frozenset[str],
    verify: Callable[[Lowered], None] | None = None,
) -> Lowered:
    """Return what a kernel of the variant evaluates, for these const values and optional tensors.

    `verify` sees the state after each pass. Raises ValueError where a const parameter has neither a
    value nor a default.
    """
    state, build = _written(variant), Build(consts, given)
    for step in PASSES:
        state = step.run(state, build)
        if verify is not None:
            verify(state)
    return state


def _naive(variant: Variant) -> Iterator[Expr]:
    """Yield what an element would cost with nothing folded or hoisted."""
    weights, scale = variant.weights, variant.scale
    yield lower_scale(variant.mask, scale)
    if weights.softmax is not None:
        span = weights.span
        argument = lower_scale(weights.softmax, scale)
        yield binary(BinaryOp.MUL, argument, const(LOG2E, span), span)
    if weights.factor is not None:
        yield lower_scale(weights.factor, scale)


def _written(variant: Variant) -> Lowered:
    """Return a variant as it stands: its expressions are those of the spec, in terms of `Raw`."""
    weights = variant.weights
    plain = weights.softmax is None
    return Lowered(
        variant=variant,
        exponent=weights.softmax,
        shift=None,
        sink=weights.sink,
        factor=None if plain else weights.factor,
        weight=weights.factor if plain else None,
        score=variant.score if plain else None,
        dropout=weights.dropout,
        mask=variant.mask,
        column_mask=None,
        report=(),
        declined=(),
        operations=(0, 0),
    )
