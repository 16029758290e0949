"""Which rules of the simplifier fired, and which did not.

Maps the report of the passes to `Rule`s. Invariant: every rule that there is stands in one of the
two lists; a pass may report steps of its own, which have no other description than their example.
"""

from __future__ import annotations

from attnlang.explain.explanation import Rule
from attnlang.ir.printer import print_expr
from attnlang.passes.lowered import Lowered
from attnlang.symbolic.fired import Fired
from attnlang.symbolic.rules import RULES

_LONGEST = 100


def rules(lowered: Lowered) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    """Return the rules that fired, and those that found nothing to rewrite."""
    docs = {rule.name: rule.doc for rule in RULES}
    first: dict[str, Fired] = {}
    for fired in lowered.report:
        first.setdefault(fired.rule, fired)
    counts = lowered.rules
    done = tuple(
        Rule(name, docs.get(name, ""), counts[name], _example(fired))
        for name, fired in sorted(first.items())
    )
    return done, tuple(Rule(n, d, 0, "") for n, d in sorted(docs.items()) if n not in counts)


def _example(fired: Fired) -> str:
    return f"{_short(print_expr(fired.before))}  →  {_short(print_expr(fired.after))}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
