"""From words to documents: expressions, lists in brackets, parameters.

A line that is too long breaks where its expression is loosest, before the operator: white space
carries no meaning, so no parenthesis is ever added, and none is left out. Invariant: a document
has the words of its range in their order, and their comments, those before the first word apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attnlang.syntax.layout import Break, Comments, Doc, IfBroken, Space, Text, group, nest
from attnlang.syntax.trivia import Word

_OPENERS: Final = {"(": ")", "[": "]"}
_LOGIC: Final = (frozenset({"or"}), frozenset({"and"}))
_ARITHMETIC: Final = (
    frozenset({"==", "!=", "<", "<=", ">", ">="}),
    frozenset({"+", "-"}),
    frozenset({"*", "/", "//", "%"}),
)
_BINARY: Final = frozenset({"if", "else", "**"}).union(*_LOGIC, *_ARITHMETIC)
# After one of these, or at the start, a minus sign has no left operand.
_NO_OPERAND: Final = (_BINARY | {"not", "(", "[", ",", ":", "="}) - {")"}


class Expressions:
    """The words of a file; a range of them is given by its first index and the one after it."""

    def __init__(self, words: Sequence[Word]) -> None:
        self._words = words
        self._closer: dict[int, int] = {}
        opened: list[int] = []
        for i, word in enumerate(words):
            if word.text in _OPENERS:
                opened.append(i)
            elif word.text in _OPENERS.values():
                self._closer[opened.pop()] = i

    def top_level(self, start: int, stop: int) -> list[int]:
        """Return the indices of a range that stand inside no bracket of it, openers included."""
        found: list[int] = []
        i = start
        while i < stop:
            found.append(i)
            i = self._closer.get(i, i) + 1
        return found

    def closer(self, opener: int) -> int:
        """Return the index of the bracket that closes another."""
        return self._closer[opener]

    def gap(self, *at: int) -> list[Doc]:
        """Return the comments before the words at some indices, which become one place."""
        comments = tuple(c for i in at for c in self._words[i].comments)
        return [Comments(comments)] if comments else []

    def after_gap(self, at: int, *docs: Doc) -> list[Doc]:
        """Return documents that begin with the word at an index, after its comments."""
        gap = self.gap(at)
        return [nest(*gap, *docs)] if gap else list(docs)

    def word_alone(self, at: int) -> list[Doc]:
        """Return a word without the comments before it."""
        return [Text(self._words[at].text)]

    def word(self, at: int) -> list[Doc]:
        """Return a word after its comments."""
        return self.after_gap(at, *self.word_alone(at))

    def expr(self, start: int, stop: int, hang: bool = True) -> Doc:
        """Return an expression; further lines of it are indented unless `hang` is false."""
        top = self.top_level(start, stop)
        signs = [i for i in top if self._is_binary(i, start)]
        texts = {self._words[i].text for i in signs}
        if "if" in texts:
            return self._choice(start, stop, signs, hang)
        for level in _LOGIC:
            if level & texts:
                return self._chain(start, stop, [i for i in signs if self._is(i, level)], hang)
        if self._words[start].text == "not":
            operand = self.after_gap(start + 1, self.expr(start + 1, stop, hang))
            return group(Text("not"), Space(), *operand)
        for level in _ARITHMETIC:
            if level & texts:
                return self._chain(start, stop, [i for i in signs if self._is(i, level)], hang)
        if self._words[start].text == "-":
            operand = self.after_gap(start + 1, self.expr(start + 1, stop, hang))
            return group(Text("-"), *operand)
        if "**" in texts:
            return self._chain(start, stop, signs[:1], hang)
        return self._postfix(start, stop)

    def _is_binary(self, at: int, start: int) -> bool:
        text = self._words[at].text
        if text == "-" and (at == start or self._words[at - 1].text in _NO_OPERAND):
            return False
        return text in _BINARY

    def _is(self, at: int, texts: frozenset[str]) -> bool:
        return self._words[at].text in texts

    def _chain(self, start: int, stop: int, signs: Sequence[int], hang: bool) -> Doc:
        """Return operands with operators of one level between them."""
        parts: list[Doc] = []
        for sign, end in zip(signs, (*signs[1:], stop), strict=True):
            parts += [*self.gap(sign, sign + 1), Break(" "), Text(self._words[sign].text), Space()]
            parts.append(self.expr(sign + 1, end))
        return group(self.expr(start, signs[0]), *_hanging(parts, hang))

    def _choice(self, start: int, stop: int, signs: Sequence[int], hang: bool) -> Doc:
        """Return `x if c else y if d else z`, which breaks before `else` first."""
        marks = [i for i in signs if self._words[i].text in ("if", "else")]
        first, *others = self._arms(start, stop, marks)
        parts: list[Doc] = []
        for mark, arm in zip(marks[1::2], others, strict=True):
            parts += [*self.gap(mark, mark + 1), Break(" "), Text("else"), Space(), arm]
        return group(first, *_hanging(parts, hang))

    def _arms(self, start: int, stop: int, marks: Sequence[int]) -> list[Doc]:
        """Return each `x if c`, and the last `z`."""
        arms: list[Doc] = []
        begin = start
        for if_, else_ in zip(marks[0::2], marks[1::2], strict=True):
            condition = self.expr(if_ + 1, else_)
            comments = self.gap(if_, if_ + 1)
            rest = nest(*comments, Break(" "), Text("if"), Space(), condition)
            arms.append(group(self.expr(begin, if_), rest))
            begin = else_ + 1
        return [*arms, self.expr(begin, stop)]

    def _postfix(self, start: int, stop: int) -> Doc:
        """Return a word or a parenthesis, and what is called or indexed with brackets."""
        if self._words[start].text != "(":
            parts: list[Doc] = [Text(self._words[start].text)]
            at = start + 1
        else:
            end = self._closer[start]
            inner = [*self.gap(start + 1), Break(""), self.expr(start + 1, end, hang=False)]
            parts = [group(Text("("), nest(*inner, *self.gap(end)), Break(""), Text(")"))]
            at = end + 1
        while at < stop:
            parts += self.after_gap(at, self.listed(at))
            at = self._closer[at] + 1
        return parts[0] if len(parts) == 1 else group(*parts)

    def listed(self, opener: int, params: bool = False) -> Doc:
        """Return a list in brackets: arguments, indices or dimensions, or parameters."""
        end = self._closer[opener]
        opening, closing = Text(self._words[opener].text), Text(self._words[end].text)
        if opener + 1 == end:
            gap = self.gap(end)
            return (
                group(opening, nest(*gap), Break(""), closing) if gap else group(opening, closing)
            )
        element = self._param if params else self._argument
        commas = [i for i in self.top_level(opener + 1, end) if self._words[i].text == ","]
        parts: list[Doc] = [*self.gap(opener + 1), Break("")]
        for begin, stop in zip((opener, *commas), (*commas, end), strict=True):
            if begin != opener:
                parts += [Text(","), *self.gap(begin, begin + 1), Break(" ")]
            parts += element(begin + 1, stop)
        parts += [IfBroken(","), *self.gap(end)]
        return group(opening, nest(*parts), Break(""), closing)

    def _argument(self, start: int, stop: int) -> list[Doc]:
        """Return an argument, with or without its keyword, or an index or slice."""
        if start + 1 < stop and self._words[start + 1].text == "=":
            value = self.after_gap(start + 2, self.expr(start + 2, stop))
            return [Text(self._words[start].text), *self.word(start + 1), *value]
        colon = next((i for i in self.top_level(start, stop) if self._words[i].text == ":"), None)
        if colon is None:
            return [self.expr(start, stop)]
        parts: list[Doc] = []
        if start < colon:
            parts += [self.expr(start, colon), *self.gap(colon)]
        parts.append(Text(":"))
        if colon + 1 < stop:
            parts += self.after_gap(colon + 1, self.expr(colon + 1, stop))
        return parts

    def _param(self, start: int, stop: int) -> list[Doc]:
        """Return a parameter with its type and default."""
        parts: list[Doc] = [Text(self._words[start].text)]
        at = start + 1
        if self._words[start].text == "const":
            parts += [Space(), *self.word(at)]
            at += 1
        parts += [*self.word(at), Space(), *self.word(at + 1)]
        at += 2
        if at < stop and self._words[at].text == "[":
            parts += self.after_gap(at, self.listed(at))
            at = self._closer[at] + 1
        if at < stop:
            value = self.after_gap(at + 1, self.expr(at + 1, stop))
            parts += [Space(), *self.word(at), Space(), *value]
        return parts


def _hanging(parts: Sequence[Doc], hang: bool) -> Sequence[Doc]:
    return [nest(*parts)] if hang else parts
