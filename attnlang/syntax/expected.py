"""From the terminals that could have continued to words: what was expected, what was found.

The set comes from the parser's table; the words are the language's. Invariant: no name of a
terminal is ever shown.
"""

from __future__ import annotations

from collections.abc import Set

from attnlang.syntax.tokens import Token

_SIGNS = {
    "EQUAL": "`=`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "COMMA": "`,`",
    "COLON": "`:`",
    "ELSE": "`else`",
    "IMPORT": "`import`",
}
_ITEMS = "`attention`, `def` or `from`"


def expected(accepts: Set[str], previous: Token | None) -> str:
    """Say what could have stood here. `previous` is the token before, None at a file's start."""
    if "NUMBER" in accepts:
        return _before_operand(accepts, previous)
    if "PLUS" in accepts:
        return _after_operand(accepts)
    if "CONST" in accepts:
        return "a parameter or `)`" if "RPAR" in accepts else "a parameter"
    if "KIND" in accepts:
        return "a type: `float`, `int` or `bool`"
    if "REQUIRE" in accepts:
        return "a statement" if "STRING" not in accepts else "a statement or a description"
    if "DEF" in accepts:
        return _ITEMS
    if "STRING" in accepts:
        return _string_of(previous)
    words = [word for type_, word in _SIGNS.items() if type_ in accepts]
    if "NAME" in accepts:
        words.insert(0, _name_of(previous))
    return one_of(words) if words else "the end of the file"


def found(token: Token) -> str:
    """Name the token that came instead."""
    match token.type:
        case "$END":
            return "the end of the file"
        case "STRING":
            return "a string"
        case _:
            return f"`{_shortened(token.text)}`"


def one_of(words: list[str]) -> str:
    """Join alternatives: `a`, `b` or `c`."""
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _before_operand(accepts: Set[str], previous: Token | None) -> str:
    if "RSQB" in accepts and previous is not None and previous.type == "COMMA":
        return "an index or `]`"
    if "COLON" in accepts:
        return "an index"
    if "RPAR" in accepts:
        return "an argument or `)`"
    return "an expression"


def _after_operand(accepts: Set[str]) -> str:
    closers = [_SIGNS[t] for t in ("COMMA", "RPAR", "RSQB") if t in accepts]
    if closers:
        return one_of(["an operator", *closers])
    if "ELSE" in accepts:
        return "`else`"
    if "NAME" in accepts:
        return "an operator or a new statement"
    return "an operator or a new item"


def _string_of(previous: Token | None) -> str:
    if previous is not None and previous.type == "FROM":
        return "the path of a file, in quotes"
    return "a message in quotes"


def _name_of(previous: Token | None) -> str:
    match previous:
        case Token(type="DEF"):
            return "the definition's name"
        case Token(type="ATTENTION"):
            return "the variant's name"
        case Token(type="CONST"):
            return "a parameter's name"
        case _:
            return "a name"


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "..."
