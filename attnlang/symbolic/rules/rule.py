"""What a rule is: a name and a pure function from an expression to its replacement.

A rule looks at one node whose operands are simplified already. Invariant: the replacement has the
node's type, its value wherever the node has one (floats: up to rounding and the sign of zero), and
the rule does not apply to its own replacement again for ever (`simplify` bounds that and raises).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attnlang.ir.nodes import Expr


@dataclass(frozen=True, slots=True)
class Rule:
    """A named rewriting of one node."""

    name: str
    function: Callable[[Expr], Expr | None]

    @property
    def doc(self) -> str:
        """What the rule does, in one line."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    def __call__(self, expr: Expr) -> Expr | None:
        """Return the replacement of a node, or None where the rule does not apply."""
        result = self.function(expr)
        return result if result is not None and result.type == expr.type else None


def rule(name: str) -> Callable[[Callable[[Expr], Expr | None]], Rule]:
    """Make a rule of a function."""
    return lambda function: Rule(name, function)
