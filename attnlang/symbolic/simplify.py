"""Simplification: every rule at every node, from the operands up, until nothing fires.

Maps an expression to an equal one (see `rules.rule`) and the report of what fired. Invariant:
bounded; where the rules do not settle, it raises, for that is a bug of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

from attnlang.ir.nodes import Expr
from attnlang.ir.traverse import map_children, walk
from attnlang.symbolic.build import Interner
from attnlang.symbolic.count import count_operations
from attnlang.symbolic.fired import Fired
from attnlang.symbolic.rules import RULES
from attnlang.symbolic.rules.rule import Rule

__all__ = ["DoesNotSettleError", "Fired", "Simplifier", "count_operations", "simplify"]

_MAX_STEPS = 64  # at one node, and passes over one expression


class DoesNotSettleError(AssertionError):
    """The rules rewrite an expression for ever: a bug of attnlang."""


def simplify(expr: Expr, rules: Sequence[Rule] = RULES) -> tuple[Expr, tuple[Fired, ...]]:
    """Return the simplified expression and the rules that fired, in order."""
    run = Simplifier(rules)
    return run.simplify(expr), tuple(run.fired)


class Simplifier:
    """One run over expressions that share nodes; `fired` grows."""

    def __init__(self, rules: Sequence[Rule] = RULES) -> None:
        self.fired: list[Fired] = []
        self._rules = rules
        self._interner = Interner()
        self._settled: dict[int, tuple[Expr, Expr]] = {}

    def simplify(self, expr: Expr) -> Expr:
        """Return the simplified expression."""
        for _ in range(_MAX_STEPS):
            before = self._interner.intern(expr)
            expr = self._interner.intern(self._sweep(before))
            if expr is before:
                return expr
        raise DoesNotSettleError(f"{_MAX_STEPS} sweeps over one expression")

    def _sweep(self, root: Expr) -> Expr:
        for node in walk(root):
            if id(node) not in self._settled:
                rebuilt = map_children(node, lambda child: self._settled[id(child)][1])
                self._settled[id(node)] = (node, self._at(self._interner.intern(rebuilt)))
        return self._settled[id(root)][1]

    def _at(self, node: Expr) -> Expr:
        """Apply rules to one node until none fires."""
        for _ in range(_MAX_STEPS):
            for rule in self._rules:
                after = rule(node)
                if after is not None:
                    self.fired.append(Fired(rule.name, node, after))
                    node = self._interner.intern(after)
                    break
            else:
                return node
        raise DoesNotSettleError(f"{_MAX_STEPS} rules at one node, the last {self.fired[-1].rule}")
