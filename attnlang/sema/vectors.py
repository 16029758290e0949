"""Functions of vectors: rotation, norms, products, and slices."""

# ruff: noqa: D102 -- the properties of messages are documented once, in the base class.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from attnlang.diagnostics.base import Label
from attnlang.ir import nodes as ir
from attnlang.ir.traverse import children
from attnlang.sema import operators as ops
from attnlang.sema import places
from attnlang.sema.operators import Operand
from attnlang.sema.report import SemaDiagnostic
from attnlang.sema.scope import Scope
from attnlang.sema.signatures import bind, signature_of
from attnlang.sema.type_errors import NotConstant, WrongKind
from attnlang.sema.unknown import NotReadableHere
from attnlang.sema.values import POISON, NoTensor, Plain, Poison, TensorRef
from attnlang.sources import Span
from attnlang.syntax import ast

if TYPE_CHECKING:
    from attnlang.sema.lowering import Lowering


@dataclass(frozen=True, slots=True)
class MixedDot(SemaDiagnostic):
    """A dot product of something of the row with something of the column."""

    code = "A229"
    left: Span
    right: Span
    query_key: bool

    @property
    def headline(self) -> str:
        return "`dot` cannot mix what varies by row with what varies by column"

    @property
    def related(self) -> tuple[Label, ...]:
        return (Label(self.left, "this varies by row"), Label(self.right, "this varies by column"))

    @property
    def help(self) -> str | None:
        if self.query_key:
            return "`score` is `scale * dot(q, k)` before it is assigned"
        return "put a change to the query in `q = ...` and one to the key in `k = ...`"


@dataclass(frozen=True, slots=True)
class BadVectorTensor(SemaDiagnostic):
    """`freqs` or `weight` is no tensor of one dimension."""

    code = "A228"
    what: str
    needs: str

    @property
    def headline(self) -> str:
        return f"{self.what} must be {self.needs}"


@dataclass(frozen=True, slots=True)
class BadExtent(SemaDiagnostic):
    """A part of a vector that cannot be: empty, negative, odd."""

    code = "A231"
    reason: str

    @property
    def headline(self) -> str:
        return self.reason


def compile_time(low: Lowering, expr: ir.Expr) -> bool:
    """Whether an expression is made of constants, `D`, `DV` and const parameters."""
    if low.session.sources(expr) - {places.CONST}:
        return False
    stack, seen = [expr], {id(expr)}
    while stack:
        top = stack.pop()
        if isinstance(top, ir.Size) and top.name not in ("D", "DV"):
            return False
        if isinstance(top, ir.Given):
            return False
        for child in children(top):
            if id(child) not in seen:
                seen.add(id(child))
                stack.append(child)
    return True


def _fixed_int(low: Lowering, node: ast.Expr, scope: Scope, what: str) -> ir.Expr | None:
    """Lower an int that must be known when the kernel is built."""
    x = low.scalar(node, scope, what)
    if x is None:
        return None
    if x.kind != ir.Kind.INT:
        kind = WrongKind(what, "an int", ops.in_words(x.expr), span=x.span)
        low.session.report(kind, scope.calls)
        return None
    if not compile_time(low, x.expr):
        words = "numbers, `D`, `DV` and `const` parameters"
        low.session.report(NotConstant(what, words, span=x.span), scope.calls)
        return None
    value = low.session.value(x.expr)
    if value is not None and value < 0:
        low.session.report(BadExtent(f"{what} cannot be negative", span=x.span), scope.calls)
        return None
    return x.expr


def lower_slice(low: Lowering, x: Operand, node: ast.Slice, span: Span, scope: Scope) -> Plain:
    """Lower `x[start:stop]`."""
    session = low.session
    if x.kind == ir.Kind.BOOL:
        ops.numbers(session, "a slice", (x,), scope.calls)
        return POISON
    start: ir.Expr | None = session.leaf(ir.Const(0, ir.INT, span=node.span))
    if node.start is not None:
        start = _fixed_int(low, node.start, scope, "the start of a slice")
    stop: ir.Expr | None = None
    if node.stop is not None:
        stop = _fixed_int(low, node.stop, scope, "the end of a slice")
    else:
        stop = _whole_length(low, x, node, scope)
    operand = session.to_float(x.expr, scope.calls)
    if start is None or stop is None or isinstance(operand, Poison):
        return POISON
    first, last = session.value(start), session.value(stop)
    if first is not None and last is not None and first >= last:
        error = BadExtent(f"the slice from {first} to {last} is empty", span=node.span)
        session.report(error, scope.calls)
        return POISON
    return session.make(ir.Slice(operand, start, stop, span=span), scope.calls)


def _whole_length(low: Lowering, x: Operand, node: ast.Slice, scope: Scope) -> ir.Expr | None:
    """Return the length of a vector as the call passes it, for `x[start:]`."""
    if isinstance(x.expr, ir.Vector):
        long = x.expr.name in (ir.VectorName.Q, ir.VectorName.K)
        return low.session.leaf(ir.Size("D" if long else "DV", span=node.span))
    error = BadExtent(
        "only a slice of `q`, `k`, `v` or `acc` may leave out its end", span=node.span
    )
    low.session.report(error, scope.calls)
    return None


def _number(
    low: Lowering, node: ast.Expr | None, default: float, span: Span, scope: Scope, what: str
) -> ir.Expr | None:
    """Lower an optional scalar argument, as a float."""
    if node is None:
        return low.session.leaf(ir.Const(default, ir.FLOAT, span=span))
    x = low.scalar(node, scope, what)
    if x is None or not ops.numbers(low.session, what, (x,), scope.calls):
        return None
    wide = low.session.to_float(x.expr, scope.calls)
    return None if isinstance(wide, Poison) else wide


def _l2_norm(low: Lowering, node: ast.Call, scope: Scope) -> Plain:
    bound = bind(low, node, signature_of("l2_norm"), scope)
    if bound is None:
        return POISON
    x = low.vector(bound["x"], scope, "the argument of `l2_norm`")
    eps = _number(low, bound.get("eps"), 1e-6, node.span, scope, "`eps`")
    if x is None or eps is None:
        return POISON
    return low.session.make(ir.L2Norm(x, eps, span=node.span), scope.calls)


def _rms_norm(low: Lowering, node: ast.Call, scope: Scope) -> Plain:
    bound = bind(low, node, signature_of("rms_norm"), scope)
    if bound is None:
        return POISON
    session, calls = low.session, scope.calls
    x = low.vector(bound["x"], scope, "the first argument of `rms_norm`")
    eps = _number(low, bound.get("eps"), 1e-6, node.span, scope, "`eps`")
    weight, maybe = _weight(low, bound.get("weight"), scope)
    if x is None or eps is None or isinstance(weight, Poison):
        return POISON
    norm = session.make(ir.RmsNorm(x, weight, eps, span=node.span), calls)
    if maybe is None:
        return norm
    plain = session.make(ir.RmsNorm(x, None, eps, span=node.span), calls)
    return _if_given(low, maybe, norm, plain, node.span, scope)


def _if_given(
    low: Lowering, tensor: str, given: Plain, absent: Plain, span: Span, scope: Scope
) -> Plain:
    if isinstance(given, Poison) or isinstance(absent, Poison):
        return POISON
    test = low.session.leaf(ir.Given(tensor, span=span))
    type_ = given.type
    return low.session.make(ir.Select(test, given, absent, type_, span=span), scope.calls)


def _weight(
    low: Lowering, node: ast.Expr | None, scope: Scope
) -> tuple[ir.Expr | Poison | None, str | None]:
    """Return the weight of a norm, and the optional tensor that it needs."""
    value = None if node is None else low.value(node, scope)
    if node is None or isinstance(value, NoTensor):
        return None, None
    session, calls = low.session, scope.calls
    if not isinstance(value, TensorRef):
        expr = low.vector(node, scope, "`weight`") if isinstance(value, ir.Expr) else None
        return (POISON if expr is None else expr), None
    if not _is_row(low, value, "`weight`", node.span, scope):
        return POISON, None
    d = session.leaf(ir.Coord(ir.CoordName.D, ir.Type(ir.Kind.INT, True), span=node.span))
    type_ = ir.Type(value.kind, vector=True)
    load = session.make(ir.Load(value.name, (d,), type_, span=node.span), calls)
    maybe = value.name if value.optional and value.name not in scope.given else None
    return (load if isinstance(load, Poison) else session.to_float(load, calls)), maybe


def _is_row(low: Lowering, tensor: TensorRef, what: str, span: Span, scope: Scope) -> bool:
    """Whether a tensor can be a weight or frequencies: numbers along one dimension."""
    if places.TENSOR not in scope.place.sources:
        place, source = scope.place, "an element of a tensor"
        error = NotReadableHere(tensor.name, place.title, place.words, source, span=span)
        low.session.report(error, scope.calls)
        return False
    if len(tensor.dims) == 1 and tensor.kind != ir.Kind.BOOL:
        return True
    needs = "a tensor of numbers with one dimension"
    low.session.report(BadVectorTensor(what, needs, span=span), scope.calls)
    return False


def _rope(low: Lowering, node: ast.Call, scope: Scope) -> Plain:
    bound = bind(low, node, signature_of("rope"), scope)
    if bound is None:
        return POISON
    x = low.vector(bound["x"], scope, "the first argument of `rope`")
    position = _number(low, bound["position"], 0.0, node.span, scope, "the position of `rope`")
    base = _number(low, bound.get("base"), 10000.0, node.span, scope, "`base`")
    freqs = _freqs(low, bound.get("freqs"), scope)
    start: ir.Expr | None = low.session.leaf(ir.Const(0, ir.INT, span=node.span))
    if "start" in bound:
        start = _fixed_int(low, bound["start"], scope, "`start`")
    dims = _fixed_int(low, bound["dims"], scope, "`dims`") if "dims" in bound else None
    if dims is not None and not _even(low, dims, bound["dims"].span, scope):
        return POISON
    interleaved = _flag(low, bound.get("interleaved"), scope)
    wrong_dims = dims is None and "dims" in bound
    if x is None or position is None or base is None or start is None or wrong_dims:
        return POISON
    if isinstance(freqs, Poison) or interleaved is None:
        return POISON
    calls, span = scope.calls, node.span
    if freqs is None:
        rope = ir.Rope(x, position, base, None, start, dims, interleaved, span=span)
        return low.session.make(rope, calls)
    name, maybe = freqs
    turned = low.session.make(
        ir.Rope(x, position, base, name, start, dims, interleaved, span=span), calls
    )
    if not maybe:
        return turned
    rope = ir.Rope(x, position, base, None, start, dims, interleaved, span=span)
    return _if_given(low, name, turned, low.session.make(rope, calls), span, scope)


def _even(low: Lowering, dims: ir.Expr, span: Span, scope: Scope) -> bool:
    value = low.session.value(dims)
    if value is None or (value > 0 and value % 2 == 0):
        return True
    error = BadExtent(f"`dims` must be even and positive, found {value}", span=span)
    low.session.report(error, scope.calls)
    return False


def _freqs(low: Lowering, node: ast.Expr | None, scope: Scope) -> tuple[str, bool] | Poison | None:
    """Return the name of the tensor of frequencies, and whether it may be absent."""
    value = None if node is None else low.value(node, scope)
    if node is None or isinstance(value, NoTensor):
        return None
    if isinstance(value, Poison):
        return POISON
    if not isinstance(value, TensorRef):
        needs = "a tensor's name, or `none`"
        low.session.report(BadVectorTensor("`freqs`", needs, span=node.span), scope.calls)
        return POISON
    if not _is_row(low, value, "`freqs`", node.span, scope):
        return POISON
    return value.name, value.optional and value.name not in scope.given


def _flag(low: Lowering, node: ast.Expr | None, scope: Scope) -> bool | None:
    """Lower `interleaved`, which changes the code and not a value."""
    if node is None:
        return False
    x = low.condition(node, scope, "`interleaved`")
    if x is None:
        return None
    value = low.session.value(x.expr)
    if value is None:
        error = NotConstant("`interleaved`", "`true` and `false`", span=node.span)
        low.session.report(error, scope.calls)
        return None
    return bool(value)


def _dot(low: Lowering, node: ast.Call, scope: Scope) -> Plain:
    bound = bind(low, node, signature_of("dot"), scope)
    if bound is None:
        return POISON
    x = low.vector(bound["x"], scope, "the first argument of `dot`")
    y = low.vector(bound["y"], scope, "the second argument of `dot`")
    if x is None or y is None:
        return POISON
    sources = low.session.sources(x) | low.session.sources(y)
    if sources & places.ROW_ONLY and sources & places.COLUMN_ONLY:
        low.session.report(_mixed(low, x, y, node.span), scope.calls)
        return POISON
    return low.session.make(ir.Dot(x, y, span=node.span), scope.calls)


def _mixed(low: Lowering, x: ir.Expr, y: ir.Expr, span: Span) -> MixedDot:
    leaves = [*low.session.leaves(x), *low.session.leaves(y)]
    row = next(leaf for source, leaf in leaves if source in places.ROW_ONLY)
    column = next(leaf for source, leaf in leaves if source in places.COLUMN_ONLY)
    plain = isinstance(x, ir.Vector) and isinstance(y, ir.Vector)
    return MixedDot(row.span, column.span, plain, span=span)


VECTOR_CALLS: Final[dict[str, Callable[[Lowering, ast.Call, Scope], Plain]]] = {
    "rope": _rope,
    "rms_norm": _rms_norm,
    "l2_norm": _l2_norm,
    "dot": _dot,
}
