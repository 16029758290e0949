"""Print a lowered variant for people: `show --stage simplified`.

Maps `Lowered` to text: each expression in the language's notation, the loop in which each of its
maximal terms is computed, the rules that fired and the operations before and after.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnlang.ir.nodes import QK, Anchor, CallScale, Const, Coord, Expr, Scalar, Size
from attnlang.ir.printer import print_expr
from attnlang.ir.traverse import children
from attnlang.passes.facts import facts, reasons
from attnlang.passes.lowered import Lowered
from attnlang.symbolic.count import count_element_operations
from attnlang.symbolic.variability import Level, Variabilities

_LEAVES = Const | Coord | Anchor | Size | Scalar | CallScale | QK


def describe(lowered: Lowered) -> str:
    """Return the text; it ends with a line break."""
    before, after = lowered.operations
    lines = [f"variant {lowered.variant.name}"]
    lines += [f"  {name} = {print_expr(expr)}" for name, expr in lowered.roots]
    terms = list(_terms(lowered))
    if terms:
        lines += ["", "computed outside the loop over elements:"]
        lines += [f"  {level:<8} {print_expr(expr)}" for level, expr in terms]
    lines += ["", f"operations for each element: {before} as written, {after} as lowered"]
    lines += _rules(lowered)
    known = facts(lowered)
    if known:
        lines += ["", "facts:"]
        lines += [f"       {fact.name}: {fact.text}" for fact in known]
    return "\n".join(lines) + "\n"


def _rules(lowered: Lowered) -> Iterator[str]:
    """Yield what fired, with the operations of an element where it did, and what did not."""
    if lowered.report:
        yield from ("", "rules, with the operations for each element of what they rewrote:")
    for rule, count in sorted(lowered.rules.items()):
        fired = [f for f in lowered.report if f.rule == rule]
        before = sum(count_element_operations((f.before,)) for f in fired)
        after = sum(count_element_operations((f.after,)) for f in fired)
        yield f"  {count:>3}  {rule:<20} {before:>3} -> {after}"
    missing = reasons(lowered)
    if missing:
        yield from ("", "what did not apply:")
    for declined in missing:
        yield f"       {declined.rule}: {declined.reason}"


def _terms(lowered: Lowered) -> Iterator[tuple[Level, Expr]]:
    """Yield the maximal terms that are coarser than an element, the coarsest loop first."""
    levels = Variabilities()
    seen: set[int] = set()
    found: list[tuple[Level, Expr]] = []

    def visit(expr: Expr) -> None:
        if isinstance(expr, _LEAVES) or id(expr) in seen:
            return
        seen.add(id(expr))
        level = levels.level(expr)
        if level != Level.ELEMENT:
            found.append((level, expr))
            return
        for child in children(expr):
            visit(child)

    for _, root in lowered.roots:
        visit(root)
    yield from sorted(found, key=lambda term: (term[0].depth, term[0]))
