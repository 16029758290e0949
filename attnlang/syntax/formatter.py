"""From a source to the same program in the canonical layout.

The words, their order and every comment stay; white space, line breaks and the comma after the
last of a list are the layout's. Invariant: the result has the tokens of the source (such commas
apart), and formatted again it is itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from attnlang.diagnostics.base import Diagnostic
from attnlang.sources import Source, Span
from attnlang.syntax import ast
from attnlang.syntax import diagnostics as d
from attnlang.syntax.format_expr import Expressions
from attnlang.syntax.layout import INDENT, Break, Doc, Page, Space, Text, group, nest
from attnlang.syntax.limits import MAX_FILE_BYTES
from attnlang.syntax.parser import parse
from attnlang.syntax.trivia import Comment, Word, words


@dataclass(frozen=True, slots=True)
class FormatResult:
    """A source in the canonical layout, or what keeps it from being read."""

    text: str | None
    diagnostics: tuple[Diagnostic, ...]


class FormatterFault(Exception):
    """The result does not say what the source says: a bug of ours."""


def format_source(source: Source) -> FormatResult:
    """Return a source in the canonical layout; line ends are those of its first line."""
    parsed = parse(source)
    if parsed.diagnostics:
        return FormatResult(None, parsed.diagnostics)
    before = words(source, parsed.tokens)
    text = _Formatter(before, parsed.file).text()
    if "\r\n" in source.text and source.text.find("\r\n") + 1 == source.text.find("\n"):
        text = text.replace("\n", "\r\n")
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_FILE_BYTES:
        error = d.FileTooLarge(MAX_FILE_BYTES, span=Span(source, 0, 0))
        return FormatResult(None, (error,))
    result = Source(source.path, text)
    _check(before, words(result, parse(result).tokens))
    return FormatResult(text, ())


def _check(before: Sequence[Word], after: Sequence[Word]) -> None:
    """Raise unless two texts have the same words and the same comments."""
    if [w.text for w in before] != [w.text for w in after]:
        raise FormatterFault("the formatter changed the program")
    if _comments(before) != _comments(after):
        raise FormatterFault("the formatter changed a comment")


def _comments(found: Sequence[Word]) -> list[str]:
    return [comment.text for word in found for comment in word.comments]


@dataclass(frozen=True, slots=True)
class _Block:
    """What begins on a new line: an item's first lines, a description, a statement, the end."""

    start: int
    stop: int
    node: ast.Item | ast.Assign | ast.Require | str | None

    @property
    def item(self) -> bool:
        return self.node is None or isinstance(self.node, ast.Item)

    @property
    def indent(self) -> int:
        return 0 if self.item else INDENT


@dataclass(slots=True)
class _Line:
    """A comment above a block, or the block itself, and whether a blank line stands above it."""

    comment: Comment | None
    indent: int
    blank: bool


class _Formatter:
    """Writes the blocks of a file on a page."""

    def __init__(self, found: Sequence[Word], file: ast.File) -> None:
        self._words = found
        self._expressions = Expressions(found)
        self._page = Page()
        # Whether the item under way has a body, and nothing but its header is written yet.
        self._in_body = self._at_header = False
        starts = list(self._starts(file, {word.start: i for i, word in enumerate(found)}))
        ends = [*(start for start, _ in starts[1:]), len(found)]
        self._blocks = [
            _Block(start, end, node) for (start, node), end in zip(starts, ends, strict=True)
        ]

    def _starts(
        self, file: ast.File, places: Mapping[int, int]
    ) -> Iterator[tuple[int, ast.Item | ast.Assign | ast.Require | str | None]]:
        for item in file.items:
            start = places[item.span.start]
            yield start, item
            if isinstance(item, ast.Attention):
                if item.doc is not None:
                    yield self._colon(start) + 1, item.doc
                for statement in item.statements:
                    yield places[statement.span.start], statement
        yield len(self._words) - 1, None

    def _colon(self, attention: int) -> int:
        """Return the index of the colon that ends a header."""
        after_name = attention + 2
        if self._words[after_name].text == "(":
            return self._expressions.closer(after_name) + 1
        return after_name

    def text(self) -> str:
        for block in self._blocks:
            self._above(block)
            if block.node is not None:
                self._page.doc(self._doc(block), block.indent)
            self._at_header = isinstance(block.node, ast.Attention)
            if block.item:
                self._in_body = self._at_header
        return self._page.text()

    def _above(self, block: _Block) -> None:
        """Write the comments above a block, and the blank lines around them."""
        comments = self._words[block.start].comments
        if comments and comments[0].trailing:
            self._page.comments(comments[:1], block.indent)
            comments = comments[1:]
        for line in self._lines(block, comments):
            opens_body = self._at_header and line.indent > 0
            if line.blank and not opens_body and not self._page.empty:
                self._page.blank_line()
            if line.comment is not None:
                self._page.comments((line.comment,), line.indent)
            self._at_header = False

    def _lines(self, block: _Block, comments: Sequence[Comment]) -> Sequence[_Line]:
        """Return the comments above a block, and the block: an attention has a blank line around.

        Comments between a body and the next item belong to the body while they are indented.
        """
        inner = 0
        while block.item and self._in_body and inner < len(comments) and comments[inner].indented:
            inner += 1
        lines = [_Line(c, INDENT, c.blank) for c in comments[:inner]]
        outer = [_Line(c, block.indent, c.blank) for c in comments[inner:]]
        if block.node is not None:
            outer.append(_Line(None, block.indent, self._words[block.start].blank))
        apart = self._in_body or isinstance(block.node, ast.Attention)
        if block.item and apart and outer and not any(line.blank for line in outer):
            outer[0].blank = True
        return [*lines, *outer]

    def _doc(self, block: _Block) -> Doc:
        start, stop = block.start, block.stop
        match block.node:
            case ast.Import():
                return self._import(start, stop)
            case ast.Def():
                return self._def(start, stop)
            case ast.Attention():
                return self._header(start)
            case ast.Require(message=message):
                return self._require(start, stop, message is not None)
            case ast.Assign():
                return self._assign(start, stop, [])
            case _:
                return Text(self._words[start].text)

    def _import(self, start: int, stop: int) -> Doc:
        make = self._expressions
        names: list[Doc] = [*make.gap(start + 3), Break(" "), *make.word_alone(start + 3)]
        for comma in range(start + 4, stop, 2):
            names += [Text(","), *make.gap(comma, comma + 1), Break(" ")]
            names += make.word_alone(comma + 1)
        head = [Text("from"), Space(), *make.word(start + 1), Space(), *make.word(start + 2)]
        return group(*head, nest(*names))

    def _def(self, start: int, stop: int) -> Doc:
        make = self._expressions
        head: list[Doc] = [Text("def"), Space(), *make.word(start + 1)]
        at = start + 2
        if self._words[at].text == "(":
            head += make.after_gap(at, make.listed(at))
            at = make.closer(at) + 1
        return self._assign(at - 1, stop, head)

    def _header(self, start: int) -> Doc:
        make = self._expressions
        colon = self._colon(start)
        parts: list[Doc] = [Text("attention"), Space(), *make.word(start + 1)]
        if colon > start + 2:
            parts += make.after_gap(start + 2, make.listed(start + 2, params=True))
        return group(*parts, *make.word(colon))

    def _require(self, start: int, stop: int, message: bool) -> Doc:
        make = self._expressions
        end = stop - 2 if message else stop
        parts: list[Doc] = [Text("require"), Space()]
        parts += make.after_gap(start + 1, make.expr(start + 1, end))
        if message:
            said = [*make.gap(end, end + 1), Break(" "), *make.word_alone(end + 1)]
            parts += [Text(","), nest(*said)]
        return group(*parts)

    def _assign(self, name: int, stop: int, head: Sequence[Doc]) -> Doc:
        """Return `name = value`, or with a head of several words the value given to them."""
        make = self._expressions
        value = make.after_gap(name + 2, make.expr(name + 2, stop))
        target = head or make.word_alone(name)
        return group(*target, Space(), *make.word(name + 1), Space(), *value)
