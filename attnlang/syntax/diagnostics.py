"""The messages of the lexer and the parser: A101 to A119 what is written wrongly, A130 on limits.

Invariant: a message speaks of the language (`an expression`, `` `:` ``), never of the parser's
terminals. `found` is already a phrase: `` `)` ``, `the end of the file`.
"""

# ruff: noqa: D102 -- the properties are documented once, in the base class.

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import ClassVar

from attnlang.diagnostics.base import Diagnostic, Label
from attnlang.diagnostics.suggest import nearest
from attnlang.sources import Span


@dataclass(frozen=True, slots=True)
class UnexpectedToken(Diagnostic):
    """A token that cannot continue what was written so far."""

    code: ClassVar[str] = "A101"

    expected: str
    found: str
    context: tuple[Label, ...] = ()
    advice: str | None = None

    @property
    def headline(self) -> str:
        return f"expected {self.expected}, found {self.found}"

    @property
    def label(self) -> str:
        return f"expected {self.expected}"

    @property
    def secondary(self) -> tuple[Label, ...]:
        return self.context

    @property
    def help(self) -> str | None:
        return self.advice


@dataclass(frozen=True, slots=True)
class UnclosedBracket(Diagnostic):
    """Something that cannot stand between brackets, before they are closed."""

    code: ClassVar[str] = "A102"

    opener: Span
    bracket: str
    found: str

    @property
    def headline(self) -> str:
        return f"`{self.bracket}` is not closed"

    @property
    def label(self) -> str:
        return f"expected `{_CLOSING[self.bracket]}` before {self.found}"

    @property
    def secondary(self) -> tuple[Label, ...]:
        return (Label(self.opener, "opened here"),)


@dataclass(frozen=True, slots=True)
class UnmatchedBracket(Diagnostic):
    """A closing bracket that closes nothing, or another kind of bracket."""

    code: ClassVar[str] = "A103"

    bracket: str
    opener: Span | None = None
    opening: str | None = None

    @property
    def headline(self) -> str:
        if self.opening is None:
            return f"`{self.bracket}` closes nothing"
        return f"`{self.bracket}` cannot close `{self.opening}`"

    @property
    def label(self) -> str:
        if self.opening is None:
            return "no bracket is open here"
        return f"expected `{_CLOSING[self.opening]}`"

    @property
    def secondary(self) -> tuple[Label, ...]:
        return () if self.opener is None else (Label(self.opener, "opened here"),)


@dataclass(frozen=True, slots=True)
class AssignmentInExpression(Diagnostic):
    """`=` where a comparison was meant."""

    code: ClassVar[str] = "A104"

    @property
    def headline(self) -> str:
        return "`=` inside an expression"

    @property
    def label(self) -> str:
        return "`=` gives a name its value and is no operator"

    @property
    def help(self) -> str:
        return "write `==` to compare"


@dataclass(frozen=True, slots=True)
class MissingColon(Diagnostic):
    """An attention's header without its colon."""

    code: ClassVar[str] = "A105"

    name: str
    found: str

    @property
    def headline(self) -> str:
        return f"expected `:` after the header of `{self.name}`, found {self.found}"

    @property
    def label(self) -> str:
        return "expected `:` before this"

    @property
    def help(self) -> str:
        return f"write `attention {self.name}:` or `attention {self.name}(...):`"


@dataclass(frozen=True, slots=True)
class ForeignSpelling(Diagnostic):
    """An operator, literal or quote of another language."""

    code: ClassVar[str] = "A106"

    found: str
    advice: str

    @property
    def headline(self) -> str:
        return f"`{self.found}` is not part of the language"

    @property
    def help(self) -> str:
        return self.advice


@dataclass(frozen=True, slots=True)
class ForeignSyntax(Diagnostic):
    """A statement or a form of another language, known by its first word."""

    code: ClassVar[str] = "A107"

    word: str
    advice: str

    @property
    def headline(self) -> str:
        return f"the language has no `{self.word}`"

    @property
    def help(self) -> str:
        return self.advice


@dataclass(frozen=True, slots=True)
class OddCharacter(Diagnostic):
    """A character that no token has."""

    code: ClassVar[str] = "A108"

    character: str
    where: str = ""
    meant: str | None = None

    @property
    def headline(self) -> str:
        where = f" in {self.where}" if self.where else ""
        return f"unexpected character {_describe(self.character)}{where}"

    @property
    def notes(self) -> tuple[str, ...]:
        if self.where == "a name":
            return ("a name is made of the letters a-z and A-Z, digits and `_`",)
        return ()

    @property
    def help(self) -> str | None:
        return None if self.meant is None else f"write {self.meant}"


@dataclass(frozen=True, slots=True)
class UnterminatedString(Diagnostic):
    """A string without its closing quote."""

    code: ClassVar[str] = "A109"

    @property
    def headline(self) -> str:
        return "the string is not closed"

    @property
    def label(self) -> str:
        return 'no `"` before the end of the line'

    @property
    def help(self) -> str:
        return "close the string on its line; a line break in it is written `\\n`"


@dataclass(frozen=True, slots=True)
class BadEscape(Diagnostic):
    """A backslash before a character that it does not escape."""

    code: ClassVar[str] = "A110"

    escape: str

    @property
    def headline(self) -> str:
        return f"unknown escape `{self.escape}` in a string"

    @property
    def help(self) -> str:
        return (
            'the escapes are `\\n`, `\\t`, `\\"` and `\\\\`; a backslash itself is written `\\\\`'
        )


@dataclass(frozen=True, slots=True)
class BadNumber(Diagnostic):
    """Digits that are no number."""

    code: ClassVar[str] = "A111"

    text: str
    advice: str | None = None

    @property
    def headline(self) -> str:
        return f"`{self.text}` is not a number"

    @property
    def notes(self) -> tuple[str, ...]:
        return ("a number is written `12`, `1.5` or `1e-6`",)

    @property
    def help(self) -> str | None:
        return self.advice


@dataclass(frozen=True, slots=True)
class UnknownType(Diagnostic):
    """A parameter's type that is none of the three."""

    code: ClassVar[str] = "A112"

    name: str

    @property
    def headline(self) -> str:
        return f"unknown type `{self.name}`"

    @property
    def label(self) -> str:
        return "expected `float`, `int` or `bool`"

    @property
    def help(self) -> str | None:
        name = self.name.lower()
        for kind, prefixes in _KINDS.items():
            if name.startswith(prefixes):
                return f"write `{kind}`; a width is the tensor's own, never the spec's"
        if name == "tensor":
            return "a tensor is written by its elements and its shape: `float[HQ]`"
        close = nearest(self.name, _KINDS)
        return None if close is None else f"write `{close}`"


@dataclass(frozen=True, slots=True)
class FileTooLarge(Diagnostic):
    """More bytes than any spec needs."""

    code: ClassVar[str] = "A130"

    limit: int

    @property
    def headline(self) -> str:
        return f"the file has more than {self.limit:,} bytes"


@dataclass(frozen=True, slots=True)
class TooManyTokens(Diagnostic):
    """More words and signs than any spec needs."""

    code: ClassVar[str] = "A131"

    limit: int

    @property
    def headline(self) -> str:
        return f"the file has more than {self.limit} words and signs"

    @property
    def help(self) -> str:
        return "move items to a file of their own and import them"


@dataclass(frozen=True, slots=True)
class NestedTooDeeply(Diagnostic):
    """An expression deeper than later stages walk."""

    code: ClassVar[str] = "A132"

    limit: int

    @property
    def headline(self) -> str:
        return f"the expression is nested more than {self.limit} levels deep"

    @property
    def notes(self) -> tuple[str, ...]:
        return ("each operator, call and bracket is a level; a sum of n terms has n - 1",)

    @property
    def help(self) -> str:
        return "give a part of it a name"


@dataclass(frozen=True, slots=True)
class IntTooLarge(Diagnostic):
    """An int literal that does not fit in 64 bits."""

    code: ClassVar[str] = "A133"

    @property
    def headline(self) -> str:
        return "the integer does not fit in 64 bits"

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"the largest one is {2**63 - 1}",)

    @property
    def help(self) -> str:
        return "write it with a decimal point if a float is meant"


@dataclass(frozen=True, slots=True)
class FloatTooLarge(Diagnostic):
    """A float literal beyond the largest float."""

    code: ClassVar[str] = "A134"

    @property
    def headline(self) -> str:
        return "the number is larger than any float"

    @property
    def help(self) -> str:
        return "infinity is written `inf`"


@dataclass(frozen=True, slots=True)
class TooMany(Diagnostic):
    """More items in a file, or names in a list, than the limit."""

    code: ClassVar[str] = "A135"

    what: str
    limit: int

    @property
    def headline(self) -> str:
        return f"more than {self.limit} {self.what}"


@dataclass(frozen=True, slots=True)
class TooManyErrors(Diagnostic):
    """The rest of the errors is not worth reading."""

    code: ClassVar[str] = "A136"

    limit: int

    @property
    def headline(self) -> str:
        return f"more than {self.limit} syntax errors; the rest is not shown"


_CLOSING = {"(": ")", "[": "]"}
_KINDS = {
    "float": ("float", "double", "half", "bfloat", "bf16", "f16", "f32", "f64", "fp"),
    "int": ("int", "uint", "long", "i32", "i64"),
    "bool": ("bool",),
}


def _describe(character: str) -> str:
    """Return a character by its sign, where it has one, its code point and its name."""
    name = unicodedata.name(character, "")
    point = f"U+{ord(character):04X} {name}".rstrip()
    if character.isprintable() and character not in " `":
        return f"`{character}` ({point})"
    return point
