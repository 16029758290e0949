"""The parser: what trees and spans come out, what is refused and where."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lark import Lark, logger

from attnlang.assets import asset
from attnlang.sources import Source
from attnlang.syntax import ast, limits
from attnlang.syntax.ast_printer import print_ast
from attnlang.syntax.parser import parse
from attnlang.syntax.tokens import ITEM_STARTS

WORDS = "from import def attention require const and or not if else true false none"
KEYWORDS = WORDS.split()


def value(text: str) -> ast.Expr:
    result = parse(Source("t.attn", f"def f = {text}"))
    assert not result.diagnostics, result.diagnostics[0].headline
    (item,) = result.file.items
    assert isinstance(item, ast.Def)
    return item.value


def errors(text: str) -> list[tuple[str, str]]:
    """Code and underlined text of each diagnostic."""
    source = Source("t.attn", text)
    found = parse(source).diagnostics
    return [(d.code, text[d.span.start : d.span.end]) for d in found]


def written(node: ast.Node) -> str:
    return node.span.source.text[node.span.start : node.span.end]


@pytest.mark.parametrize(
    ("text", "grouped"),
    [
        ("a - b - c", "(a - b) - c"),
        ("a / b * c", "(a / b) * c"),
        ("a + b * c", "a + (b * c)"),
        ("a // b % c", "(a // b) % c"),
        ("a ** b ** c", "a ** (b ** c)"),
        ("-a ** b", "-(a ** b)"),
        ("a ** -b ** c", "a ** (-(b ** c))"),
        ("-a * b", "(-a) * b"),
        ("-a[i]", "-(a[i])"),
        ("a ** b[i]", "a ** (b[i])"),
        ("not a == b", "not (a == b)"),
        ("not a and b", "(not a) and b"),
        ("a or b and c", "a or (b and c)"),
        ("a and b and c", "(a and b) and c"),
        ("a + b < c and d", "((a + b) < c) and d"),
        ("a if b else c if d else e", "a if b else (c if d else e)"),
        ("a or b if c or d else e", "(a or b) if (c or d) else e"),
        ("f(x)[i][j]", "((f(x))[i])[j]"),
    ],
)
def test_precedence_is_pythons(text: str, grouped: str) -> None:
    assert value(text) == value(grouped)


def test_brackets_break_a_chain() -> None:
    chain = value("a < b <= c")
    assert isinstance(chain, ast.Compare)
    assert chain.ops == ("<", "<=")
    assert value("(a < b) <= c") != chain
    assert value("a < (b <= c)") != chain


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("007", 7),
        ("000000000000000000000000012", 12),
        ("1_000", 1000),
        ("9223372036854775807", 2**63 - 1),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("1E+3", 1000.0),
        ("1.5e-3", 0.0015),
        ("1e-999", 0.0),
    ],
)
def test_numbers(text: str, number: float) -> None:
    found = value(text)
    assert isinstance(found, ast.Number)
    assert found.value == number
    assert type(found.value) is type(number)


def test_a_number_ends_where_an_operator_begins() -> None:
    assert value("1e3-1") == value("1e3 - 1")
    assert value("1-1") == value("1 - 1")
    assert value("2**.5") == value("2 ** 0.5")
    assert value("k[0:512]") == value("k[ 0 : 512 ]")


def test_signs_need_no_space() -> None:
    assert value("x<-1") == value("x < (-1)")
    assert value("x- -1") == value("x--1")
    assert value("a!=b") == value("a != b")
    assert value("f(a=-1)") == value("f( a = -1 )")


def test_strings() -> None:
    text = 'attention a: "a\\n\\t\\"\\\\ # \t日" require true, "m" require true'
    (item,) = parse(Source("t.attn", text)).file.items
    assert isinstance(item, ast.Attention)
    assert item.doc == 'a\n\t"\\ # \t日'
    assert [s.message for s in item.statements if isinstance(s, ast.Require)] == ["m", None]


def test_parentheses_make_a_difference_in_a_header() -> None:
    items = parse(Source("t.attn", "attention a: attention b(): def c = 1 def d() = 1")).file.items
    assert [i.params for i in items if isinstance(i, ast.Attention)] == [None, ()]
    assert [i.args for i in items if isinstance(i, ast.Def)] == [None, ()]


def test_a_statement_ends_where_the_next_begins() -> None:
    text = "attention a: score = x y = z[h] w = f(q=1) require y < 2 mask = -3 - 4 k = (q) v = k"
    (item,) = parse(Source("t.attn", text)).file.items
    assert isinstance(item, ast.Attention)
    assert [written(s) for s in item.statements] == [
        "score = x",
        "y = z[h]",
        "w = f(q=1)",
        "require y < 2",
        "mask = -3 - 4",
        "k = (q)",
        "v = k",
    ]


def test_types_are_contextual() -> None:
    text = "attention float(int: int, bool: bool[float]): float = float(int) + int[float:int]"
    result = parse(Source("t.attn", text))
    assert not result.diagnostics


def test_keywords_are_reserved() -> None:
    for word in KEYWORDS:
        assert errors(f"attention a: {word} = 3"), word
        if word not in ITEM_STARTS:
            assert errors(f"def f({word}) = 3"), word
    assert not errors("attention a: iff = 3 nota = 3 defs = 3 From = 3 true_ = 3 _none = 3")


def test_comments_and_breaks() -> None:
    one = "def f = 1 # def g = 2\r\n#\rdef h = ( # x )\n 3 )# end"
    result = parse(Source("t.attn", one))
    assert not result.diagnostics
    assert [i.name for i in result.file.items if isinstance(i, ast.Def)] == ["f", "h"]


def test_a_byte_order_mark_is_no_error_at_the_start() -> None:
    assert not errors("\ufeffdef f = 1")
    assert errors("def f = \ufeff1") == [("A108", "\ufeff")]


def test_spans() -> None:
    head = "attention a(const n: int[HQ, 2] = (3)):\n"
    text = head + "  score = (q + 1) * f(x, s=(2))[i] if (c) else d\n"
    source = Source("t.attn", text)
    file = parse(source).file
    assert written(file) == text
    (item,) = file.items
    assert isinstance(item, ast.Attention)
    assert written(item) == text.rstrip("\n")
    assert text[item.name_span.start : item.name_span.end] == "a"
    (param,) = item.params or ()
    assert written(param) == "const n: int[HQ, 2] = (3)"
    assert text[param.name_span.start : param.name_span.end] == "n"
    assert written(param.type) == "int[HQ, 2]"
    (assign,) = item.statements
    assert isinstance(assign, ast.Assign)
    assert text[assign.name_span.start : assign.name_span.end] == "score"
    choice = assign.value
    assert isinstance(choice, ast.IfElse)
    assert written(choice) == "(q + 1) * f(x, s=(2))[i] if (c) else d"
    assert written(choice.condition) == "c"
    product = choice.then
    assert isinstance(product, ast.Binary)
    assert written(product) == "(q + 1) * f(x, s=(2))[i]"
    assert written(product.left) == "q + 1"
    assert isinstance(product.right, ast.Index)
    assert written(product.right.base) == "f(x, s=(2))"
    assert isinstance(product.right.base, ast.Call)
    assert written(product.right.base.keywords[0]) == "s=(2)"


def test_an_import_has_the_span_of_its_path() -> None:
    text = 'from "a.attn" import x, y,'
    (item,) = parse(Source("t.attn", text)).file.items
    assert isinstance(item, ast.Import)
    assert text[item.path_span.start : item.path_span.end] == '"a.attn"'
    assert [written(n) for n in item.names] == ["x", "y"]


def test_the_first_token_that_cannot_continue() -> None:
    assert errors("def f = 1 + * 2") == [("A101", "*")]
    assert errors("def f = a b") == [("A101", "b")]
    assert errors("attention a: score = a b + c") == [("A101", "+")]
    assert errors("attention a: score = f(1 2)") == [("A101", "2")]
    assert errors("attention a: score = a < not b") == [("A101", "not")]
    assert errors("attention a: score = f(x)(y)") == [("A101", "(")]
    assert errors("attention a(n int): score = 1") == [("A101", "int")]
    assert errors("def f = ") == [("A101", "")]


def test_every_item_reports_its_own_error() -> None:
    text = "def f = +\ndef g = 1\nattention a: mask = x = y\ndef h(x = 1\nattention b:\nfrom y"
    assert [code for code, _ in errors(text)] == ["A101", "A104", "A101", "A101"]
    result = parse(Source("t.attn", text))
    assert [i.name for i in result.file.items if not isinstance(i, ast.Import)] == ["g", "b"]
    assert result.broken >= {"f", "a", "h"}
    assert not result.broken & {"g", "b"}


def test_a_slip_inside_a_token_hides_what_follows_from_it() -> None:
    assert errors("attention a: mask = x && ! y == !z || 5q ^") == [
        ("A106", "&&"),
        ("A106", "!"),
        ("A106", "!"),
        ("A106", "||"),
        ("A111", "5q"),
        ("A106", "^"),
    ]
    assert errors("def f = * && 2") == [("A101", "*"), ("A106", "&&")]


DEEP = {
    "parentheses": "({}x{})".format("(" * 9_000, ")" * 9_000),
    "open brackets": "(" * 15_000,
    "open calls": "f(" * 6_000,
    "open indices": "x[" * 6_000,
    "not": "not " * 15_000 + "x",
    "minus": "-" * 15_000 + "x",
    "powers": "x ** " * 6_000 + "x",
    "choices": "x if y else " * 4_000 + "x",
    "sum": "x + " * 5_000 + "x",
    "ands": "x and " * 5_000 + "x",
    "indices": "x" + "[0]" * 6_000,
    "calls": "f(" * 5_000 + "x" + ")" * 5_000,
}


@pytest.mark.parametrize("name", DEEP)
def test_depth_is_limited_and_nothing_recurses(name: str) -> None:
    assert [code for code, _ in errors(f"def f = {DEEP[name]}")] == ["A132"]


@pytest.mark.parametrize("kind", ["{}x{}", "sum", "not"])
def test_the_depth_limit_is_exact(kind: str) -> None:
    def text(depth: int) -> str:
        if kind == "sum":
            return " + ".join(["x"] * depth)
        if kind == "not":
            return "not " * (depth - 1) + "x"
        return "(" * depth + "x" + ")" * depth

    assert not errors(f"def f = {text(limits.MAX_DEPTH)}")
    assert errors(f"def f = {text(limits.MAX_DEPTH + 1)}")


def test_a_long_comparison_is_not_deep() -> None:
    assert not errors("def f = " + " < ".join(["x"] * 5_000))


def test_sizes_are_limited() -> None:
    assert errors("#" + "é" * (limits.MAX_FILE_BYTES // 2)) == [("A130", "")]
    assert not errors("#" + "x" * (limits.MAX_FILE_BYTES - 1))
    assert errors("1 " * (limits.MAX_TOKENS + 1)) == [("A131", "1")]
    items = "def f = 1\n" * (limits.MAX_ITEMS + 1)
    assert errors(items) == [("A135", "def")]
    assert len(parse(Source("t.attn", items)).file.items) == limits.MAX_ITEMS
    many = ", ".join(f"p{i}" for i in range(limits.MAX_NAMES + 1))
    assert errors(f"def f({many}) = 1") == [("A135", f"p{limits.MAX_NAMES}")]
    assert errors(f'from "x.attn" import {many}') == [("A135", f"p{limits.MAX_NAMES}")]


def test_errors_are_limited() -> None:
    found = errors("def = 1\n" * (limits.MAX_DIAGNOSTICS + 5))
    assert [code for code, _ in found] == ["A101"] * limits.MAX_DIAGNOSTICS + ["A136"]


def test_the_worst_text_of_a_megabyte_is_refused_quickly() -> None:
    start = time.process_time()
    for text in (
        "é" * 500_000,
        "def " * 250_000,
        '"' * 1_000_000,
        "'" * 1_000_000,
        "1" * 1_000_000,
        "1" * 1_000_000 + "x",
        "1_" * 500_000,
        "0" * 500_000 + "." + "0" * 500_000 + "e",
        ".1" * 500_000,
    ):
        assert errors(text)
    assert time.process_time() - start < 20


def test_the_grammar_has_no_conflict(caplog: pytest.LogCaptureFixture) -> None:
    """Lark resolves a shift/reduce conflict silently, but logs it."""
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.propagate = True
    try:
        Lark(asset("grammar", "attn.lark").read_text(), parser="lalr", start="file", debug=True)
        assert "conflict" not in caplog.text.lower()
        Lark("file: a\na: X | a a\nX: /x/", parser="lalr", start="file", debug=True)
        assert "conflict" in caplog.text.lower()
    finally:
        logger.setLevel(level)
        logger.propagate = False


def test_the_ast_is_printed() -> None:
    text = 'attention a(x: float[2] = none): "d" score = -x[1:] if 1 < 2 else f(1.0, s=true)'
    assert print_ast(parse(Source("t.attn", text)).file) == "\n".join(
        [
            "File",
            '  Attention a doc="d"',
            "    Param x",
            "      type: Type float",
            "        dim: Number 2",
            "      default: NoneLiteral",
            "    Assign score",
            "      value: IfElse",
            "        condition: Compare <",
            "          Number 1",
            "          Number 2",
            "        then: Unary -",
            "          operand: Index",
            "            base: Name x",
            "            at: Slice",
            "              start: Number 1",
            "        otherwise: Call",
            "          function: Name f",
            "          arg: Number 1.0",
            "          Keyword s",
            "            value: Bool true",
        ]
    )


@pytest.mark.parametrize("damage", [None, b"", b"nonsense\n", "half", "locked"])
def test_kept_tables_may_be_missing_or_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | str | None
) -> None:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ATTNLANG_CACHE_DIR", str(folder))
    code = (
        "from attnlang.syntax.parser import parse; from attnlang.sources import Source\n"
        "r = parse(Source('x', 'def f = 1 + 2 def g = *'))\n"
        "print(r.file.items, [d.code for d in r.diagnostics])"
    )

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        )
        assert not done.stderr
        return done.stdout

    if damage == "locked":
        folder.write_text("a file where the folder should be")
        assert "['A101']" in run()
        return
    first = run()
    assert "['A101']" in first
    (tables,) = folder.iterdir()
    data = tables.read_bytes()
    if damage is not None:
        tables.write_bytes(data[: len(data) // 2] if isinstance(damage, str) else damage)
    assert run() == first
    assert tables.read_bytes()[:64] == data[:64]


def test_the_parser_imports_neither_torch_nor_sympy() -> None:
    code = (
        "import sys, attnlang.syntax.parser, attnlang.diagnostics.render, "
        "attnlang.diagnostics.explain, attnlang.syntax.ast_printer\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'sympy', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
