"""Brackets: `t[i, j]` reads a tensor, `x[0:512]` takes a part of a vector."""

# ruff: noqa: D102 -- the properties of messages are documented once, in the base class.

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnlang.diagnostics.base import Label, Severity
from attnlang.ir import nodes as ir
from attnlang.sema import operators as ops
from attnlang.sema import places
from attnlang.sema.misuse import MaybeAbsent
from attnlang.sema.report import SemaDiagnostic
from attnlang.sema.scope import Scope
from attnlang.sema.type_errors import WrongKind
from attnlang.sema.unknown import NotReadableHere
from attnlang.sema.values import POISON, NoTensor, Plain, Poison, TensorRef, Value
from attnlang.sema.vectors import lower_slice
from attnlang.sources import Span
from attnlang.syntax import ast

if TYPE_CHECKING:
    from attnlang.sema.lowering import Lowering


@dataclass(frozen=True, slots=True)
class NotIndexable(SemaDiagnostic):
    """Brackets after something that has no elements."""

    code = "A219"
    found: str

    @property
    def headline(self) -> str:
        return f"only tensors and vectors have elements, found {self.found}"

    @property
    def label(self) -> str:
        return "nothing can be read from this"


@dataclass(frozen=True, slots=True)
class WrongRank(SemaDiagnostic):
    """Too many indices, or too few."""

    code = "A220"
    name: str
    rank: int
    found: int
    declared: Span

    @property
    def headline(self) -> str:
        dims = "dimension" if self.rank == 1 else "dimensions"
        indices = "index" if self.found == 1 else "indices"
        return f"`{self.name}` has {self.rank} {dims}, found {self.found} {indices}"

    @property
    def related(self) -> tuple[Label, ...]:
        return (Label(self.declared, "declared here"),)


@dataclass(frozen=True, slots=True)
class SliceOfTensor(SemaDiagnostic):
    """A slice where an index is needed, or an index where a slice is."""

    code = "A227"
    vector: bool

    @property
    def headline(self) -> str:
        if self.vector:
            return "a vector is not read by an index, but cut: `x[0:64]`"
        return "a tensor is read by an index, not by a slice"

    @property
    def help(self) -> str | None:
        if self.vector:
            return "`dot(x, y)` makes a scalar of a vector"
        return "`t[..., d]` reads a vector along the head dimension"


@dataclass(frozen=True, slots=True)
class PositionOnRows(SemaDiagnostic):
    """An axis `Q` is read by position, which is another index when there is a prefix."""

    code = "W104"
    severity = Severity.WARNING
    tensor: str
    declared: Span

    @property
    def headline(self) -> str:
        return f"the axis `Q` of `{self.tensor}` is read with the position `q_idx`"

    @property
    def label(self) -> str:
        return "`q_row` is the index of the row"

    @property
    def related(self) -> tuple[Label, ...]:
        return (Label(self.declared, "declared here"),)

    @property
    def notes(self) -> tuple[str, ...]:
        return ("with keys before the first query, as in decoding, the two differ",)

    @property
    def help(self) -> str | None:
        return "read it with `q_row`, or declare the axis `KV` if it spans the whole sequence"


def lower_index(low: Lowering, node: ast.Index, scope: Scope) -> Value:
    """Lower `base[...]`."""
    base = low.value(node.base, scope)
    match base:
        case TensorRef():
            return _load(low, base, node, scope)
        case NoTensor():
            return low.as_plain(base, node.base.span, scope)
        case Poison():
            _indices(low, node, scope)
            return POISON
    expr = low.as_plain(base, node.base.span, scope)
    if isinstance(expr, Poison):
        return POISON
    if not expr.type.vector:
        error = NotIndexable(ops.in_words(expr), span=node.base.span)
        low.session.report(error, scope.calls)
        return POISON
    if len(node.indices) != 1 or not isinstance(node.indices[0], ast.Slice):
        low.session.report(SliceOfTensor(True, span=node.span), scope.calls)
        return POISON
    return lower_slice(low, ops.Operand(expr, node.base.span), node.indices[0], node.span, scope)


def _indices(low: Lowering, node: ast.Index, scope: Scope) -> list[Plain]:
    found: list[Plain] = []
    for index in node.indices:
        if isinstance(index, ast.Slice):
            found.append(POISON)
            continue
        x = low.operand(index, scope)
        found.append(POISON if x is None else x.expr)
    return found


def _load(low: Lowering, tensor: TensorRef, node: ast.Index, scope: Scope) -> Value:
    session, name = low.session, tensor.name
    if not _may_read(low, tensor, node.base.span, scope):
        return POISON
    if len(node.indices) != len(tensor.dims):
        count = len(node.indices)
        rank = WrongRank(name, len(tensor.dims), count, tensor.declared, span=node.span)
        session.report(rank, scope.calls)
        return POISON
    found = _indices(low, node, scope)
    sound: list[ir.Expr] = []
    for expr, index, dim in zip(found, node.indices, tensor.dims, strict=True):
        if isinstance(index, ast.Slice):
            session.report(SliceOfTensor(False, span=index.span), scope.calls)
        elif not isinstance(expr, Poison):
            if expr.type.kind != ir.Kind.INT:
                kind = WrongKind("an index", "an int", ops.in_words(expr), span=index.span)
                session.report(kind, scope.calls)
                continue
            _check_axis(low, tensor, dim, expr, index.span, scope)
            sound.append(expr)
    if len(sound) < len(tensor.dims):
        return POISON
    type_ = ops.vectored(tensor.kind, *sound)
    return session.make(ir.Load(name, tuple(sound), type_, span=node.span), scope.calls)


def _may_read(low: Lowering, tensor: TensorRef, span: Span, scope: Scope) -> bool:
    name, place = tensor.name, scope.place
    if places.TENSOR not in place.sources:
        what = "an element of a tensor"
        error = NotReadableHere(name, place.title, place.words, what, span=span)
        low.session.report(error, scope.calls)
        return False
    if tensor.optional and name not in scope.given:
        low.session.report(MaybeAbsent(name, name, span=span), scope.calls)
        return False
    return True


def _check_axis(
    low: Lowering, tensor: TensorRef, dim: ir.Expr, index: ir.Expr, span: Span, scope: Scope
) -> None:
    on_rows = isinstance(dim, ir.Size) and dim.name == "Q"
    if on_rows and isinstance(index, ir.Coord) and index.name == ir.CoordName.Q_IDX:
        warning = PositionOnRows(tensor.name, tensor.declared, span=span)
        low.session.report(warning, scope.calls)
