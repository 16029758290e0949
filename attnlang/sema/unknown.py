"""Names that mean nothing, or nothing here."""

# ruff: noqa: D102 -- the properties of messages are documented once, in the base class.

from __future__ import annotations

from dataclasses import dataclass

from attnlang.diagnostics.base import Label
from attnlang.sema.report import SemaDiagnostic
from attnlang.sources import Span


@dataclass(frozen=True, slots=True)
class UnknownName(SemaDiagnostic):
    """A name that nothing has."""

    code = "A201"
    name: str
    similar: str | None
    is_call: bool = False
    later: Span | None = None

    @property
    def headline(self) -> str:
        kind = "function" if self.is_call else "name"
        return f"unknown {kind} `{self.name}`"

    @property
    def label(self) -> str:
        return "not assigned yet" if self.later else "nothing has this name here"

    @property
    def related(self) -> tuple[Label, ...]:
        return (Label(self.later, "it is assigned here"),) if self.later else ()

    @property
    def help(self) -> str | None:
        if self.later:
            return "statements run in order: move the assignment before its first use"
        return (
            f"a similar name exists: `{self.similar}`" if self.similar else _FOREIGN.get(self.name)
        )


_FOREIGN = {
    "i": "the position of the query is `q_idx`",
    "j": "the position of the key is `kv_idx`",
    "raw": "the scaled dot product is what `score` is before it is assigned",
    "bool": "compare instead: `x != 0`",
    "max_score": "the kernel keeps its own running maximum; nothing needs it in a spec",
    "sum": "a sum over columns is what `softmax`, `acc` and `row_sum` are for",
    "where": "write `x if condition else y`",
    "pow": "write `x ** y`",
    "True": "write `true`",
    "False": "write `false`",
    "None": "write `none`",
}


@dataclass(frozen=True, slots=True)
class NotReadableHere(SemaDiagnostic):
    """A name that exists, but has no value in this place."""

    code = "A209"
    name: str
    place: str
    words: str
    what: str | None = None
    origin: Span | None = None

    @property
    def headline(self) -> str:
        return f"`{self.name}` cannot be read in {self.place}"

    @property
    def label(self) -> str:
        return f"it is made of {self.what}" if self.what and self.origin else ""

    @property
    def related(self) -> tuple[Label, ...]:
        return (Label(self.origin, f"{self.what} is read here"),) if self.origin else ()

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"{self.place} may be made of {self.words}",)

    @property
    def help(self) -> str | None:
        if self.name == "h" and self.place in ("`k`", "`v`"):
            return "a key/value head serves several query heads; its index is `h_kv`"
        if self.name == "h_kv":
            return "write `h // (HQ // HKV)` for the key/value head of a query head"
        return None


@dataclass(frozen=True, slots=True)
class NotInDef(SemaDiagnostic):
    """A def names a vector or a result."""

    code = "A210"
    name: str
    what: str

    @property
    def headline(self) -> str:
        return f"a def cannot read `{self.name}`"

    @property
    def label(self) -> str:
        return f"`{self.name}` is {self.what}"

    @property
    def notes(self) -> tuple[str, ...]:
        return ("a def sees its arguments, coordinates, sizes and other defs",)

    @property
    def help(self) -> str | None:
        return "make it an argument, and pass it where the def is used"


@dataclass(frozen=True, slots=True)
class NotAFunction(SemaDiagnostic):
    """Something without arguments is called, or a function is named without them."""

    code = "A205"
    name: str
    what: str
    called: bool
    advice: str | None = None

    @property
    def headline(self) -> str:
        if self.called:
            return f"`{self.name}` is {self.what}, it takes no arguments"
        return f"`{self.name}` is {self.what}, it needs its arguments"

    @property
    def help(self) -> str | None:
        return self.advice
