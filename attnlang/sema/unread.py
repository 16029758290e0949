"""What is written and never read: an error for a local, a warning for the rest.

Looks at names alone, so that an error elsewhere changes nothing here.
"""

# ruff: noqa: D102 -- the properties of messages are documented once, in the base class.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attnlang.diagnostics.base import Diagnostic, Label, Severity
from attnlang.sema.names import ASSIGNABLE, SIZES
from attnlang.sema.report import Reporter, SemaDiagnostic
from attnlang.sources import Span
from attnlang.syntax import ast


@dataclass(frozen=True, slots=True)
class UnreadLocal(SemaDiagnostic):
    """A local that nothing reads: mostly a misspelt result."""

    code = "A213"
    name: str
    similar: str | None
    overwritten: Span | None

    @property
    def headline(self) -> str:
        return f"`{self.name}` is never read"

    @property
    def label(self) -> str:
        return "this value is lost" if self.overwritten else "this local changes nothing"

    @property
    def related(self) -> tuple[Label, ...]:
        return (Label(self.overwritten, "another value follows"),) if self.overwritten else ()

    @property
    def help(self) -> str | None:
        if self.similar:
            return f"a similar name exists: `{self.similar}`"
        return None if self.overwritten else "read it in a result, or remove it"


@dataclass(frozen=True, slots=True)
class UnreadParam(SemaDiagnostic):
    """A parameter that nothing reads."""

    code = "W101"
    severity = Severity.WARNING
    name: str

    @property
    def headline(self) -> str:
        return f"the parameter `{self.name}` is never read"

    @property
    def label(self) -> str:
        return "its value changes nothing"


@dataclass(frozen=True, slots=True)
class UnreadDef(SemaDiagnostic):
    """A def that nothing in the file uses."""

    code = "W102"
    severity = Severity.WARNING
    name: str

    @property
    def headline(self) -> str:
        return f"the def `{self.name}` is never used"


@dataclass(frozen=True, slots=True)
class UnreadImport(SemaDiagnostic):
    """An imported name that nothing in the file uses."""

    code = "W103"
    severity = Severity.WARNING
    name: str

    @property
    def headline(self) -> str:
        return f"the import `{self.name}` is never used"


@dataclass(frozen=True, slots=True)
class UnreadResult(SemaDiagnostic):
    """A result whose value is replaced, or that nothing uses any more."""

    code = "W105"
    severity = Severity.WARNING
    name: str
    overwritten: Span | None
    taken: Span | None = None

    @property
    def headline(self) -> str:
        return f"this value of `{self.name}` is never used"

    @property
    def related(self) -> tuple[Label, ...]:
        if self.overwritten:
            return (Label(self.overwritten, "this takes its place without reading it"),)
        return (Label(self.taken, "the weights do not read it"),) if self.taken else ()

    @property
    def help(self) -> str | None:
        if self.overwritten and self.name == "mask":
            return "conditions are joined with `and`, in one mask or by reading the former one"
        if self.overwritten:
            return f"read the former value in the new one, as in `{self.name} = {self.name} ...`"
        return "`weights = softmax(score)` takes the value that the score has there"


def reads(node: ast.Node) -> frozenset[str]:
    """Return every name in an expression."""
    return frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name))


def unread_bindings(item: ast.Attention, reporter: Reporter) -> Iterator[Diagnostic]:
    """Yield the locals and results of an attention whose values are lost."""
    statements = item.statements
    names = [reads(s.value if isinstance(s, ast.Assign) else s.condition) for s in statements]
    params = tuple(p.name for p in item.params or ())
    locals_ = tuple(dict.fromkeys(s.name for s in statements if isinstance(s, ast.Assign)))
    for i, statement in enumerate(statements):
        if not isinstance(statement, ast.Assign):
            continue
        name = statement.name
        read, overwritten = _fate(name, statements[i + 1 :], names[i + 1 :])
        if read:
            continue
        if name in ASSIGNABLE:
            yield from _lost_result(statement, overwritten, item)
        else:
            similar = reporter.suggest(name, (*ASSIGNABLE, *params, *locals_))
            yield UnreadLocal(name, similar, overwritten, span=statement.name_span)


def _fate(
    name: str, following: Sequence[ast.Require | ast.Assign], names: Sequence[frozenset[str]]
) -> tuple[bool, Span | None]:
    """Return whether a value is read, and where it is replaced when not."""
    weights_assigned = False
    for statement, read in zip(following, names, strict=True):
        if name in read or (name == "score" and "weights" in read and not weights_assigned):
            return True, None
        if isinstance(statement, ast.Assign):
            weights_assigned = weights_assigned or statement.name == "weights"
            if statement.name == name:
                return False, statement.name_span
    return False, None


def _lost_result(
    statement: ast.Assign, overwritten: Span | None, item: ast.Attention
) -> Iterator[Diagnostic]:
    name = statement.name
    if overwritten is not None:
        yield UnreadResult(name, overwritten, span=statement.name_span)
    elif name == "score":
        weights = [s for s in item.statements if isinstance(s, ast.Assign) and s.name == "weights"]
        if weights:
            span = statement.name_span
            yield UnreadResult(name, None, weights[-1].name_span, span=span)


def unread_params(item: ast.Attention) -> Iterator[Diagnostic]:
    """Yield the parameters that nothing reads; a tensor is read where a size of its is."""
    used: set[str] = set()
    for statement in item.statements:
        used |= reads(statement.value if isinstance(statement, ast.Assign) else statement.condition)
    params = item.params or ()
    in_dims = {p.name: reads(p.type) for p in params}
    names = in_dims.keys()
    for param in params:
        sizes = in_dims[param.name] - names - frozenset(SIZES)
        dimension = any(param.name in found for found in in_dims.values())
        if param.name not in used and not dimension and not sizes & used:
            yield UnreadParam(param.name, span=param.name_span)


def unread_items(file: ast.File) -> Iterator[Diagnostic]:
    """Yield the imports and defs of a file with an attention that nothing in it uses."""
    if not any(isinstance(item, ast.Attention) for item in file.items):
        return
    used: set[str] = set()
    for item in file.items:
        match item:
            case ast.Def(name, args, value):
                own = {a.id for a in args or ()} | {name}
                used |= reads(value) - own
            case ast.Attention():
                used |= reads_of(item)
            case ast.Import():
                pass
    for item in file.items:
        match item:
            case ast.Def(name) if name not in used:
                yield UnreadDef(name, span=item.name_span)
            case ast.Import(names=names):
                for name_node in names:
                    if name_node.id not in used:
                        yield UnreadImport(name_node.id, span=name_node.span)
            case _:
                pass


def reads_of(item: ast.Attention) -> frozenset[str]:
    """Return every name that an attention reads, in its parameters too."""
    return frozenset(n.id for n in ast.walk(item) if isinstance(n, ast.Name))
