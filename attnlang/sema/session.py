"""The work on one variant: makes IR nodes, knows facts about each, and keeps the limits.

Every node that sema makes goes through `make`, which computes its facts from its operands' in
constant time. Invariant: no expression that comes out is deeper than MAX_DEPTH or, written out as
a tree, larger than MAX_NODES; the work on a variant is bounded by MAX_STEPS,
that on a file by MAX_FILE_STEPS. Later stages recurse over what comes out.
"""

# ruff: noqa: D102 -- the properties of messages are documented once, in the base class.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from attnlang.diagnostics.base import Diagnostic
from attnlang.ir import nodes as ir
from attnlang.ir.traverse import children
from attnlang.sema.fold import Number, Overflow, fold
from attnlang.sema.guards import Given, given_by
from attnlang.sema.places import CONST, source_of
from attnlang.sema.report import CallSite, Reporter, SemaDiagnostic
from attnlang.sema.values import POISON, Plain
from attnlang.sources import Span

MAX_NODES: Final = 20_000
MAX_DEPTH: Final = 200
MAX_STEPS: Final = 40_000
MAX_FILE_STEPS: Final = 100_000
MAX_NESTING: Final = 120

_LEAF: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class ExpansionTooLarge(SemaDiagnostic):
    """An expression has too many parts once defs and locals are written out."""

    code = "A401"
    limit: int

    @property
    def headline(self) -> str:
        return f"this grows to more than {self.limit:,} operations when its parts are written out"

    @property
    def label(self) -> str:
        return "too large from here on"

    @property
    def notes(self) -> tuple[str, ...]:
        return ("defs and locals are put in place of their names before anything is compiled",)

    @property
    def help(self) -> str | None:
        return "pass a large table of values as a tensor parameter"


@dataclass(frozen=True, slots=True)
class ExpansionTooDeep(SemaDiagnostic):
    """An expression nests too deeply once defs and locals are written out."""

    code = "A402"
    limit: int

    @property
    def headline(self) -> str:
        return f"this nests more than {self.limit} operations deep when its parts are written out"

    @property
    def label(self) -> str:
        return "too deep from here on"

    @property
    def help(self) -> str | None:
        return "balance long sums with parentheses, or use fewer defs inside one another"


@dataclass(frozen=True, slots=True)
class IntOutOfRange(SemaDiagnostic):
    """A constant int that 64 bits cannot hold."""

    code = "A403"

    @property
    def headline(self) -> str:
        return "this constant does not fit in a 64-bit int"

    @property
    def help(self) -> str | None:
        return "compute it in floating point: write one of the numbers with a decimal point"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about an expression. `expr` keeps it alive, so that its id stays its own.

    `count` is its size as a tree, `value` what it is if constant.
    """

    expr: ir.Expr
    depth: int
    count: int
    sources: frozenset[str]
    value: Number | None
    given: Given


@dataclass(slots=True)
class Session:
    """Makes the nodes of one variant and reports what is wrong with it."""

    reporter: Reporter
    consts: set[str] = field(default_factory=set)
    exhausted: bool = False
    _facts: dict[int, Facts] = field(default_factory=dict)
    _steps: int = 0

    def report(self, diagnostic: Diagnostic, calls: tuple[CallSite, ...] = ()) -> None:
        """Report a mistake that arose inside `calls`."""
        self.reporter.report(diagnostic, calls)

    def step(self, nesting: int, span: Span, calls: tuple[CallSite, ...]) -> bool:
        """Count one step of work; False when there has been too much of it."""
        self._steps += 1
        self.reporter.steps += 1
        if self.exhausted:
            return False
        if nesting > MAX_NESTING:
            at = calls[0].span if calls else span
            self.report(ExpansionTooDeep(MAX_NESTING, span=at))
            return False
        if self._steps > MAX_STEPS or self.reporter.steps > MAX_FILE_STEPS:
            return self._too_large(span, calls)
        return True

    def _too_large(self, span: Span, calls: tuple[CallSite, ...]) -> bool:
        """Report that this variant grows too large, and stop the work on it."""
        if not self.exhausted:
            at = calls[0].span if calls else span
            self.report(ExpansionTooLarge(MAX_NODES, span=at))
        self.exhausted = True
        return False

    def make(self, expr: ir.Expr, calls: tuple[CallSite, ...] = ()) -> Plain:
        """Enter a new node, whose operands have been entered before."""
        parts = [self.facts(child) for child in children(expr)]
        depth = 1 + max((p.depth for p in parts), default=0)
        count = 1 + sum(p.count for p in parts)
        if count > MAX_NODES:
            self._too_large(expr.span, calls)
            return POISON
        if depth > MAX_DEPTH:
            at = calls[0].span if calls else expr.span
            self.report(ExpansionTooDeep(MAX_DEPTH, span=at))
            return POISON
        value = fold(expr, [p.value for p in parts])
        if isinstance(value, Overflow):
            self.report(IntOutOfRange(span=expr.span), calls)
            return POISON
        sources = _LEAF.union(*(p.sources for p in parts))
        if (own := source_of(expr)) is not None:
            const = isinstance(expr, ir.Scalar) and expr.name in self.consts
            sources |= {CONST if const else own}
        given = given_by(expr, [p.given for p in parts])
        self._facts[id(expr)] = Facts(expr, depth, count, sources, value, given)
        return expr

    def leaf(self, expr: ir.Expr) -> ir.Expr:
        """Enter a node without operands, which no limit can refuse."""
        self.make(expr)
        return expr

    def facts(self, expr: ir.Expr) -> Facts:
        """Return what is known about an expression that was made here."""
        return self._facts[id(expr)]

    def value(self, expr: ir.Expr) -> Number | None:
        """Return the value of a constant expression, else None."""
        return self.facts(expr).value

    def sources(self, expr: ir.Expr) -> frozenset[str]:
        """Return what an expression is made of."""
        return self.facts(expr).sources

    def leaves(self, expr: ir.Expr) -> Iterator[tuple[str, ir.Expr]]:
        """Yield the nodes below an expression that are sources, in the order of the text."""
        seen: set[int] = set()
        stack = [expr]
        while stack:
            top = stack.pop()
            if id(top) in seen:
                continue
            seen.add(id(top))
            if (own := source_of(top)) is not None:
                const = isinstance(top, ir.Scalar) and top.name in self.consts
                yield CONST if const else own, top
            stack.extend(reversed(list(children(top))))

    def to_float(self, expr: ir.Expr, calls: tuple[CallSite, ...] = ()) -> Plain:
        """Widen an int to float."""
        if expr.type.kind == ir.Kind.FLOAT:
            return expr
        type_ = ir.Type(ir.Kind.FLOAT, expr.type.vector)
        return self.make(ir.Cast(expr, type_, span=expr.span), calls)
