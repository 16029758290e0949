"""The printer: few parentheses, and text that means the same expression again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlang.ir import nodes as ir
from attnlang.ir.printer import print_expr, print_variant
from attnlang.sema import ImportResolver, analyse
from attnlang.sources import Source, Span
from attnlang.syntax.parser import parse

HEADER = (
    "x: float, n: int, on: bool, t: float[HQ, N], i: int[B, KV], w: float[D], o: float[HQ] = none"
)
USE = (
    "    v = v * (x + n + float(on) + t[0, 0] + i[0, 0] + w[0])\n    out = acc * float(o != none)\n"
)


def variant_of(statements: str) -> ir.Variant:
    text = f"attention t({HEADER}):\n{statements}{USE}"
    result = parse(Source("<test>", text))
    assert not result.diagnostics, result.diagnostics
    analysis = analyse(result.file, resolve=ImportResolver(None))
    assert not analysis.diagnostics, (text, [d.headline for d in analysis.diagnostics])
    return analysis.variants[0]


def mask(text: str) -> ir.Expr:
    return variant_of(f"    mask = {text}\n").mask


def score(text: str) -> ir.Expr:
    return variant_of(f"    score = {text}\n").score


@pytest.mark.parametrize(
    "text",
    [
        "score + x * (x - 2.0)",
        "(score - x) / (x / 2.0)",
        "score - (x - x)",
        "-x ** 2",
        "(-x) ** 2",
        "x ** 2 ** 3",
        "(x ** 2) ** 3",
        "x ** -n",
        "-(x + x) * -x",
        "score * (q_idx - kv_idx) // 2",
        "score / (n // 2 % 3)",
        "x if on else score if causal_ else 0.5",
        "(x if on else score) + 1",
        "tanh(score) + max(x, 2, n) + clamp(score, -x, x)",
        "t[h, clamp(n, 0, 3)] + x",
        "score + dot(q, w[d]) + dot(k[0:D // 2], w[d])",
        "o[h] if o != none else x",
        "x if o == none and on else o[h] if o != none else pi",
        "float(bit(n, 3)) + q_idx / 2 + int(x)",
        "x * inf - 1e-06",
        "x * (1 if on else 0)",
        "float(min(n, 2)) ** 2",
        "x ** float(n)",
    ],
)
def test_text_is_kept(text: str) -> None:
    text = text.replace("causal_", "kv_idx <= q_idx")
    printed = print_expr(score(text))
    assert printed.replace("raw", "score") == text.replace("x ** 2 ** 3", "x ** 8")


@pytest.mark.parametrize(
    "text",
    [
        "0 <= q_idx - kv_idx < n",
        "on and not (q_idx < n or kv_idx < n)",
        "(on or q_idx < 3) and (kv_idx < 3 or on)",
        "not on == (q_idx < 3)",
        "q_idx // n == kv_idx // n and i[b, q_idx] == i[b, kv_idx] != n",
        "on == (q_idx == 2) or on",
        "raw > 0.5 * n",
        "n < x < n",
    ],
)
def test_conditions_are_kept(text: str) -> None:
    assert print_expr(mask(text.replace("raw", "score"))) == text


@pytest.mark.parametrize(
    "text",
    [
        "rope(q, q_idx)",
        "rope(q * 2, q_row + 1, base=500000, start=2, dims=D // 2, interleaved=true)",
        "rope(q, 0.5 * q_idx, freqs=w)",
        "rms_norm(q)",
        "rms_norm(q, weight=w, eps=0.001)",
        "rms_norm(q, weight=w[d] * 2)",
        "l2_norm(q + q[0:4], eps=x)",
        "q * d if d < 64 else -q",
    ],
)
def test_vectors_are_kept(text: str) -> None:
    assert print_expr(variant_of(f"    q = {text}\n").q) == text


def test_a_variant() -> None:
    text = """attention capped(cap: float = 50.0, const n: int, b1: float[HQ, R], o: int[B] = none):
    "Quotes \\" and \\\\."
    require cap > 0, "cap \\"must\\" be positive"
    scale = 1.0 / D
    q = rope(q, q_idx)
    v = k[0:n]
    score = cap * tanh(score / cap) + b1[h, R - 1]
    mask = causal and (o == none or kv_idx < o[b])
    weights = softmax(score, sink=0) * (1 - cap) * dropout(0.5)
    out = acc / max(row_sum, 1)
"""
    result = parse(Source("<test>", text))
    analysis = analyse(result.file, resolve=ImportResolver(None))
    assert not analysis.diagnostics
    assert (
        print_variant(analysis.variants[0])
        == """attention capped(cap: float = 50.0, const n: int, b1: float[HQ, R], o: int[B] = none):
    "Quotes \\" and \\\\."
    # b1.shape[1] == R
    require cap > 0, "cap \\"must\\" be positive"
    scale = 1.0 / D
    q = rope(q, q_idx)
    k = k
    v = k[0:n]
    score = cap * tanh(raw / cap) + b1[h, R - 1]
    mask = kv_idx <= q_idx and (o == none or kv_idx < o[b])
    weights = softmax(cap * tanh(raw / cap) + b1[h, R - 1], sink=0) * (1 - cap) * dropout(0.5)
    out = acc / max(row_sum, 1)
"""
    )


SPAN = Span(Source("<test>", ""), 0, 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-1, "-1"),
        (-0.0, "-0.0"),
        (float("-inf"), "-inf"),
        (float("nan"), "inf - inf"),
        (1e300, "1e+300"),
        (True, "true"),
    ],
)
def test_constants(value: bool | int | float, text: str) -> None:
    kind = {bool: ir.BOOL, int: ir.INT, float: ir.FLOAT}[type(value)]
    assert print_expr(ir.Const(value, kind, span=SPAN)) == text


def test_the_depth_of_an_expression_does_not_matter() -> None:
    expr: ir.Expr = ir.Raw(span=SPAN)
    for _ in range(3000):
        expr = ir.Call(ir.Function.TANH, (expr,), ir.FLOAT, span=SPAN)
    assert print_expr(expr) == "tanh(" * 3000 + "raw" + ")" * 3000


def test_negative_constants_keep_their_parentheses() -> None:
    two = ir.Const(2, ir.INT, span=SPAN)
    minus = ir.Const(-1, ir.INT, span=SPAN)
    power = ir.Binary(ir.BinaryOp.POW, minus, two, ir.INT, span=SPAN)
    assert print_expr(power) == "(-1) ** 2"
    assert print_expr(ir.QK(span=SPAN)) == "dot(q, k)"


NUMBERS = st.sampled_from(["score", "x", "n", "q_idx", "kv_idx", "2", "0.5", "KV", "t[h, n]", "pi"])
BOOLS = st.sampled_from(["on", "q_idx < kv_idx", "0 <= n < x", "true == on", "o == none"])


def _numbers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]), inner)
    return st.one_of(
        pair.map(lambda p: f"({p[0]}) {p[1]} ({p[2]})"),
        inner.map(lambda x: f"-({x})"),
        inner.map(lambda x: f"tanh({x})"),
        inner.map(lambda x: f"float({x})"),
        inner.map(lambda x: f"int({x})"),
        st.tuples(inner, inner).map(lambda p: f"max({p[0]}, {p[1]})"),
        st.tuples(inner, BOOLS, inner).map(lambda p: f"({p[0]}) if {p[1]} else ({p[2]})"),
    )


@settings(max_examples=150, deadline=None)
@given(st.recursive(NUMBERS, _numbers, max_leaves=12))
def test_printed_text_means_the_same(text: str) -> None:
    source = f"attention t({HEADER}):\n    score = {text}\n{USE}"
    analysis = analyse(parse(Source("<test>", source)).file, resolve=ImportResolver(None))
    if not analysis.variants:  # a constant that is too large
        assert {d.code for d in analysis.diagnostics} == {"A403"}
        return
    expr = analysis.variants[0].score
    # The result widens by itself, so the text of its operand is what is written.
    printed = print_expr(expr).replace("raw", "score")
    again = score(printed)
    assert again == expr
    assert print_expr(again).replace("raw", "score") == printed
