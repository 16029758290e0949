"""Pieces of C++ that printers put together: values and what they are made of, literals, names.

A value's precedence is C++'s, so that an operator prints parentheses only where C++ needs them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum


class Lane(StrEnum):
    """What a C++ value is made of."""

    F = "f"  # float, F
    I = "i"  # I: 32-bit lanes; a scalar int is always L  # noqa: E741
    L = "l"  # int64_t, L
    M = "m"  # bool, M


@dataclass(frozen=True, slots=True)
class Value:
    """A C++ expression; `precedence` is C++'s (smaller binds tighter)."""

    code: str
    lane: Lane
    vector: bool
    precedence: int = 0

    def at(self, precedence: int) -> str:
        """Return the code, in parentheses where it binds more loosely than `precedence`."""
        return self.code if self.precedence <= precedence else f"({self.code})"


PRIMARY, UNARY, MUL, ADD, RELATION, EQUALITY, AND, XOR, OR, ANY = (
    0, 3, 5, 6, 9, 10, 11, 12, 13, 99,
)  # fmt: skip

_FLOAT32_MAX = 3.4028234663852886e38
_INT_LITERAL = re.compile(r"int64_t\{(-?\d+)\}")


def float_literal(value: float) -> str:
    """Print a float constant as C++ float32 text; a finite one stays finite."""
    if math.isnan(value):
        return "std::numeric_limits<float>::quiet_NaN()"
    sign = "-" if value < 0 else ""
    if math.isinf(value):
        return f"{sign}std::numeric_limits<float>::infinity()"
    if abs(value) >= _FLOAT32_MAX:
        return f"{sign}std::numeric_limits<float>::max()"
    return f"{value!r}f"


def int_literal(value: int) -> str:
    """Print an int constant as C++ int64_t text."""
    if value == -(2**63):
        return "std::numeric_limits<int64_t>::min()"
    return f"int64_t{{{value}}}"


def plain(code: str) -> str:
    """Print an int literal without its type, where any int type will do."""
    found = _INT_LITERAL.fullmatch(code)
    return found[1] if found else code


def bare(code: str) -> str:
    """Print an expression that stands alone without the parentheses around all of it."""
    depth, lowest = 0, len(code)  # within the outermost characters
    for char in code[:-1]:
        depth += (char == "(") - (char == ")")
        lowest = min(lowest, depth)
    return code[1:-1] if code.startswith("(") and lowest > 0 else code


def int32_literal(code: str) -> str:
    """Print an int of any type as an int32_t."""
    literal = plain(code)
    return literal if literal != code else f"int32_t({code})"


def param_field(name: str) -> str:
    """Return the field of a parameter; the prefix keeps users' names apart from C++'s."""
    return f"arg_{name}"


def size_field(name: str) -> str:
    """Return the field of a size."""
    return f"size_{name}"
