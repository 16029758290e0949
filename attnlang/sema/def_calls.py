"""Puts a def in place of its name.

A use with the same arguments gives the same value, so that nested defs cost linear time however
often they name one another.
"""

# ruff: noqa: D102 -- the properties of messages are documented once, in the base class.

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnlang.diagnostics.base import Label
from attnlang.sema.modules import DefInfo
from attnlang.sema.report import SemaDiagnostic
from attnlang.sema.scope import Scope
from attnlang.sema.values import POISON, Poison, TensorRef, Value
from attnlang.sources import Span
from attnlang.syntax import ast

if TYPE_CHECKING:
    from attnlang.sema.lowering import Lowering


@dataclass(frozen=True, slots=True)
class WrongDefUse(SemaDiagnostic):
    """A def is used with the wrong number of arguments, or with parentheses that it lacks."""

    code = "A208"
    name: str
    args: tuple[str, ...] | None
    found: int | None
    declared: Span

    @property
    def headline(self) -> str:
        if self.args is None:
            return f"the def `{self.name}` is used without parentheses"
        if not self.args and self.found is None:
            return f"the def `{self.name}` is used with its parentheses"
        count = f"{len(self.args)} argument{'' if len(self.args) == 1 else 's'}"
        found = "none" if not self.found else str(self.found)
        return f"the def `{self.name}` takes {count}, found {found}"

    @property
    def related(self) -> tuple[Label, ...]:
        if self.declared.source is not self.span.source:
            return ()
        return (Label(self.declared, "defined here"),)

    @property
    def help(self) -> str | None:
        if self.args is None:
            return f"write `{self.name}`"
        return f"write `{self.name}({', '.join(self.args)})`"


def expand_def(
    low: Lowering,
    info: DefInfo,
    args: tuple[Value, ...] | None,
    span: Span,
    scope: Scope,
) -> Value:
    """Return the value of a def for its arguments; `args` is None without parentheses."""
    found = None if args is None else len(args)
    wanted = None if info.args is None else len(info.args)
    if found != wanted:
        error = WrongDefUse(info.name, info.args, found, info.span, span=span)
        low.session.report(error, scope.calls)
        return POISON
    if info.module.is_broken(info.name) or any(isinstance(a, Poison) for a in args or ()):
        return POISON
    bound = dict(zip(info.args or (), args or (), strict=True))
    key = (id(info), scope.place.title, scope.given, tuple(map(_identity, bound.values())))
    if key not in low.expanded:
        low.keep(bound)
        inner = scope.inside(info.name, span, info.module, bound)
        low.expanded[key] = low.value(info.value, inner)
    return low.expanded[key]


def _identity(value: Value) -> object:
    """Return what is alike for two arguments that are one value."""
    return value.name if isinstance(value, TensorRef) else id(value)


def call_def(low: Lowering, info: DefInfo, node: ast.Call, scope: Scope) -> Value:
    """Lower a call of a def."""
    args = tuple(low.value(arg, scope) for arg in node.args)
    return expand_def(low, info, args, node.span, scope)
