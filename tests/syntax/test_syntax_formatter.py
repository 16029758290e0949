"""The formatter: the same words, the same comments, one layout, and that a fixed point."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_syntax_random import SOUP, seeded_program
from unparse import unparse

from attnlang.diagnostics.render import render_text
from attnlang.sources import Source
from attnlang.syntax.ast_printer import print_ast
from attnlang.syntax.formatter import format_source
from attnlang.syntax.layout import WIDTH
from attnlang.syntax.limits import MAX_DEPTH, MAX_FILE_BYTES
from attnlang.syntax.parser import parse

ROOT = Path(__file__).resolve().parents[2]
SPECS = sorted(
    p
    for folder in ("examples", "grammar", "tests/cases", "benchmarks")
    for p in (ROOT / folder).rglob("*.attn")
)


def fmt(text: str) -> str:
    result = format_source(Source("spec.attn", text))
    assert result.text is not None, "\n".join(render_text(d) for d in result.diagnostics)
    return result.text


def comments(text: str) -> list[str]:
    """The comments of a text, found without the formatter's help."""
    bare = re.sub(r'"(?:\\.|[^"\\])*"|(#[^\r\n]*)', lambda m: m[1] or " " * len(m[0]), text)
    return [c.rstrip(" \t\f") for c in re.findall(r"#[^\r\n]*", bare)]


def assert_formats(text: str) -> None:
    """What must hold of any sound program."""
    once = fmt(text)
    before, after = parse(Source("before", text)), parse(Source("after", once))
    assert after.file == before.file
    assert print_ast(after.file) == print_ast(before.file)
    assert comments(once) == comments(text)
    assert fmt(once) == once
    assert "\n\n\n" not in once
    assert not once or (once.endswith("\n") and once[0] != "\n")
    assert not re.search(r"[ \t]$", once, re.MULTILINE)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.attn")), ids=lambda p: p.stem)
def test_an_example_is_in_the_layout(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert fmt(text) == text


def test_the_prelude_is_in_the_layout() -> None:
    text = (ROOT / "grammar/prelude.attn").read_text(encoding="utf-8")
    assert fmt(text) == text


def test_every_spec_of_the_project() -> None:
    sound = 0
    for path in SPECS:
        text = path.read_text(encoding="utf-8", errors="replace")
        if not parse(Source("spec.attn", text)).diagnostics:
            sound += 1
            assert_formats(text)
    assert sound > 50


def scattered(text: str, seed: int) -> str:
    """The same program with its white space at random, and comments in it."""
    rng = random.Random(seed)
    gaps = [
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\n\n\n",
        " # c\n",
        "\n# own\r\n",
        " #!\r",
        "\n   #\n\n# b\n",
    ]
    words = re.findall(
        r'"(?:\\.|[^"\\])*"|\w+(?:\.\w*)?(?:(?<=e)[+-]\w+)?|\*\*|//|[=!<>]=|\S', text
    )
    share = rng.choice((0.02, 0.2, 0.9))
    return "".join(word + (rng.choice(gaps) if rng.random() < share else " ") for word in words)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_any_program(seed: int, other: int) -> None:
    text = unparse(seeded_program(seed))
    assert_formats(text)
    wild = scattered(text, other)
    assert not parse(Source("wild", wild)).diagnostics
    assert_formats(wild)


@pytest.mark.slow
def test_many_programs() -> None:
    for seed in range(800):
        assert_formats(scattered(unparse(seeded_program(seed, 6)), seed))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(SOUP), max_size=30), st.sampled_from(["", " ", "\n"]))
def test_token_soup_is_formatted_or_refused(words: list[str], joint: str) -> None:
    source = Source("soup.attn", joint.join(words))
    result = format_source(source)
    assert (result.text is None) == bool(parse(source).diagnostics)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_the_layout_does_not_depend_on_the_white_space(seed: int, other: int) -> None:
    text = unparse(seeded_program(seed))
    rng = random.Random(other)
    words = re.findall(
        r'"(?:\\.|[^"\\])*"|\w+(?:\.\w*)?(?:(?<=e)[+-]\w+)?|\*\*|//|[=!<>]=|\S', text
    )
    mixed = "".join(word + rng.choice((" ", "\n", "\t ")) for word in words)
    assert fmt(mixed) == fmt(" ".join(words))


LAYOUTS = {
    "spaces": ("attention  a ( x:float=1 ) :mask=not(q_idx<-x**2)", """\
attention a(x: float = 1):
    mask = not (q_idx < -x ** 2)
"""),
    "no parameter": ("attention a:attention b():", "attention a:\n\nattention b():\n"),
    "slices and keywords": ("def f(t)=t [ 0 : 2*D , : , i: ]+g( x , k = - 1 )", """\
def f(t) = t[0:2 * D, :, i:] + g(x, k=-1)
"""),
    "as written": ('def f = ((1e5 + .5)) * 1_000 == "a\\"#b"'.replace('"a\\"#b"', "007"), """\
def f = ((1e5 + .5)) * 1_000 == 007
"""),
    "a last comma": ("def f(a,b,)=g(a,b,)[a,]", "def f(a, b) = g(a, b)[a]\n"),
    "defs stay together": ("def a=1 def b=2\n\n\n\ndef c=3", """\
def a = 1
def b = 2

def c = 3
"""),
    "attentions apart": ("def a=1 attention b: score=1 mask=true\n# c\ndef d=1", """\
def a = 1

attention b:
    score = 1
    mask = true

# c
def d = 1
"""),
    "comments": ("""\
#one
# two  \t

def a = 1 # three
#four
attention b ( # five
  x : int , # six
  # seven
  y : int # eight
  # nine
) : # ten
     # eleven

  score = x + # twelve
     y
     # thirteen
# fourteen
""", """\
#one
# two

def a = 1  # three

#four
attention b(  # five
    x: int,   # six
    # seven
    y: int,  # eight
    # nine
):  # ten
    # eleven

    score = x  # twelve
        + y
    # thirteen

# fourteen
"""),
    "aligned comments": ("attention a: score = 1 # x\nmask = true # y\nout=acc\nweights=1 # z", """\
attention a:
    score = 1    # x
    mask = true  # y
    out = acc
    weights = 1  # z
"""),
    "a long choice": ("def f(x) = " + "x + 1000000000 if x < 1000000000 else " * 4 + "0", """\
def f(x) = x + 1000000000 if x < 1000000000
    else x + 1000000000 if x < 1000000000
    else x + 1000000000 if x < 1000000000
    else x + 1000000000 if x < 1000000000
    else 0
"""),
    "the loosest breaks": (
        "attention a: mask = " + " and ".join(["(causal or kv_idx < 1000000000)"] * 4), """\
attention a:
    mask = (causal or kv_idx < 1000000000)
        and (causal or kv_idx < 1000000000)
        and (causal or kv_idx < 1000000000)
        and (causal or kv_idx < 1000000000)
"""),
    "a long call": ("attention a: q = rope(" + "q, " * 40 + "base=1)", None),
    "a long header": ("attention a(" + ", ".join(f"x{i}: float = 1.5" for i in range(6)) + "):",
        """\
attention a(
    x0: float = 1.5,
    x1: float = 1.5,
    x2: float = 1.5,
    x3: float = 1.5,
    x4: float = 1.5,
    x5: float = 1.5,
):
"""),
    "a long parenthesis": ("def f(x) = (" + " + ".join(["x * 1000000000000"] * 6) + ") * x", """\
def f(x) = (
    x * 1000000000000
    + x * 1000000000000
    + x * 1000000000000
    + x * 1000000000000
    + x * 1000000000000
    + x * 1000000000000
)
    * x
"""),
    "a long require": ('attention a: require kv_idx > 0, "' + "long " * 18 + '"', f"""\
attention a:
    require kv_idx > 0,
        "{"long " * 18}"
"""),
    "a long import": ('from "a.attn" import ' + ",".join(["name_of_a_def"] * 8), f"""\
from "a.attn" import
{"".join("    name_of_a_def," + chr(10) for _ in range(7))}    name_of_a_def
"""),
    "nothing": (" \n\n\t", ""),
    "a byte order mark": ("\ufeffattention a:", "attention a:\n"),
    "only comments": ("\n\n  # a\n\n\n#b", "# a\n\n#b\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name: str) -> None:
    given, wanted = LAYOUTS[name]
    assert_formats(given)
    if wanted is not None:
        assert fmt(given) == wanted


def test_lines_fit() -> None:
    """Whatever can break does: only a word that is itself too long leaves a line too long."""
    for seed in range(200):
        for line in fmt(unparse(seeded_program(seed, 3))).splitlines():
            code = re.sub(r'"(?:\\.|[^"\\])*"', "", line)
            indent = len(line) - len(line.lstrip())
            assert len(code) <= WIDTH or indent > WIDTH - 40, line


def test_line_ends_are_those_of_the_first_line() -> None:
    text = "def a = 1  # x\n# y\n\nattention b:\n    score = a\n"
    crlf = text.replace("\n", "\r\n")
    assert fmt(crlf) == crlf
    assert fmt(crlf.replace("\r\n", "\n", 1)) == text
    assert fmt(text.replace("\n", "\r\n", 1)) == crlf
    assert fmt(text.replace("\n", "\r")) == text


def test_the_deepest_nesting() -> None:
    depth = MAX_DEPTH - 1
    for opening, closing in (("(1 + ", ")"), ("f(", ")"), ("-", ""), ("not ", ""), ("2 ** ", "")):
        assert_formats(f"def g = {opening * depth}x{closing * depth}\n")


def test_what_cannot_be_parsed_has_its_diagnostics() -> None:
    result = format_source(Source("bad.attn", "attention a: score = = 1"))
    assert result.text is None
    assert [d.code for d in result.diagnostics] == ["A101"]


def test_a_file_that_would_become_too_large() -> None:
    depth = MAX_DEPTH - 1
    line = f"def g = {'f(a, ' * depth}x{')' * depth}\n"
    result = format_source(Source("big.attn", line * 39))
    assert result.text is None
    assert [d.code for d in result.diagnostics] == ["A130"]
    assert len(line * 39) < MAX_FILE_BYTES
