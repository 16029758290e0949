"""Shift invariance: a term of softmax's argument that reads the row alone leaves the inner loop.

Maps a simplified variant to the same with the argument split into `exponent`, what is left of it,
and `shift`, what every column of a row lacks. Invariant: their sum is the argument; without a
softmax, and where nothing would be saved, there is no shift.
"""

from __future__ import annotations

from dataclasses import replace

from attnlang.ir.nodes import Expr
from attnlang.ir.traverse import walk
from attnlang.passes.exponent import exponent
from attnlang.passes.lowered import Declined, Lowered
from attnlang.symbolic.build import Interner
from attnlang.symbolic.count import count_element_operations
from attnlang.symbolic.fired import Fired
from attnlang.symbolic.shift import Split, split_row
from attnlang.symbolic.simplify import Simplifier

RULE = "shift-invariance"


def drop_row_terms(state: Lowered) -> Lowered:
    """Return the state with softmax's argument split, or with the reason why it is not."""
    argument = state.variant.weights.softmax
    found = "there is no softmax" if argument is None else _split(state, argument)
    if isinstance(found, str):
        declined = (*state.declined, Declined(RULE, found))
        return replace(state, exponent=argument, shift=None, declined=declined)
    assert argument is not None
    fired = Fired(RULE, argument, found.rest)
    report = (*state.report, fired)
    return replace(state, exponent=found.rest, shift=found.shift, report=report)


def _split(state: Lowered, argument: Expr) -> Split | str:
    found = split_row(argument)
    if found is None:
        return "no term of the score reads the row alone"
    run = Simplifier()
    split = Split(run.simplify(found.rest), run.simplify(found.shift))
    if _cost(split.rest, state) >= _cost(argument, state):
        return "the terms of the row cost nothing where they stand"
    factor = state.variant.weights.factor
    others = [state.variant.mask] if factor is None else [state.variant.mask, factor]
    interner = Interner()
    whole = interner.intern(argument)
    if any(node is whole for other in others for node in walk(interner.intern(other))):
        return "the mask or a factor reads the same score, which is computed once"
    return split


def _cost(argument: Expr, state: Lowered) -> int:
    """Return the operations of the inner loop."""
    return count_element_operations((exponent(argument, state.variant.scale),))
