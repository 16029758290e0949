"""Formulas as nested boxes, and their rendering as one line of text.

Between the IR and what is shown: `formula` makes boxes, this file renders them as Unicode text,
`mathml` as MathML. Invariant: both renderings mean the same; where a fraction bar or a raised
exponent makes parentheses needless, only the line of text has them (`Fenced.text_only`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never


@dataclass(frozen=True, slots=True)
class Name:
    """An identifier; `vector` ones are bold."""

    text: str
    vector: bool = False


@dataclass(frozen=True, slots=True)
class Number:
    """A number, as it is written."""

    text: str


@dataclass(frozen=True, slots=True)
class Operator:
    """A sign between operands, or before one (`prefix`: no space after it)."""

    text: str
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Word:
    """Words in the place of a formula."""

    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """Boxes side by side."""

    parts: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Fenced:
    """A box between brackets."""

    inner: Box
    left: str = "("
    right: str = ")"
    text_only: bool = False


@dataclass(frozen=True, slots=True)
class Apply:
    """A function and its arguments."""

    function: Box
    args: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Sub:
    """A base with indices; those of a `read` stand in brackets in text."""

    base: Box
    indices: tuple[Box, ...]
    read: bool = False


@dataclass(frozen=True, slots=True)
class Power:
    """A base and an exponent."""

    base: Box
    exponent: Box


@dataclass(frozen=True, slots=True)
class Fraction:
    """A quotient; `fences`: whether each side needs parentheses in text."""

    top: Box
    bottom: Box
    fences: tuple[bool, bool]


@dataclass(frozen=True, slots=True)
class Root:
    """A square root."""

    inner: Box


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum of `body` over what `under` says."""

    under: Box
    body: Box


@dataclass(frozen=True, slots=True)
class Cases:
    """One value where a condition holds, another where it does not."""

    condition: Box
    then: Box
    otherwise: Box


Box = (
    Name
    | Number
    | Operator
    | Word
    | Row
    | Fenced
    | Apply
    | Sub
    | Power
    | Fraction
    | Root
    | Sum
    | Cases
)

_RAISED: Final = str.maketrans("0123456789+-−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻")


def to_text(box: Box) -> str:
    """Render a formula as a line of Unicode text."""
    match box:
        case Name(text) | Number(text) | Word(text):
            return text
        case Operator(text, prefix):
            return text if prefix else f" {text} "
        case Row(parts):
            return "".join(map(to_text, parts))
        case Fenced(inner, left, right):
            return f"{left}{to_text(inner)}{right}"
        case Apply(function, args):
            return f"{to_text(function)}({_list(args)})"
        case Sub(base, indices, read):
            if read:
                return f"{to_text(base)}[{_list(indices)}]"
            return f"{to_text(base)}_{''.join(map(to_text, indices))}"
        case Power(base, exponent):
            return to_text(base) + _exponent(to_text(exponent))
        case Fraction(top, bottom, fences):
            sides = zip((top, bottom), fences, strict=True)
            return " / ".join(f"({to_text(x)})" if fence else to_text(x) for x, fence in sides)
        case Root(Name(text) | Number(text)):
            return f"√{text}"
        case Root(inner):
            return f"√({to_text(inner)})"
        case Sum(under, body):
            return f"Σ_{{{to_text(under)}}} {to_text(body)}"
        case Cases(condition, then, otherwise):
            return f"{to_text(then)} if {to_text(condition)}, else {to_text(otherwise)}"
        case _:
            assert_never(box)


def _list(boxes: tuple[Box, ...]) -> str:
    return ", ".join(map(to_text, boxes))


def _exponent(text: str) -> str:
    if all(c in "0123456789+-−" for c in text):
        return text.translate(_RAISED)
    return f"^{text}" if text.isalnum() else f"^({text})"
