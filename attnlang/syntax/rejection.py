"""From the token at which the parser stopped to the diagnostic that says what is wrong there.

The general message is `UnexpectedToken`; the others recognise slips that have a better name. The
place is the first token that cannot continue, or, for a word of another language, that word.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from attnlang.diagnostics.base import Diagnostic, Label
from attnlang.diagnostics.suggest import nearest
from attnlang.syntax import diagnostics as d
from attnlang.syntax.expected import expected, found
from attnlang.syntax.foreign import WORDS
from attnlang.syntax.tokens import CLOSERS, END, ITEM_STARTS, OPENERS, Token


@dataclass(frozen=True, slots=True)
class Rejection:
    """Where the parser stopped: the item's tokens before, the one refused, what could follow."""

    before: Sequence[Token]
    token: Token
    after: Token | None
    accepts: Set[str]


_ITEM_WORDS = ("attention", "def", "from")
_POSITION = "arguments by position come before those by keyword"


def explain(r: Rejection) -> Diagnostic:
    """Return the diagnostic of a rejection."""
    return _foreign_word(r) or _bracket(r) or _colon(r) or _assignment(r) or _unexpected(r)


def _foreign_word(r: Rejection) -> Diagnostic | None:
    """Recognise a word such as `return` in the two tokens before, or in the refused one."""
    for token in (*r.before[-2:], r.token):
        if token.type == "NAME" and (advice := WORDS.get(str(token.value))):
            return d.ForeignSyntax(str(token.value), advice, span=token.span)
    return None


def _bracket(r: Rejection) -> Diagnostic | None:
    opener = _open_bracket(r.before)
    if r.token.type in CLOSERS:
        if opener is None:
            return d.UnmatchedBracket(r.token.text, span=r.token.span)
        if OPENERS[opener.type] != r.token.type:
            return d.UnmatchedBracket(r.token.text, opener.span, opener.text, span=r.token.span)
    elif opener is not None and OPENERS[opener.type] in r.accepts and _left_the_bracket(r):
        return d.UnclosedBracket(opener.span, opener.text, found(r.token), span=r.token.span)
    return None


def _left_the_bracket(r: Rejection) -> bool:
    """Whether the refused token can only stand outside of brackets."""
    if r.token.type in ITEM_STARTS or r.token.type in (END, "REQUIRE"):
        return True
    return r.token.type == "NAME" and r.after is not None and r.after.type == "EQUAL"


def _colon(r: Rejection) -> Diagnostic | None:
    header = r.before[0].type == "ATTENTION" if r.before else False
    if header and "COLON" in r.accepts and _open_bracket(r.before) is None:
        return d.MissingColon(str(r.before[1].value), found(r.token), span=r.token.span)
    return None


def _assignment(r: Rejection) -> Diagnostic | None:
    if r.token.type == "EQUAL" and "PLUS" in r.accepts:
        return d.AssignmentInExpression(span=r.token.span)
    return None


def _unexpected(r: Rejection) -> Diagnostic:
    previous = r.before[-1] if r.before else None
    context: tuple[Label, ...] = ()
    advice: str | None = None
    words = expected(r.accepts, previous)
    opener = _open_bracket(r.before)
    at_end = r.token.type == END or r.token.type in ITEM_STARTS
    if opener is not None and (at_end or OPENERS[opener.type] in r.accepts):
        context = (Label(opener.span, "opened here"),)
    if r.accepts == {"EQUAL"} and previous is not None and previous.type == "NAME":
        words = f"`=` after `{previous.text}`"
        context, advice = _half_statement(r, previous, opener)
    elif opener is not None and _after_keyword(r, opener):
        words = "an argument `name=value` or `)`"
        advice = _POSITION
    elif words == "`else`":
        advice = "a choice has both sides: `x if c else y`"
    elif r.token.type == "IF" and "REQUIRE" in r.accepts:
        advice = "a choice is an expression: `score = x if c else y`"
    elif r.token.type == "PLUS" and words.startswith("an expression"):
        advice = "leave the `+` out"
    elif not r.before and r.token.type == "IMPORT":
        advice = 'write `from "file.attn" import name`'
    elif not r.before and r.token.type == "NAME":
        advice = _misspelt(r.token, *_ITEM_WORDS)
        advice = advice or "statements stand in an item: `attention name:` comes first"
    elif r.accepts == {"COLON"}:
        words, advice = _typed(previous)
    elif r.token.type == "STRING" and "STRING" not in r.accepts and "REQUIRE" in r.accepts:
        advice = "the description is one string, right after the header's `:`"
    return d.UnexpectedToken(words, found(r.token), context, advice, span=r.token.span)


def _half_statement(
    r: Rejection, name: Token, opener: Token | None
) -> tuple[tuple[Label, ...], str | None]:
    """Explain a name without its `=`: often an operator was forgotten before it."""
    if opener is not None:
        return (), _POSITION
    if r.before[0].type == "DEF":
        return (), None
    if r.token.type == "EQ":
        return (), f"a statement gives a name its value with `=`: `{name.text} = ...`"
    label = Label(name.span, "this begins a new statement")
    otherwise = f"put an operator before `{name.text}` if it continues the expression"
    return (label,), _misspelt(name, "require", *_ITEM_WORDS) or otherwise


def _misspelt(name: Token, *words: str) -> str | None:
    close = nearest(name.text, words)
    return f"a similar word exists: `{close}`" if close else None


def _after_keyword(r: Rejection, opener: Token) -> bool:
    """Whether the comma before stands behind an argument `name=value` of a call."""
    header = r.before[0].type == "DEF" and r.before[2] is opener
    return r.before[-1].type == "COMMA" and r.accepts == {"NAME", "RPAR"} and not header


def _typed(previous: Token | None) -> tuple[str, str | None]:
    if previous is None or previous.type != "NAME":
        return "`:`", None
    return (
        f"`:` and a type after `{previous.text}`",
        f"write `{previous.text}: float`, `int` or `bool`",
    )


def _open_bracket(before: Sequence[Token]) -> Token | None:
    """Return the innermost bracket that is still open."""
    stack: list[Token] = []
    for token in before:
        if token.type in OPENERS:
            stack.append(token)
        elif token.type in CLOSERS and stack:
            stack.pop()
    return stack[-1] if stack else None
