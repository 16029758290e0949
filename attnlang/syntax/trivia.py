"""From a source and its tokens to words: each token as written, with the comments before it.

What a formatter needs beside the tokens is between them: comments, and where a blank line was.
Invariant: every comment belongs to exactly one word, that of the next token; the last word, the
empty `END`, has those at the end of the file. A comma that a list may end with is not among the
words, for whether one is written follows from the layout; its comments go to the next word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from attnlang.sources import Source
from attnlang.syntax.tokens import Token

END: Final = ""

_GAP = re.compile(r"(?P<comment>#[^\n\r]*)|(?P<line_break>\r\n?|\n)")
_AFTER_A_LIST: Final = frozenset({")", "]", "attention", "def", "from", END})


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment; `trailing` if code stood before it on its line, `blank` after a blank line."""

    text: str
    trailing: bool
    blank: bool
    indented: bool


@dataclass(frozen=True, slots=True)
class Word:
    """A token's text and place; `blank` if a blank line stood directly before it."""

    text: str
    start: int
    comments: tuple[Comment, ...]
    blank: bool


def words(source: Source, tokens: Sequence[Token]) -> tuple[Word, ...]:
    """Return the words of a source whose tokens are sound."""
    found: list[Word] = []
    at = 0
    for token in tokens:
        found.append(_word(source, token.text, at, token.span.start))
        at = token.span.end
    found.append(_word(source, END, at, len(source.text)))
    return _without_last_commas(found)


def _word(source: Source, text: str, gap_start: int, start: int) -> Word:
    comments: list[Comment] = []
    # A file begins on a line of its own, without a blank one before it.
    breaks = 1 if gap_start == 0 else 0
    line_start, fresh = gap_start, gap_start == 0
    for match in _GAP.finditer(source.text, gap_start, start):
        if match["line_break"]:
            breaks += 1
            line_start, fresh = match.end(), True
            continue
        text_of = match["comment"].rstrip(" \t\f")
        indented = match.start() > line_start
        comments.append(Comment(text_of, not fresh, breaks > 1, indented))
        breaks = 0
    return Word(text, start, tuple(comments), breaks > 1)


def _without_last_commas(found: Sequence[Word]) -> tuple[Word, ...]:
    kept: list[Word] = []
    dropped: tuple[Comment, ...] = ()
    for word, following in zip(found, (*found[1:], None), strict=True):
        if word.text == "," and following is not None and following.text in _AFTER_A_LIST:
            dropped = word.comments
            continue
        kept.append(replace(word, comments=(*dropped, *word.comments)) if dropped else word)
        dropped = ()
    return tuple(kept)
