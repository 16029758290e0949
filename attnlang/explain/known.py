"""What the analyses proved of a variant, at the values of one call where they matter.

Maps a lowered variant, a call and its plan to findings: the facts of the passes, the lines
that tensors of the mask are judged by, and which indices need no clamp.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from attnlang.explain.explanation import Finding
from attnlang.invent.inputs import Call
from attnlang.invent.masks import call_sizes
from attnlang.ir.nodes import Expr, Variant
from attnlang.ir.printer import print_expr
from attnlang.ir.traverse import children
from attnlang.passes.facts import facts
from attnlang.passes.lowered import Lowered
from attnlang.plan.plan import Plan
from attnlang.symbolic.bounds import Bounds, bounds, bounds_at, score_bounds
from attnlang.symbolic.lines import Axis, Lines

_NAMES = {
    "score-bounds": "score bounds",
    "weight-bounds": "weight bounds",
    "non-empty-rows": "non-empty rows",
}


def known(lowered: Lowered, call: Call, planned: Plan) -> tuple[Finding, ...]:
    """Return what is proved, and of each tensor that is read how."""
    return (*_facts(lowered, call), *_lines(lowered), *_reads(planned))


def _facts(lowered: Lowered, call: Call) -> Iterator[Finding]:
    variant = lowered.variant
    for fact in facts(lowered):
        text = fact.text
        if fact.name == "score-bounds":
            text += _at_call(score_bounds(variant), variant, call)
        if fact.name == "weight-bounds" and variant.weights.factor is not None:
            text += _at_call(bounds(variant.weights.factor, variant), variant, call)
        yield Finding(_NAMES.get(fact.name, fact.name), True, text)


def _at_call(found: Bounds, variant: Variant, call: Call) -> str:
    """Say what bounds are in numbers."""
    scale = 1 / math.sqrt(max(call.shape.d, 1))
    low, high = bounds_at(found, call.scalars, call_sizes(variant, call), scale)
    return f"; here in [{low:.6g}, {high:.6g}]"


def _lines(lowered: Lowered) -> Iterator[Finding]:
    """Tell the lines of the mask: tensors' values by which tiles are judged."""
    by_axis: dict[Axis, dict[str, None]] = {axis: {} for axis in Axis}
    lines = Lines()
    stack: list[Expr] = [lowered.mask]
    while stack:
        expr = stack.pop()
        axis = lines.axis(expr)
        if axis is None:
            stack.extend(reversed(tuple(children(expr))))
        else:
            by_axis[axis][print_expr(expr)] = None
    told = [
        f"{', '.join(f'`{text}`' for text in found)} of each {axis}"
        for axis, found in by_axis.items()
        if found
    ]
    if told:
        yield Finding("tensors judge tiles", True, f"{'; '.join(told)}, summed up in blocks of 64")


def _reads(planned: Plan) -> Iterator[Finding]:
    """Tell which indices are proved to lie within their tensor, and which are clamped."""
    for read in planned.reads:
        tensor, _, told = read.text.partition(": ")
        yield Finding(f"{tensor} is read without a clamp", all(read.proved), told)
