"""From offsets to lines and columns, and from a line's text to what a terminal shows of it.

Lines and columns count from 1, columns in characters. Invariant: what is shown holds no control
character and no tab, so that a spec's text cannot steer the terminal it is printed on.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache

from attnlang.sources import Source

_BREAK = re.compile(r"\r\n|\n|\r")
_TAB = 4
_ELLIPSIS = "..."


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file, as people count."""

    line: int
    column: int


@lru_cache(maxsize=64)
def _starts(source: Source) -> tuple[int, ...]:
    return (0, *(m.end() for m in _BREAK.finditer(source.text)))


def position(source: Source, offset: int) -> Position:
    """Return the line and column of an offset."""
    starts = _starts(source)
    line = bisect_right(starts, min(offset, len(source.text)))
    return Position(line, offset - starts[line - 1] + 1)


def line_text(source: Source, line: int) -> str:
    """Return a line without its break."""
    starts = _starts(source)
    end = starts[line] if line < len(starts) else len(source.text)
    return source.text[starts[line - 1] : end].rstrip("\r\n")


@dataclass(frozen=True, slots=True)
class Shown:
    """A line as a terminal shows it, and the cell at which each of its characters begins."""

    text: str
    cells: tuple[int, ...]

    def cell(self, index: int) -> int:
        """Return the cell of a character of the line; beyond its end, the cell after it."""
        return self.cells[min(max(index, 0), len(self.cells) - 1)]


def shown(text: str) -> Shown:
    """Expand tabs, and write what is not visible as its code point."""
    parts: list[str] = []
    cells: list[int] = []
    at = 0
    for c in text:
        cells.append(at)
        part = " " * (_TAB - at % _TAB) if c == "\t" else visible(c)
        parts.append(part)
        at += width(part)
    cells.append(at)
    return Shown("".join(parts), tuple(cells))


def visible(text: str) -> str:
    """Write control, direction and other invisible characters as `<U+001B>`."""
    return "".join(c if _is_visible(c) else f"<U+{ord(c):04X}>" for c in text)


def _is_visible(c: str) -> bool:
    if unicodedata.category(c) == "Zs":
        return c == " "
    return unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def width(text: str) -> int:
    """Return the number of cells that a visible text takes."""
    return sum(_cells(c) for c in text)


def _cells(c: str) -> int:
    if unicodedata.combining(c) or unicodedata.category(c) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1


def cut(text: str, first: int, last: int) -> tuple[str, int]:
    """Return the cells `[first, last)` of a visible text, and how far they moved to the left.

    What is left out is replaced by `...`; a wide character is never cut in half.
    """
    out: list[str] = []
    at = kept = 0
    start: int | None = None
    for c in text:
        cells = _cells(c)
        if at >= first and at + cells <= last:
            start = at if start is None else start
            out.append(c)
            kept += cells
        at += cells
    begin = first if start is None else start
    head = _ELLIPSIS if begin > 0 else ""
    tail = _ELLIPSIS if begin + kept < at else ""
    return head + "".join(out) + tail, begin - len(head)
