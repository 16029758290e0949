"""Passes: from a checked variant to what a kernel evaluates. `PASSES` is their order."""

from attnlang.passes.describe import describe
from attnlang.passes.lower import PASSES, Pass, lower
from attnlang.passes.lowered import Lowered

__all__ = ["PASSES", "Lowered", "Pass", "describe", "lower"]
