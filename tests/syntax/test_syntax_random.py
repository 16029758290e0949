"""Random programs: printed and read back they are the same; random text never raises."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unparse import unparse

from attnlang.diagnostics.render import render_github, render_json, render_text
from attnlang.sources import Source, Span
from attnlang.syntax import ast
from attnlang.syntax.ast_printer import print_ast
from attnlang.syntax.parser import parse

AT = Span(Source("", ""), 0, 0)
NAMES = ("q", "score", "kv_idx", "float", "int", "inf", "x1", "_", "CamelCase", "iff", "notx", "e5")


def seeded_program(seed: int, size: int = 4) -> ast.File:
    return Programs(random.Random(seed)).file(size)


class Programs:
    """Draws programs; `depth` bounds the expressions."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def file(self, size: int) -> ast.File:
        kinds = (self.imported, self.definition, self.attention)
        return ast.File(
            tuple(self.rng.choice(kinds)() for _ in range(self.rng.randint(0, size))), span=AT
        )

    def imported(self) -> ast.Import:
        names = self.some(self.name, 1, 3)
        return ast.Import(self.text(), names, span=AT, path_span=AT)

    def definition(self) -> ast.Def:
        args = self.maybe(lambda: self.some(self.name, 0, 3))
        return ast.Def(self.word(), args, self.expr(4), span=AT, name_span=AT)

    def attention(self) -> ast.Attention:
        return ast.Attention(
            self.word(),
            self.maybe(lambda: self.some(self.param, 0, 3)),
            self.maybe(self.text),
            self.some(self.statement, 0, 4),
            span=AT,
            name_span=AT,
        )

    def param(self) -> ast.Param:
        kind = self.rng.choice(("float", "int", "bool"))
        dims = self.maybe(lambda: self.some(lambda: self.expr(2), 1, 3))
        return ast.Param(
            self.word(),
            ast.Type(kind, dims, span=AT),
            self.maybe(lambda: self.expr(2)),
            self.rng.random() < 0.3,
            span=AT,
            name_span=AT,
        )

    def statement(self) -> ast.Require | ast.Assign:
        if self.rng.random() < 0.3:
            message = self.maybe(self.text) or None
            return ast.Require(self.expr(4), message, span=AT)
        return ast.Assign(self.word(), self.expr(4), span=AT, name_span=AT)

    def expr(self, depth: int) -> ast.Expr:
        if depth == 0 or self.rng.random() < 0.15:
            return self.leaf()
        below = lambda: self.expr(depth - 1)  # noqa: E731
        match self.rng.randrange(8):
            case 0:
                return ast.Unary(self.rng.choice(("-", "not")), below(), span=AT)
            case 1 | 2:
                op = self.rng.choice(("+", "-", "*", "/", "//", "%", "**"))
                return ast.Binary(op, below(), below(), span=AT)
            case 3:
                count = self.rng.randint(1, 3)
                ops = tuple(
                    self.rng.choice(("==", "!=", "<", "<=", ">", ">=")) for _ in range(count)
                )
                return ast.Compare(ops, tuple(below() for _ in range(count + 1)), span=AT)
            case 4:
                return ast.Logic(self.rng.choice(("and", "or")), below(), below(), span=AT)
            case 5:
                return ast.IfElse(below(), below(), below(), span=AT)
            case 6:
                keyword = lambda: ast.Keyword(self.word(), below(), span=AT)  # noqa: E731
                args, keywords = self.some(below, 0, 2), self.some(keyword, 0, 2)
                return ast.Call(self.name(), args, keywords, span=AT)
            case _:
                part = lambda: (  # noqa: E731
                    ast.Slice(self.maybe(below), self.maybe(below), span=AT)
                    if self.rng.random() < 0.3
                    else below()
                )
                return ast.Index(below(), self.some(part, 1, 3), span=AT)

    def leaf(self) -> ast.Expr:
        match self.rng.randrange(5):
            case 0:
                return ast.Number(self.rng.choice((0, 7, 2**63 - 1)), span=AT)
            case 1:
                return ast.Number(self.rng.choice((0.0, 1.5, 1e-30, 1e300, 0.1)), span=AT)
            case 2:
                return ast.Bool(self.rng.random() < 0.5, span=AT)
            case 3:
                return ast.NoneLiteral(span=AT)
            case _:
                return self.name()

    def name(self) -> ast.Name:
        return ast.Name(self.word(), span=AT)

    def word(self) -> str:
        return self.rng.choice(NAMES)

    def text(self) -> str:
        return "".join(self.rng.choice('ab "\\\n\t#(日é') for _ in range(self.rng.randrange(6)))

    def some(self, draw, low: int, high: int) -> tuple:
        return tuple(draw() for _ in range(self.rng.randint(low, high)))

    def maybe(self, draw):
        return draw() if self.rng.random() < 0.5 else None


def squeezed(text: str) -> str:
    """The same program on one line; strings hold no raw line break."""
    return " ".join(text.split("\n"))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_a_printed_program_is_read_back(seed: int) -> None:
    tree = seeded_program(seed)
    text = unparse(tree)
    for written in (text, squeezed(text)):
        read = parse(Source("random.attn", written))
        assert not read.diagnostics, render_text(read.diagnostics[0])
        assert read.file == tree
        # 1 == 1.0 in Python: the printed tree tells them apart.
        assert print_ast(read.file) == print_ast(tree)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_every_span_reads_back_as_its_node(seed: int) -> None:
    """The text under an expression's span, alone, is that expression."""
    read = parse(Source("random.attn", unparse(seeded_program(seed, 2))))
    for node in ast.walk(read.file):
        text = node.span.source.text[node.span.start : node.span.end]
        for child in ast.children(node):
            assert node.span.start <= child.span.start <= child.span.end <= node.span.end
        if isinstance(node, ast.Expr):
            alone = parse(Source("alone.attn", f"def f = {text}"))
            assert not alone.diagnostics
            (item,) = alone.file.items
            assert isinstance(item, ast.Def)
            assert item.value == node


WORDS = """
attention a def f from import "x.attn" ( ) [ ] , : = == != < <= > >= + - * / // % ** and or not if
else true false none const require float int bool q 1 1.5 1e9 9e999 99999999999999999999 "doc" "open
# && || ! ^ ' ; . .. ... { } @ $ ` True return lambda \\ "\\q" 1.2.3 5x := -> =>
"""
SOUP = [
    *WORDS.split(),
    "c\n",
    "\r",
    "\t",
    '""' + '"',
    "\u00d7",
    "\u00e9",
    "\u8a9e",
    "\u202e",
    "\x00",
]
SOUP += ["\ud800", "\u00a0", "\ufeff", "\n"]


def assert_sound(text: str) -> None:
    """Parsing returns, its diagnostics can be shown, its tree can be printed and walked."""
    source = Source("fuzz.attn", text)
    result = parse(source)
    for d in result.diagnostics:
        assert 0 <= d.span.start <= d.span.end <= len(text)
        shown = render_text(d)
        assert all(c == "\n" or c.isprintable() for c in shown), repr(shown)
        assert "\n" not in render_github(d)
    render_json(result.diagnostics)
    assert "ANON" not in print_ast(result.file)
    assert result.diagnostics or parse(Source("again", unparse(result.file))).file == result.file


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(SOUP), max_size=30), st.sampled_from(["", " ", "\n"]))
def test_token_soup(words: list[str], joint: str) -> None:
    assert_sound(joint.join(words))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_any_text(text: str) -> None:
    assert_sound(text)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    assert_sound(data.decode("utf-8", "surrogateescape"))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 10_000), st.sampled_from(SOUP))
def test_a_slip_in_a_sound_program(seed: int, place: int, slip: str) -> None:
    text = unparse(seeded_program(seed))
    at = place % (len(text) + 1)
    assert_sound(text[:at] + slip + text[at:])
    assert_sound(text[:at] + text[at + 1 :])


@pytest.mark.slow
def test_a_long_soup() -> None:
    rng = random.Random(20)
    for _ in range(30_000):
        assert_sound(rng.choice(("", " ")).join(rng.choices(SOUP, k=rng.randrange(1, 25))))
