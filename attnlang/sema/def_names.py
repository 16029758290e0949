"""Checks every def of a module by itself, used or not: its names exist, and it does not recurse.

What its arguments are is only known where it is used, so kinds are checked there.
"""

# ruff: noqa: D102 -- the properties of messages are documented once, in the base class.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnlang.diagnostics.base import Diagnostic
from attnlang.sema.modules import DefInfo, Module
from attnlang.sema.names import (
    CONSTANTS,
    COORDS,
    FUNCTIONS,
    RESULTS,
    ROW_STATS,
    SIZES,
    VECTORS,
    builtin,
)
from attnlang.sema.report import Reporter, SemaDiagnostic
from attnlang.sema.unknown import NotAFunction, NotInDef, UnknownName
from attnlang.syntax import ast


@dataclass(frozen=True, slots=True)
class RecursiveDef(SemaDiagnostic):
    """A def that needs itself."""

    code = "A230"
    name: str
    path: tuple[str, ...]

    @property
    def headline(self) -> str:
        return f"the def `{self.name}` is defined by itself"

    @property
    def label(self) -> str:
        return "" if len(self.path) <= 2 else " -> ".join(f"`{p}`" for p in self.path)

    @property
    def notes(self) -> tuple[str, ...]:
        return ("a def is put in place of its name, so it cannot need itself",)


def check_defs(module: Module, reporter: Reporter) -> None:
    """Report what is wrong with a module's own defs, and mark those as broken."""
    for info in module.own.values():
        errors = tuple(name_errors(info, reporter))
        for error in errors:
            reporter.report(error)
        if errors:
            module.broken.add(info.name)
    for path in _cycles(module):
        first = module.own[path[0]]
        reporter.report(RecursiveDef(first.name, path, span=first.span))
        module.broken.update(path)


def name_errors(info: DefInfo, reporter: Reporter) -> Iterator[Diagnostic]:
    """Yield the names in a def's expression that mean nothing there."""
    called: set[int] = set()
    for node in ast.walk(info.value):
        if isinstance(node, ast.Call):
            called.add(id(node.function))
            yield from _call_errors(node, info, reporter)
        elif isinstance(node, ast.Name) and id(node) not in called:
            yield from _name_errors(node, info, reporter)


def _name_errors(node: ast.Name, info: DefInfo, reporter: Reporter) -> Iterator[Diagnostic]:
    name, args, module = node.id, info.args or (), info.module
    if name in args or name in COORDS or name in SIZES or name in CONSTANTS:
        return
    if name in VECTORS or name in RESULTS or name in ROW_STATS:
        yield NotInDef(name, builtin(name) or "", span=node.span)
    elif name in FUNCTIONS:
        yield NotAFunction(name, "a function", False, span=node.span)
    elif module.find(name) is None and not module.is_broken(name):
        known = (*args, *COORDS, *SIZES, *CONSTANTS, *module.all_defs())
        yield UnknownName(name, reporter.suggest(name, known), span=node.span)


def _call_errors(node: ast.Call, info: DefInfo, reporter: Reporter) -> Iterator[Diagnostic]:
    name, module = node.function.id, info.module
    if name in (info.args or ()):
        yield NotAFunction(name, "an argument of the def", True, span=node.function.span)
    elif name not in FUNCTIONS and module.find(name) is None and not module.is_broken(name):
        if (what := builtin(name)) is not None:
            yield NotAFunction(name, what, True, span=node.function.span)
        else:
            similar = reporter.suggest(name, (*FUNCTIONS, *module.all_defs()))
            yield UnknownName(name, similar, True, span=node.function.span)


def _cycles(module: Module) -> Iterator[tuple[str, ...]]:
    """Yield a path through each group of defs that need one another, from the first of them."""
    state: dict[str, int] = {}
    for start in module.own:
        if start in state:
            continue
        path: list[str] = []
        stack = [(start, iter(_needs(module.own[start])))]
        state[start] = 1
        path.append(start)
        while stack:
            name, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                state[name] = 2
                path.pop()
                stack.pop()
            elif state.get(following, 0) == 0:
                state[following] = 1
                path.append(following)
                stack.append((following, iter(_needs(module.own[following]))))
            elif state[following] == 1:
                cycle = path[path.index(following) :]
                yield (*cycle, following)


def _needs(info: DefInfo) -> tuple[str, ...]:
    """Return the defs of the same module that a def names."""
    args = info.args or ()
    names = [n.id for n in ast.walk(info.value) if isinstance(n, ast.Name) and n.id not in args]
    return tuple(dict.fromkeys(n for n in names if n in info.module.own))
