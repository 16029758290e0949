"""A file's defs by name: what its expressions may call.

Maps a parsed file to a `Module`. Invariant: a def that is not in `broken` names only what exists
and is not recursive, so putting it in place of its name always ends.
"""

# ruff: noqa: D102 -- the properties of messages are documented once, in the base class.

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from attnlang.assets import asset
from attnlang.diagnostics.base import Label
from attnlang.sema.names import reserved
from attnlang.sema.report import Reporter, SemaDiagnostic
from attnlang.sources import Source, Span
from attnlang.syntax import ast
from attnlang.syntax.parser import parse


@dataclass(frozen=True, slots=True)
class ReservedName(SemaDiagnostic):
    """A name that may not be given to a parameter, a local, a def or a size."""

    code = "A211"
    name: str
    reason: str
    role: str
    advice: str | None = None

    @property
    def headline(self) -> str:
        return f"{self.role} cannot be named `{self.name}`"

    @property
    def label(self) -> str:
        return f"`{self.name}` is {self.reason}"

    @property
    def help(self) -> str | None:
        return self.advice or f"another name, such as `{self.name.lower()}_value`, is free"


@dataclass(frozen=True, slots=True)
class DuplicateName(SemaDiagnostic):
    """Two things of one file, or two parameters, with one name."""

    code = "A212"
    name: str
    before: Span

    @property
    def headline(self) -> str:
        return f"the name `{self.name}` is used twice"

    @property
    def label(self) -> str:
        return "the second use"

    @property
    def related(self) -> tuple[Label, ...]:
        return (Label(self.before, "the first use"),)

    @property
    def notes(self) -> tuple[str, ...]:
        return ("imports, defs, attentions, parameters and locals share one namespace",)


@dataclass(frozen=True, slots=True)
class DefInfo:
    """A def and the module whose names its expression sees."""

    name: str
    args: tuple[str, ...] | None
    value: ast.Expr
    span: Span
    module: Module = field(repr=False, compare=False)


@dataclass(slots=True, eq=False)
class Module:
    """The names of one file. `defs` holds its own and the imported ones, `own` its own."""

    source: Source
    prelude: Module | None
    defs: dict[str, DefInfo] = field(default_factory=dict)
    own: dict[str, DefInfo] = field(default_factory=dict)
    attentions: dict[str, Span] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    spans: dict[str, Span] = field(default_factory=dict)

    def find(self, name: str) -> DefInfo | None:
        """Return the def that a name means in this file."""
        found = self.defs.get(name)
        if found is None and self.prelude is not None:
            return self.prelude.defs.get(name)
        return found

    def is_broken(self, name: str) -> bool:
        """Whether a name stands for something that has been reported as wrong."""
        return name in self.broken

    @property
    def prelude_names(self) -> frozenset[str]:
        """The names that may not be defined again."""
        return frozenset(self.prelude.defs if self.prelude else ())

    def all_defs(self) -> tuple[str, ...]:
        """Return every def that can be named here."""
        return (*self.defs, *self.prelude_names)

    def enter(self, name: str, span: Span, reporter: Reporter) -> bool:
        """Enter a name of the file; False when it is taken."""
        if name in self.spans:
            reporter.report(DuplicateName(name, self.spans[name], span=span))
            return False
        self.spans[name] = span
        return True

    def add_def(self, item: ast.Def, reporter: Reporter) -> None:
        """Enter a def of this file."""
        sound = self.enter(item.name, item.name_span, reporter)
        if not sound:
            return
        if (reason := reserved(item.name, self.prelude_names)) is not None:
            error = ReservedName(item.name, reason, "a def", span=item.name_span)
            reporter.report(error)
            self.broken.add(item.name)
            return
        args = None if item.args is None else tuple(a.id for a in item.args)
        info = DefInfo(item.name, args, item.value, item.name_span, self)
        self.defs[item.name] = self.own[item.name] = info
        first: dict[str, Span] = {}
        for arg in item.args or ():
            if arg.id in first:
                reporter.report(DuplicateName(arg.id, first[arg.id], span=arg.span))
                self.broken.add(item.name)
            first.setdefault(arg.id, arg.span)

    def add_attention(self, item: ast.Attention, reporter: Reporter) -> bool:
        """Enter the name of an attention of this file; False when it is taken."""
        if not self.enter(item.name, item.name_span, reporter):
            return False
        self.attentions[item.name] = item.name_span
        return True


@cache
def prelude() -> Module:
    """Return the prelude, analysed."""
    from attnlang.sema.def_names import check_defs

    path = asset("grammar", "prelude.attn")
    source = Source("prelude.attn", path.read_text(encoding="utf-8"))
    result = parse(source)
    module = Module(source, None)
    reporter = Reporter()
    for item in result.file.items:
        if isinstance(item, ast.Def):
            module.add_def(item, reporter)
    check_defs(module, reporter)
    if result.diagnostics or reporter.diagnostics:
        raise AssertionError(
            f"the prelude is wrong: {(*result.diagnostics, *reporter.diagnostics)}"
        )
    return module
