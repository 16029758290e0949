"""From a document, text with the places where it may break, to lines of at most 100 columns.

Wadler's "A prettier printer" (2003): a group stands on one line if it fits, else each of its own
places breaks; groups inside decide for themselves. A comment ends its line, so what holds one is
broken. Invariant: the lines depend on nothing but the document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, assert_never

from attnlang.syntax.trivia import Comment

WIDTH: Final = 100
INDENT: Final = 4


@dataclass(frozen=True, slots=True)
class Text:
    """Text that never breaks."""

    text: str


@dataclass(frozen=True, slots=True)
class Space:
    """A space, unless a line ends here."""


@dataclass(frozen=True, slots=True)
class Break:
    """A line break where its group is broken, else `flat`."""

    flat: str


@dataclass(frozen=True, slots=True)
class IfBroken:
    """Text only where its group is broken: the comma after the last of a list."""

    text: str


@dataclass(frozen=True, slots=True)
class Comments:
    """Comments; the first may stand behind the code before it, each other has its own line."""

    comments: tuple[Comment, ...]


@dataclass(frozen=True, slots=True)
class Nest:
    """Parts whose further lines are indented once more."""

    parts: tuple[Doc, ...]
    hard: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Parts that are on one line, or broken at every one of their own places."""

    parts: tuple[Doc, ...]
    hard: bool


Doc = Text | Space | Break | IfBroken | Comments | Nest | Group


def nest(*parts: Doc) -> Nest:
    """Indent the further lines of the parts."""
    return Nest(parts, _holds_comments(parts))


def group(*parts: Doc) -> Group:
    """Put parts on one line if they fit."""
    return Group(parts, _holds_comments(parts))


def _holds_comments(parts: Sequence[Doc]) -> bool:
    return any(isinstance(p, Comments) or (isinstance(p, Nest | Group) and p.hard) for p in parts)


@dataclass(frozen=True, slots=True)
class _Todo:
    doc: Doc
    indent: int
    flat: bool


@dataclass(slots=True)
class Page:
    """The lines written so far, each its code and the comment behind it, and the line under way."""

    _lines: list[tuple[str, str]] = field(default_factory=list)
    _code: str = ""
    _comment: str = ""
    _ended: bool = True

    @property
    def empty(self) -> bool:
        """Whether nothing has been written."""
        return not self._lines and not self._code

    def text(self) -> str:
        """Return the page, with a line break at the end of each line."""
        self._end_line()
        return "".join(f"{line}\n" for line in _aligned(self._lines))

    def blank_line(self) -> None:
        """Leave one line empty."""
        self._end_line()
        self._lines.append(("", ""))

    def comments(self, comments: Sequence[Comment], indent: int) -> None:
        """Write comments; the first behind the code of this line where that is its place."""
        for comment in comments:
            if comment.trailing and self._code and not self._ended:
                self._comment = comment.text
            else:
                self._end_line()
                self._code = " " * indent + comment.text
            self._ended = True

    def doc(self, doc: Doc, indent: int) -> None:
        """Write a document, from a new line on."""
        self._ended = True
        todo = [_Todo(doc, indent, False)]
        while todo:
            top = todo.pop()
            match top.doc:
                case Text(text):
                    self._write(text, top.indent)
                case Space():
                    self._space(" ")
                case Break(flat):
                    if top.flat:
                        self._space(flat)
                    else:
                        self._ended = True
                case IfBroken(text):
                    if not top.flat:
                        self._write(text, top.indent)
                case Comments(comments):
                    self.comments(comments, top.indent)
                case Nest(parts):
                    todo.extend(_below(parts, top.indent + INDENT, top.flat))
                case Group(parts, hard):
                    inside = _below(parts, top.indent, True)
                    one_line = top.flat or (not hard and self._fits(inside, todo))
                    todo.extend(inside if one_line else _below(parts, top.indent, False))
                case _:
                    assert_never(top.doc)

    def _write(self, text: str, indent: int) -> None:
        if self._ended:
            self._end_line()
            self._code = " " * indent
            self._ended = False
        self._code += text

    def _space(self, text: str) -> None:
        if not self._ended:
            self._code += text

    def _end_line(self) -> None:
        if self._code:
            self._lines.append((self._code.rstrip(" "), self._comment))
        self._code = self._comment = ""
        self._ended = True

    def _fits(self, inside: Sequence[_Todo], rest: Sequence[_Todo]) -> bool:
        """Whether the parts, flat, and what must follow them on their line fit on this line."""
        room = WIDTH - (inside[0].indent if self._ended and inside else len(self._code))
        for length in _lengths(inside, rest):
            room -= length
            if room < 0:
                return False
        return True


def _below(parts: Sequence[Doc], indent: int, flat: bool) -> list[_Todo]:
    return [_Todo(part, indent, flat) for part in reversed(parts)]


def _lengths(inside: Sequence[_Todo], rest: Sequence[_Todo]) -> Iterator[int]:
    """Yield the lengths of the texts up to the first place where the line may end."""
    todo = list(inside)
    left = len(rest)
    while todo or left:
        if todo:
            top = todo.pop()
        else:
            left -= 1
            top = rest[left]
        match top.doc:
            case Text(text):
                yield len(text)
            case Space():
                yield 1
            case Break(flat):
                if not top.flat:
                    return
                yield len(flat)
            case IfBroken(text):
                if not top.flat:
                    yield len(text)
            case Comments():
                return
            case Nest(parts) | Group(parts):
                todo.extend(_below(parts, 0, top.flat))
            case _:
                assert_never(top.doc)


def _aligned(lines: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield lines as text, the comments behind the code of successive lines in one column."""
    for commented, block in groupby(lines, lambda line: line[1] != ""):
        found = list(block)
        if not commented:
            yield from (code for code, _ in found)
            continue
        column = max(len(code) for code, _ in found) + 2
        aligned = all(column + len(comment) <= WIDTH for _, comment in found)
        for code, comment in found:
            yield code.ljust(column if aligned else len(code) + 2) + comment
