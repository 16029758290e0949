"""Binds a call's arguments to a function's parameters, by place or by keyword."""

# ruff: noqa: D102 -- the properties of messages are documented once, in the base class.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from attnlang.diagnostics.suggest import nearest
from attnlang.sema.report import SemaDiagnostic
from attnlang.sema.scope import Scope
from attnlang.syntax import ast

if TYPE_CHECKING:
    from attnlang.sema.lowering import Lowering


@dataclass(frozen=True, slots=True)
class Signature:
    """A function's parameters: those it needs, those it may have, and how it is written.

    `many` says that the last of those it needs may be repeated.
    """

    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()
    shown: str = ""
    many: bool = False


@dataclass(frozen=True, slots=True)
class WrongArgumentCount(SemaDiagnostic):
    """A function has too many arguments, or too few."""

    code = "A206"
    name: str
    found: int
    signature: Signature = field(repr=False)

    @property
    def headline(self) -> str:
        least, most = len(self.signature.needed), len(self.signature.optional)
        if self.signature.many:
            wanted = f"{least} or more arguments"
        elif most:
            wanted = f"{least} to {least + most} arguments"
        else:
            wanted = f"{least} argument{'' if least == 1 else 's'}"
        return f"`{self.name}` takes {wanted}, found {self.found or 'none'}"

    @property
    def help(self) -> str | None:
        return f"write `{self.signature.shown}`"


@dataclass(frozen=True, slots=True)
class WrongKeyword(SemaDiagnostic):
    """A keyword that the function does not have, or has already."""

    code = "A207"
    name: str
    keyword: str
    known: tuple[str, ...]
    twice: bool = False

    @property
    def headline(self) -> str:
        if self.twice:
            return f"the argument `{self.keyword}` of `{self.name}` is given twice"
        return f"`{self.name}` has no keyword `{self.keyword}`"

    @property
    def notes(self) -> tuple[str, ...]:
        if self.twice:
            return ()
        if not self.known:
            return (f"the arguments of `{self.name}` are given by their place",)
        return (f"its keywords are {', '.join(f'`{k}`' for k in self.known)}",)

    @property
    def help(self) -> str | None:
        similar = None if self.twice else nearest(self.keyword, self.known)
        return f"a similar name exists: `{similar}`" if similar else None


def bind(
    low: Lowering, node: ast.Call, signature: Signature, scope: Scope
) -> Mapping[str, ast.Expr] | None:
    """Return the arguments by name; None when one is wrong. Not for `many`."""
    name, names = node.function.id, (*signature.needed, *signature.optional)
    bound = dict(zip(names, node.args, strict=False))
    sound = len(node.args) <= len(names)
    for keyword in node.keywords:
        if keyword.name not in names or keyword.name in bound:
            twice = keyword.name in names
            error = WrongKeyword(name, keyword.name, signature.optional, twice, span=keyword.span)
            low.session.report(error, scope.calls)
            sound = False
        else:
            bound[keyword.name] = keyword.value
    if len(node.args) > len(names) or any(n not in bound for n in signature.needed):
        count = len(node.args)
        low.session.report(WrongArgumentCount(name, count, signature, span=node.span), scope.calls)
        sound = False
    if sound:
        return bound
    lower_all(low, node, scope)
    return None


def positional(low: Lowering, node: ast.Call, signature: Signature, scope: Scope) -> bool:
    """Whether a call has the right number of arguments and no keywords."""
    name, found, least = node.function.id, len(node.args), len(signature.needed)
    for keyword in node.keywords:
        error = WrongKeyword(name, keyword.name, (), span=keyword.span)
        low.session.report(error, scope.calls)
    right = found >= least if signature.many else found == least
    if not right and not node.keywords:
        low.session.report(WrongArgumentCount(name, found, signature, span=node.span), scope.calls)
    return right and not node.keywords


def lower_all(low: Lowering, node: ast.Call, scope: Scope) -> None:
    """Lower the arguments of a wrong call for the errors in them."""
    for arg in (*node.args, *(k.value for k in node.keywords)):
        low.value(arg, scope)


def _plain(name: str, *needed: str, many: bool = False) -> Signature:
    rest = ", ..." if many else ""
    return Signature(needed, shown=f"{name}({', '.join(needed)}{rest})", many=many)


SIGNATURES: Final[Mapping[str, Signature]] = {
    "min": _plain("min", "x", "y", many=True),
    "max": _plain("max", "x", "y", many=True),
    "clamp": _plain("clamp", "x", "low", "high"),
    "bit": _plain("bit", "x", "n"),
    "dot": _plain("dot", "x", "y"),
    "dropout": _plain("dropout", "p"),
    "softmax": Signature(("x",), ("sink",), "softmax(x, sink=s)"),
    "l2_norm": Signature(("x",), ("eps",), "l2_norm(x, eps=1e-6)"),
    "rms_norm": Signature(("x",), ("weight", "eps"), "rms_norm(x, weight=none, eps=1e-6)"),
    "rope": Signature(
        ("x", "position"),
        ("base", "freqs", "start", "dims", "interleaved"),
        "rope(x, position, base=10000, freqs=none, start=0, dims=D, interleaved=false)",
    ),
}


def signature_of(name: str) -> Signature:
    """Return the parameters of a function."""
    return SIGNATURES.get(name) or _plain(name, "x")
