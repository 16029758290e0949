"""The dimensions of tensors, and the sizes that they bind.

A dimension with one unknown name is solved for it, `extent == factor * name + offset`; one without
is checked at the call. Tensors that every call passes bind first. Invariant: the sizes come out in
an order in which each needs only those before it.
"""

# ruff: noqa: D102 -- the properties of messages are documented once, in the base class.

from __future__ import annotations

from dataclasses import dataclass

from attnlang.diagnostics.base import Label, Severity
from attnlang.ir import nodes as ir
from attnlang.ir.traverse import walk
from attnlang.sema import operators as ops
from attnlang.sema import places
from attnlang.sema.lowering import Lowering
from attnlang.sema.modules import Module
from attnlang.sema.names import CONSTANTS, SIZES, builtin
from attnlang.sema.params import check_tensor, enter_name, enter_tensor, is_optional
from attnlang.sema.report import SemaDiagnostic
from attnlang.sema.scope import Scope
from attnlang.sema.type_errors import WrongKind
from attnlang.sema.unknown import NotReadableHere
from attnlang.sema.values import Poison
from attnlang.sources import Span
from attnlang.syntax import ast


@dataclass(frozen=True, slots=True)
class CannotSolve(SemaDiagnostic):
    """A dimension from which its new size does not follow."""

    code = "A313"
    name: str

    @property
    def headline(self) -> str:
        return f"the size `{self.name}` does not follow from this dimension"

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"it can be solved if it is a positive number times `{self.name}`, plus others",)

    @property
    def help(self) -> str | None:
        return f"give `{self.name}` a tensor where it is a whole dimension, or make it a `const`"


@dataclass(frozen=True, slots=True)
class TwoUnknowns(SemaDiagnostic):
    """A dimension with several sizes that nothing else binds."""

    code = "A314"
    names: tuple[str, ...]

    @property
    def headline(self) -> str:
        names = " and ".join(f"`{n}`" for n in self.names)
        return f"this dimension alone cannot tell {names}"

    @property
    def help(self) -> str | None:
        return "give one of them a tensor where it is a whole dimension, or make it a `const`"


@dataclass(frozen=True, slots=True)
class OptionalSize(SemaDiagnostic):
    """A tensor needs a size that only another, optional, tensor binds."""

    code = "A316"
    name: str
    tensor: str
    binder: str
    bound: Span

    @property
    def headline(self) -> str:
        return f"`{self.tensor}` needs the size `{self.name}` even where `{self.binder}` is `none`"

    @property
    def related(self) -> tuple[Label, ...]:
        return (Label(self.bound, f"only `{self.binder}` binds `{self.name}`"),)

    @property
    def help(self) -> str | None:
        return "give the two dimensions different names"


@dataclass(frozen=True, slots=True)
class SizeLikeKnown(SemaDiagnostic):
    """A new size differs from a known one by the case of its letters alone."""

    code = "W106"
    severity = Severity.WARNING
    name: str
    known: str

    @property
    def headline(self) -> str:
        return f"`{self.name}` is a new size, not `{self.known}`"

    @property
    def label(self) -> str:
        return "any extent is accepted here"

    @property
    def help(self) -> str | None:
        return f"write `{self.known}`, or a name that cannot be taken for it"


@dataclass(frozen=True, slots=True)
class _Dim:
    """One dimension, waiting until at most one of its names is unknown."""

    param: ast.Param
    axis: int
    node: ast.Expr
    unknown: tuple[str, ...]


def lower_tensors(
    low: Lowering, params: list[ast.Param], module: Module
) -> tuple[dict[str, ir.TensorParam], tuple[ir.BoundSize, ...]]:
    """Enter the tensors and the sizes that they bind."""
    sound = [p for p in params if check_tensor(low, p)]
    low.variables.poisoned.update(p.name for p in params if p not in sound)
    work = _Solver(low, module, {p.name for p in params})
    work.solve(sound)
    tensors: dict[str, ir.TensorParam] = {}
    for param in sound:
        dims = [work.dims.get((param.name, axis)) for axis in range(len(param.type.dims or ()))]
        whole = tuple(d for d in dims if d is not None)
        if len(whole) == len(dims):
            tensors[param.name] = enter_tensor(low, param, whole)
        else:
            low.variables.poisoned.add(param.name)
    return tensors, tuple(work.bound)


class _Solver:
    def __init__(self, low: Lowering, module: Module, tensors: set[str]) -> None:
        self.low = low
        self.module = module
        self.tensors = tensors
        self.dims: dict[tuple[str, int], ir.Expr] = {}
        self.bound: list[ir.BoundSize] = []
        self.refused: set[str] = set()
        self.bound_at: dict[str, Span] = {}

    def solve(self, params: list[ast.Param]) -> None:
        """Lower every dimension, those of the tensors that are always there first."""
        for optional in (False, True):
            waiting = [
                _Dim(param, axis, node, self._unknown(node))
                for param in params
                if is_optional(param) == optional
                for axis, node in enumerate(param.type.dims or ())
            ]
            while waiting:
                rest = [d for d in waiting if not self._solve_one(d)]
                if len(rest) == len(waiting):
                    break
                waiting = rest
            for dim in waiting:
                names = tuple(n for n in dim.unknown if n not in self.low.variables.sizes)
                self.low.session.report(TwoUnknowns(names, span=dim.node.span))
            self._refuse(*(n for d in waiting for n in d.unknown))

    def _refuse(self, *names: str) -> None:
        """Let names with an error silence what reads them."""
        self.refused.update(names)
        self.low.variables.poisoned.update(names)

    def _unknown(self, node: ast.Expr) -> tuple[str, ...]:
        """Return the names in a dimension that nothing has yet."""
        called = {id(n.function) for n in ast.walk(node) if isinstance(n, ast.Call)}
        names = [n for n in ast.walk(node) if isinstance(n, ast.Name) and id(n) not in called]
        return tuple(dict.fromkeys(n.id for n in names if self._is_new(n)))

    def _is_new(self, node: ast.Name) -> bool:
        name, variables = node.id, self.low.variables
        if name in variables.sizes or name in SIZES or builtin(name) or name in CONSTANTS:
            return False
        if name in variables.scalars or name in variables.poisoned or name in self.tensors:
            return False
        return self.module.find(name) is None and not self.module.is_broken(name)

    def _solve_one(self, dim: _Dim) -> bool:
        """Lower a dimension if at most one of its names is unknown; False to wait."""
        variables = self.low.variables
        unknown = [n for n in dim.unknown if n not in variables.sizes]
        if any(n in self.refused for n in unknown):
            return True
        if len(unknown) > 1:
            return False
        if unknown and not self._declare(unknown[0], dim):
            self._refuse(unknown[0])
            return True
        expr = self._lower(dim)
        if expr is None:
            return True
        if unknown and not self._bind(unknown[0], dim, expr):
            return True
        self.dims[dim.param.name, dim.axis] = expr
        return True

    def _declare(self, name: str, dim: _Dim) -> bool:
        """Make a new name a size."""
        low, span = self.low, _span_of(name, dim.node)
        if not enter_name(low, self.module, name, span, {}, "a size"):
            return False
        known = next((s for s in SIZES if s.lower() == name.lower()), None)
        if known is not None:
            low.session.report(SizeLikeKnown(name, known, span=span))
        low.variables.sizes[name] = dim.param.name if is_optional(dim.param) else None
        self.bound_at[name] = span
        return True

    def _lower(self, dim: _Dim) -> ir.Expr | None:
        low = self.low
        if not self._check_names(dim):
            return None
        given = low.variables.sizes.values()
        scope = Scope(places.DIM, self.module, given=frozenset(t for t in given if t))
        x = low.scalar(dim.node, scope, "a dimension")
        if x is None:
            return None
        if x.kind != ir.Kind.INT:
            found = ops.in_words(x.expr)
            low.session.report(WrongKind("a dimension", "an int", found, span=dim.node.span))
            return None
        value = low.session.value(x.expr)
        if value is not None and value < 1:
            found = f"{value}"
            error = WrongKind("a dimension", "a positive int", found, span=dim.node.span)
            low.session.report(error)
            return None
        return x.expr

    def _check_names(self, dim: _Dim) -> bool:
        """Whether a dimension names no tensor, and no size that may be absent where it is not."""
        sound = True
        for node in ast.walk(dim.node):
            if not isinstance(node, ast.Name):
                continue
            if node.id in self.tensors:
                place = places.DIM
                wrong = NotReadableHere(node.id, place.title, place.words, span=node.span)
                self.low.session.report(wrong)
                sound = False
            binder = self.low.variables.sizes.get(node.id)
            if binder is not None and binder != dim.param.name:
                at = self.bound_at[node.id]
                error = OptionalSize(node.id, dim.param.name, binder, at, span=node.span)
                self.low.session.report(error)
                sound = False
        return sound

    def _bind(self, name: str, dim: _Dim, expr: ir.Expr) -> bool:
        solved = _affine(self.low, expr, name, dim.node.span)
        if solved is None or solved[0] < 1:
            self.low.session.report(CannotSolve(name, span=dim.node.span))
            return False
        factor, offset = solved
        if offset is None:
            offset = self.low.session.leaf(ir.Const(0, ir.INT, span=dim.node.span))
        size = ir.BoundSize(name, dim.param.name, dim.axis, factor, offset, span=dim.node.span)
        self.bound.append(size)
        return True


def _span_of(name: str, node: ast.Expr) -> Span:
    return next(n.span for n in ast.walk(node) if isinstance(n, ast.Name) and n.id == name)


Affine = tuple[int, ir.Expr | None]
"""A factor of the unknown, and the rest; None for nothing."""


def _affine(low: Lowering, expr: ir.Expr, name: str, span: Span) -> Affine | None:
    """Return a dimension as `factor * name + offset`, or None when it is not of that form."""
    match expr:
        case ir.Size(found) if found == name:
            return 1, None
        case ir.Unary(ir.UnaryOp.NEG, operand):
            inner = _affine(low, operand, name, span)
            return None if inner is None else (-inner[0], _negated(low, inner[1], span))
        case ir.Binary(ir.BinaryOp.ADD | ir.BinaryOp.SUB as op, left, right):
            x, y = _affine(low, left, name, span), _affine(low, right, name, span)
            if x is None or y is None:
                return None
            factor = x[0] + y[0] if op == ir.BinaryOp.ADD else x[0] - y[0]
            return factor, _combined(low, op, x[1], y[1], span)
        case ir.Binary(ir.BinaryOp.MUL, left, right):
            x, y = _affine(low, left, name, span), _affine(low, right, name, span)
            return None if x is None or y is None else _product(low, x, y, span)
        case _:
            return None if _mentions(expr, name) else (0, expr)


def _product(low: Lowering, x: Affine, y: Affine, span: Span) -> Affine | None:
    """Return the product of two affine forms, if one of them is without the unknown."""
    (factor, offset), (none, by) = (x, y) if x[0] else (y, x)
    if none or by is None:
        return None
    rest = None if offset is None else _combined(low, ir.BinaryOp.MUL, by, offset, span)
    if not factor:
        return 0, rest
    value = low.session.value(by)
    return (factor * value, rest) if isinstance(value, int) else None


def _negated(low: Lowering, x: ir.Expr | None, span: Span) -> ir.Expr | None:
    if x is None:
        return None
    made = low.session.make(ir.Unary(ir.UnaryOp.NEG, x, ir.INT, span=span))
    return None if isinstance(made, Poison) else made


def _combined(
    low: Lowering, op: ir.BinaryOp, x: ir.Expr | None, y: ir.Expr | None, span: Span
) -> ir.Expr | None:
    if y is None:
        return x
    if x is None:
        return _negated(low, y, span) if op == ir.BinaryOp.SUB else y
    made = low.session.make(ir.Binary(op, x, y, ir.INT, span=span))
    return None if isinstance(made, Poison) else made


def _mentions(expr: ir.Expr, name: str) -> bool:
    return any(isinstance(e, ir.Size) and e.name == name for e in walk(expr))
