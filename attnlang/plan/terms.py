"""Hoisting: each subexpression is computed at the coarsest loop that has its coordinates.

Maps the root expressions of a kernel to `Term`s, in an order in which each may be computed from
those before it. Invariant: what is left at a level, once its terms are named, reads only leaves and
terms of that level and coarser ones. Tensor reads are clamped, so lifting one out of its guard is
safe; nothing else can fail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from attnlang.ir.nodes import (
    QK,
    Anchor,
    CallScale,
    Const,
    Coord,
    Dot,
    Expr,
    Given,
    Scalar,
    Size,
)
from attnlang.ir.traverse import children, walk
from attnlang.symbolic.variability import Level, level


@dataclass(frozen=True, slots=True)
class Term:
    """A hoisted value; `name` is its field in the generated structs."""

    level: Level
    name: str
    expr: Expr


_PREFIX = {
    Level.CALL: "call",
    Level.REQUEST: "head",
    Level.ROW: "row",
    Level.COLUMN: "column",
}


def is_leaf(expr: Expr) -> bool:
    """Whether an expression is read from a field as it stands, so that naming it gains nothing."""
    return isinstance(expr, Const | Coord | Anchor | Scalar | Size | Given | CallScale | QK)


def invariants(program: Expr) -> Iterator[Expr]:
    """Yield the maximal scalars of a vector program that are of the call or the request."""
    stack, seen = [program], {id(program)}
    while stack:
        expr = stack.pop()
        if not expr.type.vector and level(expr) in (Level.CALL, Level.REQUEST):
            if not is_leaf(expr):
                yield expr
            continue
        for child in children(expr):
            if id(child) not in seen:
                seen.add(id(child))
                stack.append(child)


def hoist(roots: Iterable[Expr]) -> tuple[Term, ...]:
    """Name every maximal subexpression that is coarser than the loop in which it stands.

    A term may stand inside another, where both are read; operands come before their users.
    """
    roots = tuple(roots)
    named: set[Expr] = set()
    visited: set[tuple[int, Level]] = set()

    def visit(expr: Expr, context: Level) -> None:
        if is_leaf(expr) or (id(expr), context) in visited:
            return
        visited.add((id(expr), context))
        own = level(expr)
        if own not in (context, Level.ELEMENT) or (isinstance(expr, Dot) and own != Level.ELEMENT):
            named.add(expr)
        for child in children(expr):
            visit(child, own if own != Level.ELEMENT else context)

    for root in roots:
        visit(root, Level.ELEMENT)
    counts: Counter[Level] = Counter()
    terms: dict[Expr, Term] = {}
    for expr in walk(*roots):
        if expr in named and expr not in terms:
            own = level(expr)
            terms[expr] = Term(own, f"{_PREFIX[own]}_{counts[own]}", expr)
            counts[own] += 1
    return tuple(terms.values())
