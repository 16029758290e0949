"""From the terminals' matches to tokens: looks inside names, numbers and strings.

Every slip that is wrong wherever it stands (`&&`, `'text'`, `1.2.3`, a curly quote) is reported
here and replaced by what was meant, or left out, so that the parser can go on. Invariant: a token
that comes out is sound, whatever the text was.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from attnlang.diagnostics.base import Diagnostic
from attnlang.sources import Source, Span
from attnlang.syntax import diagnostics as d
from attnlang.syntax.foreign import CHARACTERS, LITERALS, SIGNS, SPELLING
from attnlang.syntax.limits import MAX_INT
from attnlang.syntax.tokens import RawToken, Token

_INT = re.compile(r"[0-9]+(?:_[0-9]+)*")
# Of a text of digits there is one way to read each part, so that no text takes long to refuse.
_FLOAT = re.compile(r"(?:[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}
_BYTE_ORDER_MARK = "\ufeff"
_DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a file, and what was wrong inside them."""

    tokens: tuple[Token, ...]
    diagnostics: tuple[Diagnostic, ...]


def tokenize(source: Source, matches: Iterable[RawToken]) -> Tokens:
    """Return the sound tokens of a source's terminals."""
    lexer = _Lexer(source)
    at = 0
    for match in matches:
        lexer.comments(at, match.start)
        lexer.take(match)
        at = match.start + len(match.text)
    lexer.comments(at, len(source.text))
    return Tokens(tuple(lexer.tokens), tuple(lexer.diagnostics))


@dataclass(slots=True)
class _Lexer:
    source: Source
    tokens: list[Token] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)

    def comments(self, start: int, end: int) -> None:
        """Look for what makes the comments between two tokens show code that is not there."""
        if (match := _DIRECTION.search(self.source.text, start, end)) is not None:
            span = Span(self.source, match.start(), match.end())
            self._report(d.OddCharacter(match[0], "a comment", span=span))

    def take(self, raw: RawToken) -> None:
        match raw.type:
            case "NAME":
                self._name(raw)
            case "NUMBER":
                self._number(raw)
            case "STRING":
                self._string(raw)
            case "OPEN_STRING":
                self._report(d.UnterminatedString(span=self._span(raw)))
                self._emit(raw, "STRING", "")
            case "TRIPLE_STRING":
                self._foreign_string(raw, '"""', 'a string is written `"..."`, on one line')
            case "SINGLE_STRING":
                self._foreign_string(raw, "'", 'a string is written `"..."`')
            case "FOREIGN":
                self._sign(raw)
            case "ODD":
                self._odd(raw)
            case _:
                self._emit(raw, raw.type, raw.text)

    def _name(self, raw: RawToken) -> None:
        odd = next((i for i, c in enumerate(raw.text) if not c.isascii()), None)
        if raw.text in LITERALS:
            type_, ours = LITERALS[raw.text]
            self._report(d.ForeignSpelling(raw.text, f"write `{ours}`", span=self._span(raw)))
            self._emit(raw, type_, ours)
        elif odd is None:
            self._emit(raw, "NAME", raw.text)
        elif raw.text in CHARACTERS:
            self._odd(raw)
        else:
            c, span = raw.text[odd], self._span(raw, odd, odd + 1)
            self._report(d.OddCharacter(c, "a name", _meant(c), span=span))
            self._emit(raw, "NAME", raw.text)

    def _number(self, raw: RawToken) -> None:
        span = self._span(raw)
        value: int | float = 0
        if _INT.fullmatch(raw.text):
            digits = raw.text.replace("_", "").lstrip("0") or "0"
            if len(digits) > len(str(MAX_INT)) or int(digits) > MAX_INT:
                self._report(d.IntTooLarge(span=span))
            else:
                value = int(digits)
        elif _FLOAT.fullmatch(raw.text):
            value = float(raw.text)
            if math.isinf(value):
                self._report(d.FloatTooLarge(span=span))
                value = 0.0
        else:
            self._report(d.BadNumber(_shortened(raw.text), _number_advice(raw.text), span=span))
        self._emit(raw, "NUMBER", value)

    def _string(self, raw: RawToken) -> None:
        value: list[str] = []
        i, end = 1, len(raw.text) - 1
        while i < end:
            c = raw.text[i]
            if c == "\\":
                escaped = raw.text[i + 1]
                if escaped not in _ESCAPES:
                    span = self._span(raw, i, i + 2)
                    self._report(d.BadEscape(raw.text[i : i + 2], span=span))
                value.append(_ESCAPES.get(escaped, ""))
                i += 2
                continue
            if c != "\t" and _is_control(c):
                span = self._span(raw, i, i + 1)
                self._report(d.OddCharacter(c, "a string", span=span))
            value.append(c)
            i += 1
        self._emit(raw, "STRING", "".join(value))

    def _foreign_string(self, raw: RawToken, found: str, advice: str) -> None:
        self._report(d.ForeignSpelling(found, advice, span=self._span(raw, 0, len(found))))
        self._emit(raw, "STRING", "")

    def _sign(self, raw: RawToken) -> None:
        type_, advice = SIGNS[raw.text]
        if raw.text[-1] == "=" and raw.text[:-1] in ("+", "-", "*", "/", "%", "//", "**"):
            name = self.tokens[-1].text if self.tokens and self.tokens[-1].type == "NAME" else "x"
            advice = f"write `{name} = {name} {raw.text[:-1]} ...`"
        self._report(d.ForeignSpelling(raw.text, advice, span=self._span(raw)))
        if type_ is not None:
            self._emit(raw, type_, SPELLING[type_])

    def _odd(self, raw: RawToken) -> None:
        if raw.start == 0 and raw.text == _BYTE_ORDER_MARK:
            return
        type_, _ = CHARACTERS.get(raw.text, (None, None))
        odd = d.OddCharacter(raw.text, meant=_meant(raw.text), span=self._span(raw))
        before = self.diagnostics[-1] if self.diagnostics else None
        if isinstance(before, d.OddCharacter) and _continues(before, odd):
            self.diagnostics[-1] = replace(before, span=before.span.to(odd.span))
        else:
            self._report(odd)
        if type_ is not None:
            self._emit(raw, type_, SPELLING.get(type_, "inf"))

    def _span(self, raw: RawToken, start: int = 0, end: int | None = None) -> Span:
        stop = len(raw.text) if end is None else end
        return Span(self.source, raw.start + start, raw.start + stop)

    def _emit(self, raw: RawToken, type_: str, value: str | int | float) -> None:
        self.tokens.append(Token(type_, value, self._span(raw)))

    def _report(self, diagnostic: Diagnostic) -> None:
        self.diagnostics.append(diagnostic)


def _meant(c: str) -> str | None:
    """Return what was probably meant by a character: one like it, or the same one in ASCII."""
    if c in CHARACTERS:
        return CHARACTERS[c][1]
    plain = unicodedata.normalize("NFKC", c)
    return f"`{plain}`" if plain.isascii() and plain.isalnum() else None


def _continues(before: d.OddCharacter, odd: d.OddCharacter) -> bool:
    """Whether a character is one more of those reported just before it."""
    return before.character == odd.character and before.span.end == odd.span.start


def _is_control(c: str) -> bool:
    """Whether a character steers the terminal or the direction of the text."""
    return (
        c < " "
        or "\x7f" <= c <= "\x9f"
        or c in "\u2028\u2029\u061c\u200e\u200f"
        or ("\u202a" <= c <= "\u202e" or "\u2066" <= c <= "\u2069" or "\ud800" <= c <= "\udfff")
    )


def _number_advice(text: str) -> str | None:
    if text.lower().startswith(("0x", "0b", "0o")):
        return "write it in decimal"
    if re.fullmatch(r"[0-9.]+[eE]", text):
        return "an exponent has digits: `1e6`"
    if parts := re.fullmatch(r"([0-9.]+)(if|else|and|or|not)", text):
        return f"put a space before `{parts[2]}`"
    if parts := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]\w*)", text):
        return f"write `{parts[1]} * {parts[2]}` if a product is meant"
    return None


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "..."
