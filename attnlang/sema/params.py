"""Parameters: what a variant is called with from Python.

Maps `ast.Param` to `ir.Param`, and enters its name. Defaults are folded to constants of the
parameter's kind.
"""

# ruff: noqa: D102 -- the properties of messages are documented once, in the base class.

from __future__ import annotations

from dataclasses import dataclass

from attnlang.ir import nodes as ir
from attnlang.sema import operators as ops
from attnlang.sema import places
from attnlang.sema.fold import Number
from attnlang.sema.lowering import Lowering
from attnlang.sema.modules import DuplicateName, Module, ReservedName
from attnlang.sema.names import reserved
from attnlang.sema.report import SemaDiagnostic
from attnlang.sema.scope import Scope
from attnlang.sema.values import TensorRef
from attnlang.sources import Span
from attnlang.syntax import ast

MAX_RANK = 8


@dataclass(frozen=True, slots=True)
class BadDefault(SemaDiagnostic):
    """A default that is no constant of the parameter's kind."""

    code = "A310"
    name: str
    needs: str
    found: str

    @property
    def headline(self) -> str:
        return f"the default of `{self.name}` must be {self.needs}, found {self.found}"

    @property
    def help(self) -> str | None:
        if self.found == "`none`":
            return "only a tensor may be left out; give a number, or no default"
        return None


@dataclass(frozen=True, slots=True)
class ConstTensor(SemaDiagnostic):
    """A tensor is declared `const`."""

    code = "A312"
    name: str

    @property
    def headline(self) -> str:
        return f"the tensor `{self.name}` cannot be `const`"

    @property
    def notes(self) -> tuple[str, ...]:
        return ("a `const` is a number that is built into the kernel",)

    @property
    def help(self) -> str | None:
        return "leave out `const`: a tensor is read when the kernel runs"


@dataclass(frozen=True, slots=True)
class RankTooLarge(SemaDiagnostic):
    """A tensor with too many dimensions."""

    code = "A404"
    name: str
    rank: int
    limit: int

    @property
    def headline(self) -> str:
        return f"the tensor `{self.name}` has {self.rank} dimensions, at most {self.limit} can be"

    @property
    def help(self) -> str | None:
        return "fold two dimensions into one, as in `t[i * N + j]`"


def enter_name(
    low: Lowering, module: Module, name: str, span: Span, taken: dict[str, Span], role: str
) -> bool:
    """Whether a parameter or a size may have its name; reports why not."""
    if (reason := reserved(name, module.prelude_names)) is not None:
        low.session.report(ReservedName(name, reason, role, span=span))
        return False
    before = taken.get(name) or (module.spans.get(name) if name in module.defs else None)
    if before is not None:
        low.session.report(DuplicateName(name, before, span=span))
        return False
    taken[name] = span
    return True


def lower_params(
    low: Lowering, params: tuple[ast.Param, ...], module: Module
) -> list[tuple[ast.Param, ir.ScalarParam | None]]:
    """Enter the scalars; return every sound parameter, a tensor without its dims yet."""
    found: list[tuple[ast.Param, ir.ScalarParam | None]] = []
    taken: dict[str, Span] = {}
    variables = low.variables
    for param in params:
        if not enter_name(low, module, param.name, param.name_span, taken, "a parameter"):
            variables.poisoned.add(param.name)
            continue
        if param.type.dims is not None:
            found.append((param, None))
            continue
        scalar = _scalar(low, param, module)
        variables.scalars[param.name] = ir.Type(ir.Kind(param.type.kind))
        if param.const:
            low.session.consts.add(param.name)
        found.append((param, scalar))
    return found


def _scalar(low: Lowering, param: ast.Param, module: Module) -> ir.ScalarParam:
    kind = ir.Kind(param.type.kind)
    default = None
    if param.default is not None:
        default = _default(low, param, param.default, kind, module)
    return ir.ScalarParam(param.name, kind, param.const, default, span=param.span)


def _default(
    low: Lowering, param: ast.Param, node: ast.Expr, kind: ir.Kind, module: Module
) -> Number | None:
    needs = {ir.Kind.BOOL: "a bool", ir.Kind.INT: "an int", ir.Kind.FLOAT: "a float"}[kind]
    if isinstance(node, ast.NoneLiteral):
        low.session.report(BadDefault(param.name, needs, "`none`", span=node.span))
        return None
    x = low.operand(node, Scope(places.DEFAULT, module, args={}))
    if x is None:
        return None
    value = low.session.value(x.expr)
    widens = kind == ir.Kind.FLOAT and x.kind == ir.Kind.INT
    if x.expr.type.vector or (x.kind != kind and not widens):
        found = ops.in_words(x.expr)
        low.session.report(BadDefault(param.name, needs, found, span=node.span))
        return None
    if value is None:
        error = BadDefault(
            param.name, "a constant", "an expression without a value", span=node.span
        )
        low.session.report(error)
        return None
    return float(value) if widens else value


def enter_tensor(low: Lowering, param: ast.Param, dims: tuple[ir.Expr, ...]) -> ir.TensorParam:
    """Enter a tensor whose dims are known."""
    kind, optional = ir.Kind(param.type.kind), is_optional(param)
    ref = TensorRef(param.name, kind, dims, optional, param.name_span)
    low.variables.tensors[param.name] = ref
    return ir.TensorParam(param.name, kind, dims, optional, span=param.span)


def is_optional(param: ast.Param) -> bool:
    """Whether a tensor may be left out of the call."""
    return isinstance(param.default, ast.NoneLiteral)


def check_tensor(low: Lowering, param: ast.Param) -> bool:
    """Whether a tensor's declaration is sound, its dims apart."""
    rank = len(param.type.dims or ())
    if param.const:
        low.session.report(ConstTensor(param.name, span=param.span))
    if param.default is not None and not is_optional(param):
        found = "another value"
        error = BadDefault(param.name, "`none`", found, span=param.default.span)
        low.session.report(error)
    if rank > MAX_RANK:
        low.session.report(RankTooLarge(param.name, rank, MAX_RANK, span=param.type.span))
        return False
    return True
