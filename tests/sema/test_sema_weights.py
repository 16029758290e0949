"""The forms of weights, and the structure of a variant."""

from __future__ import annotations

import pytest
from sema_specs import body, codes

from attnlang.ir import nodes as ir
from attnlang.ir.printer import print_expr, print_variant


def parts(*statements: str, header: str = "t", defs: str = "") -> tuple[str | None, ...]:
    """Return softmax, sink, factor and dropout."""
    weights = body(*statements, header=header, defs=defs).weights
    found = (weights.softmax, weights.sink, weights.factor, weights.dropout)
    return tuple(None if part is None else print_expr(part) for part in found)


HEADER = "t(s: float[HQ], g: float[B, KV], p: float)"
USE = "v = v * (p + s[0] + g[0, 0])"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("softmax(score)", ("raw", None, None, None)),
        ("softmax(score + 1, sink=s[h])", ("raw + 1", "s[h]", None, None)),
        ("softmax(score, s[h])", ("raw", "s[h]", None, None)),
        ("2 * softmax(score) * g[b, kv_col]", ("raw", None, "2 * g[b, kv_col]", None)),
        ("softmax(score) / 2", ("raw", None, "1.0 / 2", None)),
        ("softmax(score) * 3.0 / 2", ("raw", None, "3.0 / 2", None)),
        ("-softmax(score)", ("raw", None, "-1.0", None)),
        ("softmax(score) * dropout(p)", ("raw", None, None, "p")),
        ("dropout(p) * (3.0 * softmax(score))", ("raw", None, "3.0", "p")),
        ("weights * g[b, kv_col]", ("raw", None, "g[b, kv_col]", None)),
        ("sigmoid(score)", (None, None, "sigmoid(raw)", None)),
        ("relu(score) ** 2 / KV * dropout(0.5)", (None, None, "relu(raw) ** 2 / KV", "0.5")),
        ("dropout(0.5)", (None, None, "1.0", "0.5")),
        ("1", (None, None, "float(1)", None)),
    ],
)
def test_forms(weights: str, expected: tuple[str | None, ...]) -> None:
    assert parts(f"weights = {weights}", USE, header=HEADER) == expected


def test_weights_build_upon_one_another() -> None:
    statements = ("weights = weights * 2.0", "weights = weights * dropout(0.1)")
    assert parts(*statements) == ("raw", None, "2.0", "0.1")


def test_weights_through_a_local_and_a_def() -> None:
    statements = ("p = soft(score * 2)", "weights = p * 0.5")
    assert parts(*statements, defs="def soft(x) = softmax(x, sink=0.0)") == (
        "raw * 2",
        "0.0",
        "0.5",
        None,
    )


def test_default_weights_are_of_the_last_score() -> None:
    assert parts("score = score * 2") == ("raw * 2", None, None, None)


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        (("weights = exp(softmax(score))",), ["A303"]),
        (("weights = softmax(score) + 1",), ["A303"]),
        (("weights = softmax(score) - softmax(score)",), ["A303", "A303"]),
        (("weights = 1 / softmax(score)",), ["A303"]),
        (("weights = softmax(score) if causal else 0",), ["A303"]),
        (("weights = softmax(score) ** 2",), ["A303"]),
        (("weights = softmax(softmax(score))",), ["A308"]),
        (("weights = softmax(score) * softmax(score)",), ["A304"]),
        (("weights = weights * softmax(score)",), ["A304"]),
        (("weights = dropout(0.1) * dropout(0.1)",), ["A304"]),
        (("score = softmax(score)",), ["A308"]),
        (("mask = dropout(0.1) > 0",), ["A308"]),
        (("out = acc * weights",), ["A209"]),
        (("score = weights",), ["A209"]),
        (("weights = causal",), ["A215"]),
        (("weights = k",), ["A203"]),
        (("weights = softmax(score) * causal",), ["A214"]),
        (("weights = softmax(score) * k",), ["A203"]),
        (("weights = softmax(k)",), ["A203"]),
        (("weights = softmax(score, sink=score)",), ["A209"]),
        (("weights = softmax(score, sink=dot(k, k))",), ["A209", "A209"]),
        (("weights = softmax(score, sinks=0)",), ["A207"]),
        (("weights = softmax()",), ["A206"]),
        (("weights = relu(score)", "out = acc * lse"), ["A307"]),
        (("out = acc * lse", "weights = relu(score)"), ["A307"]),
        (("scale = 1.0", "scale = 2.0"), ["A301"]),
        (("score = score * 2", "scale = 2.0"), ["A302"]),
        (("weights = weights * 2", "scale = 2.0"), ["A302"]),
        (("v = k + v",), ["A309"]),
        (("out = row_sum",), ["A204"]),
        (("mask = score",), ["A215"]),
        (("scale = true",), ["A215"]),
    ],
)
def test_refused(statements: tuple[str, ...], found: list[str]) -> None:
    assert codes(*statements) == found


def test_the_scale_may_build_upon_the_call() -> None:
    variant = body("scale = scale * 2", "score = score / scale")
    assert print_expr(variant.scale) == "scale * 2"
    assert print_expr(variant.score) == "raw / (scale * 2)"


def test_the_scale_may_come_after_an_unread_score() -> None:
    assert print_expr(body("score = 1.0 * q_idx", "scale = 2").scale) == "float(2)"


def test_everything_has_its_default() -> None:
    variant = body()
    assert isinstance(variant.q, ir.Vector)
    assert isinstance(variant.scale, ir.CallScale)
    assert variant.mask == ir.Const(True, ir.BOOL, span=variant.span)
    assert print_variant(variant).splitlines()[1:] == [
        "    scale = scale",
        "    q = q",
        "    k = k",
        "    v = v",
        "    score = raw",
        "    mask = true",
        "    weights = softmax(raw)",
        "    out = acc",
    ]


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        (("mask = causal", "mask = kv_idx < 3"), ["W105"]),
        (("mask = causal", "mask = mask and kv_idx < 3"), []),
        (("weights = relu(score)", "score = score * 2"), ["W105"]),
        (("score = score * 2", "weights = relu(score)"), []),
        (("score = score * 2", "weights = weights * 2"), []),
        (("score = score * 2", "mask = score > 0", "weights = 1"), []),
        (("weights = 1", "mask = score > 0"), []),
        (("x = 1",), ["A213"]),
        (("x = 1", "x = x + 1", "score = score * x"), []),
        (("x = 1", "x = 2", "score = score * x"), ["A213"]),
        (("score = score * 2", "score = score + 1"), []),
        (("k = rope(k, kv_idx)", "v = k"), []),
    ],
)
def test_values_that_are_lost(statements: tuple[str, ...], found: list[str]) -> None:
    assert codes(*statements) == found
