"""One attention item: its parameters and statements in, an `ir.Variant` out."""

# ruff: noqa: D102 -- the properties of messages are documented once, in the base class.

from __future__ import annotations

from dataclasses import dataclass

from attnlang.diagnostics.base import Label
from attnlang.ir import nodes as ir
from attnlang.ir.traverse import walk
from attnlang.sema import operators as ops
from attnlang.sema import places
from attnlang.sema.dims import lower_tensors
from attnlang.sema.lowering import Lowering
from attnlang.sema.modules import DuplicateName, Module, ReservedName
from attnlang.sema.names import ASSIGNABLE, reserved
from attnlang.sema.operators import Operand
from attnlang.sema.params import lower_params
from attnlang.sema.report import Reporter, SemaDiagnostic
from attnlang.sema.scope import Scope
from attnlang.sema.session import (
    MAX_NESTING,
    MAX_NODES,
    ExpansionTooDeep,
    ExpansionTooLarge,
    Session,
)
from attnlang.sema.type_errors import NeedsVector, WrongResult
from attnlang.sema.unread import UnreadResult, reads, unread_bindings, unread_params
from attnlang.sema.values import POISON, Plain, Poison, Value, WeightForm
from attnlang.sema.variables import Variables
from attnlang.sema.weights import finish_weights
from attnlang.sources import Span
from attnlang.syntax import ast

MAX_STATEMENTS = 500


@dataclass(frozen=True, slots=True)
class TooManyStatements(SemaDiagnostic):
    """An attention with too many statements."""

    code = "A411"
    limit: int

    @property
    def headline(self) -> str:
        return f"an attention holds at most {self.limit} statements"

    @property
    def label(self) -> str:
        return "one too many"


@dataclass(frozen=True, slots=True)
class ScaleTwice(SemaDiagnostic):
    """`scale` is assigned twice."""

    code = "A301"
    before: Span

    @property
    def headline(self) -> str:
        return "`scale` is assigned twice"

    @property
    def related(self) -> tuple[Label, ...]:
        return (Label(self.before, "the first assignment"),)

    @property
    def help(self) -> str | None:
        return "join the two into one expression"


@dataclass(frozen=True, slots=True)
class ScaleTooLate(SemaDiagnostic):
    """`scale` is assigned after the score has been read."""

    code = "A302"
    read: Span

    @property
    def headline(self) -> str:
        return "`scale` is assigned after `score` was read"

    @property
    def related(self) -> tuple[Label, ...]:
        return (Label(self.read, "the score was read here, with the scale in it"),)

    @property
    def help(self) -> str | None:
        return "move the assignment before it, or multiply the score"


@dataclass(frozen=True, slots=True)
class LseWithoutSoftmax(SemaDiagnostic):
    """`lse` is read, but the weights are no softmax."""

    code = "A307"
    weights: Span

    @property
    def headline(self) -> str:
        return "`lse` does not exist without a softmax"

    @property
    def related(self) -> tuple[Label, ...]:
        return (Label(self.weights, "these weights hold none"),)

    @property
    def help(self) -> str | None:
        return "`row_sum` is the sum of the weights"


@dataclass(frozen=True, slots=True)
class ValueFromBoth(SemaDiagnostic):
    """`v` is made from the keys and the values."""

    code = "A309"
    key: Span
    value: Span

    @property
    def headline(self) -> str:
        return "`v` is made from both `k` and `v`"

    @property
    def related(self) -> tuple[Label, ...]:
        return (Label(self.key, "the keys"), Label(self.value, "the values"))

    @property
    def notes(self) -> tuple[str, ...]:
        return ("a `v` that is made from `k` is loaded once with it, and the call passes no v",)


def lower_attention(item: ast.Attention, module: Module, reporter: Reporter) -> ir.Variant | None:
    """Analyse one attention; None when it has an error."""
    session = Session(reporter)
    low = Lowering(session, Variables(session))
    before = reporter.errors
    if len(item.statements) > MAX_STATEMENTS:
        span = item.statements[MAX_STATEMENTS].span
        reporter.report(TooManyStatements(MAX_STATEMENTS, span=span))
        return None
    try:
        variant = _Attention(item, module, low).lower()
    except RecursionError:  # the limits leave room, but not below any stack
        reporter.report(ExpansionTooDeep(MAX_NESTING, span=item.name_span))
        return None
    sound = reporter.errors == before
    for diagnostic in (*unread_bindings(item, reporter), *unread_params(item)):
        if sound or not isinstance(diagnostic, UnreadResult):
            reporter.report_unless_wrong(diagnostic)
    return variant if reporter.errors == before else None


class _Attention:
    def __init__(self, item: ast.Attention, module: Module, low: Lowering) -> None:
        self.item = item
        self.module = module
        self.low = low
        self.scale_at: Span | None = None
        self.assigned: dict[str, Span] = {}
        self.requires: list[ir.Require] = []

    def lower(self) -> ir.Variant | None:
        """Lower the parameters, then the statements in their order."""
        params = lower_params(self.low, self.item.params or (), self.module)
        waiting = [param for param, scalar in params if scalar is None]
        tensors, sizes = lower_tensors(self.low, waiting, self.module)
        for statement in self.item.statements:
            if isinstance(statement, ast.Assign) and statement.name not in ASSIGNABLE:
                self.low.variables.later.setdefault(statement.name, statement.name_span)
        for statement in self.item.statements:
            match statement:
                case ast.Require():
                    self._require(statement)
                case ast.Assign():
                    self._assign(statement)
        found = [scalar or tensors.get(param.name) for param, scalar in params]
        return self._variant(tuple(p for p in found if p is not None), sizes)

    def _require(self, node: ast.Require) -> None:
        scope = Scope(places.REQUIRE, self.module)
        x = self.low.condition(node.condition, scope, "`require`")
        if x is not None and self.low.is_scalar(x, "`require`", scope):
            self.requires.append(ir.Require(x.expr, node.message, span=node.span))

    def _assign(self, node: ast.Assign) -> None:
        variables, name = self.low.variables, node.name
        sound = name in ASSIGNABLE or self._is_local(node)
        scope = Scope(places.BY_RESULT.get(name, places.LOCAL), self.module)
        value = self.low.value(node.value, scope)
        variables.later.pop(name, None)
        if not sound:
            variables.poisoned.add(name)
            return
        if name in ASSIGNABLE:
            value = self._result(node, value, scope)
        elif isinstance(value, ir.Expr | WeightForm | Poison):
            pass
        else:
            value = self.low.as_plain(value, node.value.span, scope)
        self.assigned[name] = node.name_span
        variables.values[name] = value

    def _is_local(self, node: ast.Assign) -> bool:
        """Whether a name is free for a local."""
        name, variables, span = node.name, self.low.variables, node.name_span
        if (reason := reserved(name, self.module.prelude_names)) is not None:
            advice = "what can be assigned is `q k v scale score mask weights out`, and new names"
            error = ReservedName(name, reason, "a local", advice, span=span)
            self.low.session.report(error)
            return False
        params = self.item.params or ()
        before = next((p.name_span for p in params if p.name == name), None)
        if before is None and name in self.module.defs:
            before = self.module.spans[name]
        if before is not None:
            self.low.session.report(DuplicateName(name, before, span=span))
            return False
        if name in variables.sizes:
            reason = f"a size, which `{self._binder(name)}` binds"
            self.low.session.report(ReservedName(name, reason, "a local", span=span))
            return False
        return True

    def _binder(self, size: str) -> str:
        for param in self.item.params or ():
            if any(size in reads(d) for d in param.type.dims or ()):
                return param.name
        return size

    def _result(self, node: ast.Assign, value: Value, scope: Scope) -> Value:
        """Check and convert the value of a result."""
        if node.name == "weights":
            return self._weights(node, value, scope)
        if node.name == "scale":
            self._check_scale(node, value)
        expr = self.low.as_plain(value, node.value.span, scope)
        if isinstance(expr, Poison):
            return POISON
        x = Operand(expr, node.value.span)
        if node.name in ("q", "k", "v", "out"):
            return self._vector(node, x)
        if not self.low.is_scalar(x, f"`{node.name}`", scope):
            return POISON
        if node.name == "mask":
            return expr if self._is_kind(node, x, ops.is_bool(x), "a bool") else POISON
        if not self._is_kind(node, x, not ops.is_bool(x), "a float"):
            return POISON
        return self.low.session.to_float(expr)

    def _is_kind(self, node: ast.Assign, x: Operand, right: bool, needs: str) -> bool:
        if not right:
            error = WrongResult(node.name, needs, ops.in_words(x.expr), span=x.span)
            self.low.session.report(error)
        return right

    def _vector(self, node: ast.Assign, x: Operand) -> Plain:
        session, name = self.low.session, node.name
        if not x.expr.type.vector:
            error = NeedsVector(f"`{name}`", ops.in_words(x.expr), span=x.span)
            session.report(error)
            return POISON
        if not self._is_kind(node, x, not ops.is_bool(x), "a vector of floats"):
            return POISON
        if name == "v" and {"k", "v"} <= session.sources(x.expr):
            leaves = dict(reversed(list(session.leaves(x.expr))))
            error_too = ValueFromBoth(leaves["k"].span, leaves["v"].span, span=x.span)
            session.report(error_too)
            return POISON
        return session.to_float(x.expr)

    def _check_scale(self, node: ast.Assign, value: Value) -> None:
        session, read = self.low.session, self.low.variables.score_read
        if self.scale_at is not None:
            session.report(ScaleTwice(self.scale_at, span=node.name_span))
        elif read is not None and not isinstance(value, Poison):
            session.report(ScaleTooLate(read, span=node.name_span))
        self.scale_at = node.name_span

    def _weights(self, node: ast.Assign, value: Value, scope: Scope) -> Value:
        if isinstance(value, WeightForm | Poison):
            return value
        expr = self.low.as_plain(value, node.value.span, scope)
        if isinstance(expr, Poison):
            return POISON
        x = Operand(expr, node.value.span)
        if not self.low.is_scalar(x, "`weights`", scope):
            return POISON
        if not self._is_kind(node, x, not ops.is_bool(x), "a float"):
            return POISON
        wide = self.low.session.to_float(expr)
        if isinstance(wide, Poison):
            return POISON
        return WeightForm(None, None, wide, None, node.value.span)

    def _final(self, name: str) -> Value:
        """Return a result's last value."""
        variables, span = self.low.variables, self.item.name_span
        if name in variables.values:
            return variables.values[name]
        return variables.default(name, span) or POISON

    def _variant(
        self, params: tuple[ir.Param, ...], sizes: tuple[ir.BoundSize, ...]
    ) -> ir.Variant | None:
        names = ("scale", "q", "k", "v", "score", "mask", "out")
        found = {name: self._final(name) for name in names}
        exprs = {name: value for name, value in found.items() if isinstance(value, ir.Expr)}
        form = self._final("weights")
        if len(exprs) < len(names) or not isinstance(form, WeightForm):
            return None
        span = self.assigned.get("weights", self.item.name_span)
        weights = finish_weights(self.low.session, form, span)
        self._check_lse(exprs["out"], weights)
        self._check_size((*exprs.values(), weights.softmax, weights.sink, weights.factor))
        return ir.Variant(
            self.item.name,
            self.item.doc,
            params,
            sizes,
            tuple(self.requires),
            weights=weights,
            span=self.item.span,
            **exprs,
        )

    def _check_lse(self, out: ir.Expr, weights: ir.Weights) -> None:
        if weights.softmax is not None:
            return
        for expr in walk(out):
            if isinstance(expr, ir.Lse):
                self.low.session.report(LseWithoutSoftmax(weights.span, span=expr.span))

    def _check_size(self, results: tuple[ir.Expr | None, ...]) -> None:
        session = self.low.session
        total = sum(session.facts(expr).count for expr in results if expr is not None)
        if total > MAX_NODES:
            session.report(ExpansionTooLarge(MAX_NODES, span=self.item.name_span))
