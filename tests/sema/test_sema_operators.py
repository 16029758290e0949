"""Operators and functions: their kinds, what widens, what is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sema_specs import analysed, body, codes, diagnostics, score, spec, underlined

from attnlang.ir import nodes as ir
from attnlang.ir.traverse import walk
from attnlang.sema.fold import MAX_INT, MIN_INT


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("q_idx + 1", ir.Kind.INT),
        ("q_idx + 1.0", ir.Kind.FLOAT),
        ("q_idx / 2", ir.Kind.FLOAT),
        ("q_idx // 2", ir.Kind.INT),
        ("q_idx // 2.0", ir.Kind.FLOAT),
        ("q_idx ** 2", ir.Kind.INT),
        ("q_idx ** (1 + 1)", ir.Kind.INT),
        ("q_idx ** -1", ir.Kind.FLOAT),
        ("q_idx ** kv_idx", ir.Kind.FLOAT),
        ("q_idx ** 2.0", ir.Kind.FLOAT),
        ("floor(q_idx)", ir.Kind.FLOAT),
        ("round(q_idx)", ir.Kind.FLOAT),
        ("abs(q_idx)", ir.Kind.INT),
        ("min(q_idx, 2, kv_idx)", ir.Kind.INT),
        ("max(q_idx, 2.0)", ir.Kind.FLOAT),
        ("clamp(q_idx, 0, 3)", ir.Kind.INT),
        ("clamp(q_idx, 0, inf)", ir.Kind.FLOAT),
        ("sign(q_idx)", ir.Kind.INT),
        ("sqrt(q_idx)", ir.Kind.FLOAT),
        ("int(score)", ir.Kind.INT),
        ("float(causal)", ir.Kind.FLOAT),
        ("q_idx if causal else 1.0", ir.Kind.FLOAT),
        ("q_idx if causal else 1", ir.Kind.INT),
    ],
)
def test_kinds(expression: str, kind: ir.Kind) -> None:
    # The mask compares the value with itself, so that its kind is not changed.
    variant = body(f"x = {expression}", "mask = x == x")
    assert isinstance(variant.mask, ir.Compare)
    assert variant.mask.left.type == ir.Type(kind)
    assert variant.mask.left is variant.mask.right


def test_a_widening_is_a_cast() -> None:
    variant = body("score = score + q_idx")
    assert isinstance(variant.score, ir.Binary)
    assert isinstance(variant.score.right, ir.Cast)
    assert variant.score.right.type == ir.FLOAT


def test_an_int_exponent_stays_an_int() -> None:
    variant = body("score = score ** (2 + 1)")
    assert isinstance(variant.score, ir.Binary)
    assert variant.score.right == ir.Const(3, ir.INT, span=variant.span)


def test_chains_share_their_operands() -> None:
    variant = body("mask = 0 <= q_idx - kv_idx < 5 <= q_idx")
    outer = variant.mask
    assert isinstance(outer, ir.Logic)
    assert isinstance(outer.left, ir.Logic)
    first, second = outer.left.left, outer.left.right
    assert isinstance(first, ir.Compare)
    assert isinstance(second, ir.Compare)
    assert isinstance(outer.right, ir.Compare)
    assert first.right is second.left
    assert second.right is outer.right.left


def test_a_local_is_one_object() -> None:
    variant = body("x = tanh(score)", "score = x * x")
    assert isinstance(variant.score, ir.Binary)
    assert variant.score.left is variant.score.right


def test_a_def_with_one_argument_value_is_one_object() -> None:
    variant = body("x = score / 2", "score = f(x) * f(x)", defs="def f(y) = tanh(y)")
    assert isinstance(variant.score, ir.Binary)
    assert variant.score.left is variant.score.right


@pytest.mark.parametrize(
    ("expression", "code", "part"),
    [
        ("score + causal", "A214", "causal"),
        ("-causal", "A214", "causal"),
        ("tanh(causal)", "A214", "causal"),
        ("max(1, causal)", "A214", "causal"),
        ("float(causal > 0)", "A217", "causal > 0"),
        ("float(causal < true)", "A217", "causal < true"),
        ("score if q_idx else 0", "A216", "q_idx"),
        ("float(not q_idx)", "A216", "q_idx"),
        ("float(causal and 1)", "A216", "1"),
        ("1 if causal else true", "A218", "true"),
        ("float(bit(1.5, 0))", "A225", "1.5"),
        ("min(score)", "A206", "min(score)"),
        ("clamp(score, 1)", "A206", "clamp(score, 1)"),
        ("tanh(score, 1)", "A206", "tanh(score, 1)"),
        ("tanh(x=score)", "A207", "x=score"),
        ("2 ** 63", "A403", "2 ** 63"),
        ("-9223372036854775807 - 2", "A403", "-9223372036854775807 - 2"),
        ("9 ** 9 ** 9", "A403", "9 ** 9 ** 9"),
        ("9 ** 9999999999", "A403", "9 ** 9999999999"),
    ],
)
def test_refused(expression: str, code: str, part: str) -> None:
    (found,) = diagnostics(f"score = {expression}")
    assert found.code == code
    assert underlined(found) == part


def test_errors_silence_their_followers_and_nothing_else() -> None:
    found = codes(
        "x = nothing + 1",
        "y = x * causal",
        "score = tanh(y) + nowhere",
        "mask = score > x and 3",
    )
    assert found == ["A201", "A201", "A216"]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 * 3 - 1", 5),
        ("7 // -2", -4),
        ("7 % -2", -1),
        ("1 / 4", 0.25),
        ("2 ** 10", 1024),
        ("2 ** -1", 0.5),
        ("min(3, 1, 2)", 1),
        ("clamp(9, 0, 4)", 4),
        ("log(1.0)", 0.0),
        ("round(2.5)", 2.0),
        ("int(-2.7)", -2),
        ("1 if 2 < 3 else 0", 1),
        ("half * 2", 1.0),
        ("pi", math.pi),
        ("-inf", -math.inf),
        ("float(bit(5, 2))", 1.0),
        ("float(bit(5, -3))", 1.0),  # n is clamped to 0..63, as everywhere
        ("float(bit(-1, 99))", 1.0),
        ("sigmoid(-1000.0)", 0.0),
    ],
)
def test_defaults_are_folded(expression: str, value: float) -> None:
    kind = "int" if isinstance(value, int) else "float"
    used = "attention t(x: KIND = VALUE):\n    score = score * x\n"
    text = used.replace("KIND", kind).replace("VALUE", expression)
    defs = "def half = 0.5\n" if "half" in expression else ""
    (param,) = spec(defs + text).params
    assert isinstance(param, ir.ScalarParam)
    assert param.default == value
    assert type(param.default) is type(value)


@pytest.mark.parametrize("expression", ["1 / 0", "log(-1.0)", "1 // 0", "KV", "exp(1000.0)"])
def test_what_has_no_value_is_no_default(expression: str) -> None:
    assert codes("score = score * x", header=f"t(x: float = {expression})") == ["A310"]


OPS = ("+", "-", "*", "//", "%", "**")


@given(st.integers(0, MAX_INT), st.integers(0, MAX_INT), st.sampled_from(OPS))
def test_int_constants_fold_as_python_or_are_refused(x: int, y: int, op: str) -> None:
    if op in ("//", "%") and y == 0:
        return
    fits = op != "**" or y < 64 or x < 2
    value = eval(f"{x} {op} {y}") if fits else None
    analysis = analysed(f"attention t(n: int = {x} {op} {y}):\n    score = score * n\n")
    if value is None or not MIN_INT <= value <= MAX_INT:
        assert [d.code for d in analysis.diagnostics] == ["A403"]
    else:
        assert analysis.variants[0].params[0].default == value  # type: ignore[union-attr]


def test_vectors_mix_with_scalars_elementwise() -> None:
    variant = body("q = q * 2 if d < 64 else q + h", "out = min(acc, d)")
    assert isinstance(variant.q, ir.Select)
    assert variant.q.condition.type == ir.Type(ir.Kind.BOOL, vector=True)
    assert all(e.type.kind != ir.Kind.BOOL or e.type.vector for e in walk(variant.q))


@pytest.mark.parametrize("name", ["floor", "ceil", "log2", "log1p", "erf", "gelu", "softplus"])
def test_float_functions_widen(name: str) -> None:
    assert score(f"score + {name}(q_idx)") == f"raw + {name}(q_idx)"
