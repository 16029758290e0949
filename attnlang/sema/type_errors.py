"""Mistakes of kind and shape: a bool where a number is needed, a vector where a scalar is."""

# ruff: noqa: D102 -- the properties of messages are documented once, in the base class.

from __future__ import annotations

from dataclasses import dataclass

from attnlang.diagnostics.base import Label
from attnlang.sema.report import SemaDiagnostic
from attnlang.sources import Span


@dataclass(frozen=True, slots=True)
class NeedsScalar(SemaDiagnostic):
    """A vector where a scalar is needed."""

    code = "A203"
    what: str
    vector: str | None
    origin: Span | None = None

    @property
    def headline(self) -> str:
        return f"{self.what} must be a scalar, found a vector over `d`"

    @property
    def label(self) -> str:
        return "this varies along the head dimension"

    @property
    def related(self) -> tuple[Label, ...]:
        return (Label(self.origin, "because of this"),) if self.origin else ()

    @property
    def help(self) -> str | None:
        parts = {"q": "query", "k": "key", "v": "value"}
        if self.vector in parts and self.what in ("`score`", "`mask`", "`weights`"):
            product = "the sum" if self.vector == "v" else "the dot product"
            part = parts[self.vector]
            return f"a change to the {part} belongs in `{self.vector} = ...`, before {product}"
        if self.vector == "acc":
            return "a change to the sum belongs in `out = ...`"
        return "`dot(x, y)` makes a scalar of two vectors"


@dataclass(frozen=True, slots=True)
class NeedsVector(SemaDiagnostic):
    """A scalar where a vector is needed."""

    code = "A204"
    what: str
    found: str

    @property
    def headline(self) -> str:
        return f"{self.what} must be a vector over `d`, found {self.found}"

    @property
    def label(self) -> str:
        return "this is one value for the whole head dimension"


@dataclass(frozen=True, slots=True)
class NeedsNumber(SemaDiagnostic):
    """A bool in arithmetic."""

    code = "A214"
    what: str

    @property
    def headline(self) -> str:
        return f"{self.what} needs numbers, found a bool"

    @property
    def label(self) -> str:
        return "this is true or false"

    @property
    def help(self) -> str | None:
        return "`float(x)` and `int(x)` make 1 of `true` and 0 of `false`"


@dataclass(frozen=True, slots=True)
class WrongResult(SemaDiagnostic):
    """A result of the wrong kind."""

    code = "A215"
    name: str
    needs: str
    found: str

    @property
    def headline(self) -> str:
        return f"`{self.name}` must be {self.needs}, found {self.found}"

    @property
    def help(self) -> str | None:
        if self.name == "mask":
            return "compare it with a number: a column is kept where the mask is `true`"
        if self.found == "a bool":
            return "columns are hidden by `mask = ...`; `float(x)` makes a number of a bool"
        return None


@dataclass(frozen=True, slots=True)
class NeedsBool(SemaDiagnostic):
    """A number where a condition is needed."""

    code = "A216"
    what: str
    found: str

    @property
    def headline(self) -> str:
        return f"{self.what} needs a bool, found {self.found}"

    @property
    def help(self) -> str | None:
        return "compare it: `x != 0`"


@dataclass(frozen=True, slots=True)
class CannotCompare(SemaDiagnostic):
    """A bool is ordered, or compared with a number."""

    code = "A217"
    op: str
    left: str
    right: str
    at: Span

    @property
    def headline(self) -> str:
        return f"`{self.op}` cannot compare {self.left} with {self.right}"

    @property
    def notes(self) -> tuple[str, ...]:
        return ("two numbers compare in every way, two bools with `==` and `!=`",)

    @property
    def help(self) -> str | None:
        return None if self.left == self.right else "`int(x)` makes a number of a bool"


@dataclass(frozen=True, slots=True)
class BranchesDiffer(SemaDiagnostic):
    """The two values of an `if` have kinds that nothing unites."""

    code = "A218"
    then: str
    otherwise: str
    then_span: Span

    @property
    def headline(self) -> str:
        return f"`if` gives {self.then} or {self.otherwise}, it must give one kind"

    @property
    def label(self) -> str:
        return f"this is {self.otherwise}"

    @property
    def related(self) -> tuple[Label, ...]:
        return (Label(self.then_span, f"this is {self.then}"),)


@dataclass(frozen=True, slots=True)
class WrongKind(SemaDiagnostic):
    """An argument or index of the wrong kind."""

    code = "A225"
    what: str
    needs: str
    found: str

    @property
    def headline(self) -> str:
        return f"{self.what} must be {self.needs}, found {self.found}"

    @property
    def help(self) -> str | None:
        if self.needs == "an int" and self.found == "a float":
            return "`int(x)` cuts off what follows the point; `//` divides ints"
        if self.needs == "an int" and self.found == "a bool":
            return "`int(x)` makes 1 of `true` and 0 of `false`"
        return None


@dataclass(frozen=True, slots=True)
class NotConstant(SemaDiagnostic):
    """Something that must be known when the kernel is built is not."""

    code = "A226"
    what: str
    words: str

    @property
    def headline(self) -> str:
        return f"{self.what} must be known when the kernel is built"

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"it may be made of {self.words}",)
