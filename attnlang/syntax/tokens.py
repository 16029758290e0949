"""What the lexer hands to the parser.

A token's `type` is the name of a terminal of `grammar/attn.lark`; its `value` is what the tree
needs of it: the text of a name, the number of a number, the characters of a string.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attnlang.sources import Span

END: Final = "$END"

OPENERS: Final = {"LPAR": "RPAR", "LSQB": "RSQB"}
CLOSERS: Final = {"RPAR": "LPAR", "RSQB": "LSQB"}
KINDS: Final = ("float", "int", "bool")
ITEM_STARTS: Final = frozenset({"ATTENTION", "DEF", "FROM"})


@dataclass(frozen=True, slots=True)
class RawToken:
    """A match of a terminal, before anybody looked inside."""

    type: str
    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Token:
    """A word, number, string or sign of the language."""

    type: str
    value: str | int | float
    span: Span

    @property
    def text(self) -> str:
        """The token as it was written."""
        return self.span.source.text[self.span.start : self.span.end]
