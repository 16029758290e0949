"""Passes: from a checked variant to what a kernel evaluates. `PASSES` is their order."""

from attnlang.passes.describe import describe
from attnlang.passes.facts import Fact, facts, reasons
from attnlang.passes.lower import PASSES, Pass, lower
from attnlang.passes.lowered import Declined, Lowered

__all__ = [
    "PASSES",
    "Declined",
    "Fact",
    "Lowered",
    "Pass",
    "describe",
    "facts",
    "lower",
    "reasons",
]
