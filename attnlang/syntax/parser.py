"""From a source to its AST; the one module that knows lark.

The text is cut into items, at the words that can only begin one, and each is parsed by itself:
so every item's first error is reported in one run, at the first token that cannot continue.
Invariant: whatever the text, the result is a file of the sound items and the diagnostics; nothing
raises and nothing recurses with the text.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice, pairwise
from typing import Any

from lark import Lark
from lark.exceptions import UnexpectedToken

from attnlang.assets import asset
from attnlang.diagnostics.base import Diagnostic
from attnlang.options import OptionError, options
from attnlang.sources import Source, Span
from attnlang.syntax import ast
from attnlang.syntax import diagnostics as d
from attnlang.syntax.bounds import beyond_limits, too_many_brackets
from attnlang.syntax.builder import Builder
from attnlang.syntax.lexer import tokenize
from attnlang.syntax.limits import MAX_DEPTH, MAX_DIAGNOSTICS, MAX_FILE_BYTES, MAX_ITEMS, MAX_TOKENS
from attnlang.syntax.rejection import Rejection, explain
from attnlang.syntax.tokens import END, ITEM_STARTS, KINDS, RawToken, Token


@dataclass(frozen=True, slots=True)
class ParseResult:
    """The items without a syntax error, and what is wrong with the others.

    `broken` are the names that those others would have defined, as far as they could be read;
    `tokens` are those of the whole file.
    """

    file: ast.File
    diagnostics: tuple[Diagnostic, ...]
    broken: frozenset[str] = frozenset()
    tokens: tuple[Token, ...] = ()


def parse(source: Source) -> ParseResult:
    """Return a source's AST, and every independent syntax error in the order of the text."""
    size = len(source.text.encode("utf-8", "surrogatepass"))
    if size > MAX_FILE_BYTES:
        error = d.FileTooLarge(MAX_FILE_BYTES, span=Span(source, 0, 0))
        return ParseResult(_file(source, ()), (error,))
    matches = tuple(islice(_matches(source.text), MAX_TOKENS + 1))
    if len(matches) > MAX_TOKENS:
        start = matches[-1].start
        error_too = d.TooManyTokens(MAX_TOKENS, span=Span(source, start, start + 1))
        return ParseResult(_file(source, ()), (error_too,))
    lexed = tokenize(source, matches)
    items: list[ast.Item] = []
    diagnostics: list[Diagnostic] = list(lexed.diagnostics)
    broken: set[str] = set()
    for i, chunk in enumerate(_chunks(source, lexed.tokens, lexed.diagnostics)):
        if i == MAX_ITEMS:
            diagnostics.append(d.TooMany("items in a file", MAX_ITEMS, span=chunk.tokens[0].span))
            break
        found, error_in = _parse_chunk(chunk)
        items.extend(found)
        diagnostics.extend(error_in)
        if not found:
            broken.update(_named(chunk.tokens))
    file = _file(source, items)
    return ParseResult(file, _in_order(diagnostics), frozenset(broken), lexed.tokens)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """The tokens of one item, the token after it, and where its first lexical error stands."""

    tokens: Sequence[Token]
    next: Token
    first_error: int | None


def _chunks(
    source: Source, tokens: Sequence[Token], errors: Sequence[Diagnostic]
) -> Iterator[_Chunk]:
    """Cut a file's tokens before each word that can only begin an item."""
    last = tokens[-1].span.end if tokens else 0
    end = Token(END, "", Span(source, last, last))
    cuts = [i for i, token in enumerate(tokens) if i and token.type in ITEM_STARTS]
    bounds = [0, *cuts, len(tokens)]
    places = sorted(e.span.start for e in errors)
    at = 0
    for start, stop in pairwise(bounds):
        following = tokens[stop] if stop < len(tokens) else end
        limit = following.span.start if stop < len(tokens) else len(source.text) + 1
        first = places[at] if at < len(places) and places[at] < limit else None
        while at < len(places) and places[at] < limit:
            at += 1
        yield _Chunk(tokens[start:stop], following, first)


def _parse_chunk(chunk: _Chunk) -> tuple[Sequence[ast.Item], Sequence[Diagnostic]]:
    """Parse one item; none comes back if anything is wrong in it."""
    if (bracket := too_many_brackets(chunk.tokens)) is not None:
        return (), (d.NestedTooDeeply(MAX_DEPTH, span=bracket.span),)
    machine: Any = _lark().parse_interactive(start="file")
    errors: list[Diagnostic] = []
    read: list[Token] = []
    for i, written in enumerate(chunk.tokens):
        token = written
        if token.type == "NAME" and "KIND" in machine.choices():
            if token.value not in KINDS:
                errors.append(d.UnknownType(str(token.value), span=token.span))
            token = replace(token, type="KIND")
        try:
            machine.feed_token(token)
        except UnexpectedToken:
            following = chunk.tokens[i + 1] if i + 1 < len(chunk.tokens) else chunk.next
            return (), [*errors, *_rejection(chunk, read, token, following)]
        read.append(token)
    end = replace(chunk.next, type=END)
    try:
        items: tuple[ast.Item, ...] = machine.feed_token(end)
    except UnexpectedToken:
        return (), [*errors, *_rejection(chunk, read, chunk.next, None)]
    if not errors:
        errors.extend(beyond_limits(items))
    if errors or chunk.first_error is not None:
        return (), errors
    return items, ()


def _rejection(
    chunk: _Chunk, read: Sequence[Token], token: Token, following: Token | None
) -> Sequence[Diagnostic]:
    """Explain why the parser stopped, unless a lexical error before it is the likely reason."""
    if chunk.first_error is not None and (chunk.first_error < token.span.end or token.type == END):
        return ()
    # The table reduces before it finds out that a token cannot follow; what could follow is
    # asked of a parser that has not seen the token.
    machine: Any = _lark().parse_interactive(start="file")
    for earlier in read:
        machine.feed_token(earlier)
    return (explain(Rejection(read, token, following, frozenset(machine.accepts()))),)


def _named(tokens: Sequence[Token]) -> Iterator[str]:
    """Yield the names that a broken item would have defined."""
    if not tokens:
        return
    if tokens[0].type == "FROM":
        yield from (str(t.value) for t in tokens if t.type == "NAME")
    elif len(tokens) > 1 and tokens[1].type == "NAME":
        yield str(tokens[1].value)


def _in_order(diagnostics: Sequence[Diagnostic]) -> tuple[Diagnostic, ...]:
    ordered = sorted(diagnostics, key=lambda e: e.span.start)
    if len(ordered) <= MAX_DIAGNOSTICS:
        return tuple(ordered)
    last = d.TooManyErrors(MAX_DIAGNOSTICS, span=ordered[MAX_DIAGNOSTICS].span)
    return (*ordered[:MAX_DIAGNOSTICS], last)


def _file(source: Source, items: Sequence[ast.Item]) -> ast.File:
    return ast.File(tuple(items), span=Span(source, 0, len(source.text)))


class _KeepSlips:
    """Tells lark to keep the terminals that no rule takes."""

    always_accept = ("TRIPLE_STRING", "OPEN_STRING", "SINGLE_STRING", "FOREIGN", "ODD")

    def process(self, stream: Iterator[Any]) -> Iterator[Any]:
        return stream


@cache
def _lark() -> Lark:
    """Return the parser of the grammar; its tables, a tenth of a second's work, are kept."""
    return Lark(
        asset("grammar", "attn.lark").read_text(encoding="utf-8"),
        parser="lalr",
        lexer="basic",
        start="file",
        transformer=Builder(),
        postlex=_KeepSlips(),
        keep_all_tokens=True,
        maybe_placeholders=False,
        cache=_tables(),
    )


def _tables() -> str | bool:
    """Return the file that lark keeps its tables in, beside the kernels; False if none can be.

    Lark checks a digest of the grammar, its version and Python's, and builds the tables anew where
    the file is another's or damaged.
    """
    try:
        folder = options().cache_dir
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, OptionError):
        return False
    return str(folder / f"grammar-{sys.version_info.major}.{sys.version_info.minor}.tables")


def _matches(text: str) -> Iterator[RawToken]:
    for token in _lark().lex(text):
        yield RawToken(token.type, str(token), token.start_pos or 0)
