"""The rules of the simplifier, by family, in the order in which they are tried at a node."""

from attnlang.symbolic.rules import (
    arithmetic,
    comparisons,
    constants,
    exponentials,
    functions,
    logic,
    sums,
)
from attnlang.symbolic.rules.rule import Rule

# Constants first: every later rule then meets them folded. Comparisons last: they build new sums,
# which the others have made small.
RULES: tuple[Rule, ...] = (
    *constants.RULES,
    *arithmetic.RULES,
    *logic.RULES,
    *functions.RULES,
    *exponentials.RULES,
    *sums.RULES,
    *comparisons.RULES,
)

__all__ = ["RULES", "Rule"]
