"""Tensor reads, optional tensors, vectors and their functions."""

from __future__ import annotations

import pytest
from sema_specs import body, codes, diagnostics, score, underlined

from attnlang.ir import nodes as ir
from attnlang.ir.printer import print_expr

TENSORS = "t(f: float[HQ], i: int[B, KV], w: float[D], g: float[B, HQ, Q, D], keep: bool[B, Q])"
USE = "out = acc * (f[0] + i[0, 0] + w[0] + g[0, 0, 0, 0] + float(keep[0, 0]))"
OPTIONAL = "t(x: float[HQ] = none, y: float[HQ] = none, on: bool = true)"
USE_OPTIONAL = "mask = x == none or y == none or on"


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("score = score + f[h]", []),
        ("score = score + f", ["A222"]),
        ("score = score + f[h, 0]", ["A220"]),
        ("score = score + f[0.5]", ["A225"]),
        ("score = score + f[causal]", ["A225"]),
        ("score = score + f[0:2]", ["A227"]),
        ("score = score + score[0]", ["A219"]),
        ("score = score + f(h)", ["A205"]),
        ("score = score + dot(q[0], q)", ["A227"]),
        ("q = q[0:4, 0:4]", ["A227"]),
        ("mask = i[b, kv_col] == i[b, q_idx]", []),
        ("mask = keep[b, q_row]", []),
        ("mask = keep[b, q_idx]", ["W104"]),
        ("mask = keep[b, q_idx - 1]", []),
        ("q = q * g[b, h, q_row, d]", []),
        ("q = q * g[b, h, q_row, d // 2]", []),
        ("score = score + g[b, h, q_row, d]", ["A203"]),
        ("q = rms_norm(q, weight=w)", []),
        ("q = rms_norm(q, w, eps=1e-5)", []),
        ("q = rms_norm(q, weight=none)", []),
        ("q = rms_norm(q, weight=w[d] * 2)", []),
        ("q = rms_norm(q, weight=g)", ["A228"]),
        ("q = rms_norm(q, weight=f[h])", ["A204"]),
        ("q = rms_norm(1.0)", ["A204"]),
        ("q = l2_norm(q, eps=k)", ["A209"]),
        ("q = l2_norm(q, eps=q)", ["A203"]),
        ("q = rope(q, q_idx, freqs=f)", []),
        ("q = rope(q, q_idx, freqs=none)", []),
        ("q = rope(q, q_idx, freqs=g)", ["A228"]),
        ("q = rope(q, q_idx, freqs=1.0)", ["A228"]),
        ("q = rope(q, causal)", ["A209"]),
        ("q = rope(q, q_idx > 3)", ["A214"]),
        ("q = rope(q, q)", ["A203"]),
        ("q = rope(q, q_idx, dims=3)", ["A231"]),
        ("q = rope(q, q_idx, dims=HQ)", ["A226"]),
        ("q = rope(q, q_idx, dims=2.0)", ["A225"]),
        ("q = rope(q, q_idx, start=-1)", ["A231"]),
        ("q = rope(q, q_idx, interleaved=1)", ["A216"]),
        ("q = rope(q, q_idx, interleaved=h == 0)", ["A226"]),
        ("q = rope(q)", ["A206"]),
        ("q = q[0:D // 2]", []),
        ("q = q[2:]", []),
        ("q = (q + 1)[2:]", ["A231"]),
        ("q = q[:64]", []),
        ("q = q[4:4]", ["A231"]),
        ("q = q[0:KV]", ["A226"]),
        ("q = q[0:h]", ["A226"]),
        ("score = dot(q, k)", ["A229"]),
        ("score = dot(q, w[d])", []),
        ("score = dot(k * kv_idx, w[d])", []),
        ("score = dot(q, 2)", ["A204"]),
        ("score = dot(q)", ["A206"]),
        ("out = rope(acc, -q_idx)", []),
    ],
)
def test_reads(statement: str, found: list[str]) -> None:
    use = () if statement.startswith("out") else (USE,)
    wanted = [c for c in codes(statement, *use, header=TENSORS) if c != "W101"]
    assert wanted == found


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("x[h] if x != none else 0", []),
        ("0 if x == none else x[h]", []),
        ("0 if not x != none else x[h]", []),
        ("x[h] + y[h] if x != none and y != none else 0", []),
        ("0 if x == none or y == none else x[h] + y[h]", []),
        ("float(x != none and x[h] > 0)", []),
        ("float(x == none or x[h] > 0)", []),
        ("float(x != none and on and x[h] > 0)", []),
        ("x[h] if x != none or on else 0", ["A223"]),
        ("x[h] if y != none else 0", ["A223"]),
        ("x[h] if x == none else 0", ["A223"]),
        ("x[h] if x != none else x[h]", ["A223"]),
        ("float(x == none and x[h] > 0)", ["A223"]),
        ("float(x != none or x[h] > 0)", ["A223"]),
        ("x[h]", ["A223"]),
        ("float(on == none)", ["A224"]),
        ("float(x < none)", ["A224"]),
        ("none", ["A224"]),
        ("float(x[h] == none) if x != none else 0", ["A224"]),
    ],
)
def test_guards(expression: str, found: list[str]) -> None:
    assert codes(f"score = score + ({expression})", USE_OPTIONAL, header=OPTIONAL) == found


def test_a_def_takes_tensors_and_none() -> None:
    defs = "def plus(x, t) = x + t[h] if t != none else x"
    header = "t(r: float[HQ], o: float[HQ] = none)"
    text = score("plus(plus(plus(score, r), o), none)", header=header, defs=defs)
    assert text == "raw + r[h] + o[h] if o != none else raw + r[h]"


def test_given_is_what_is_asked() -> None:
    variant = body("mask = x != none or on", "score = score * float(y == none)", header=OPTIONAL)
    assert isinstance(variant.mask, ir.Logic)
    assert variant.mask.left == ir.Given("x", span=variant.span)
    assert print_expr(variant.score) == "raw * float(y == none)"


def test_optional_weights_and_frequencies_have_two_forms() -> None:
    variant = body(
        "q = rms_norm(q, weight=w)",
        "k = rope(k, kv_idx, freqs=f)",
        header="t(w: float[D] = none, f: float[F] = none)",
    )
    assert print_expr(variant.q) == "rms_norm(q, weight=w) if w != none else rms_norm(q)"
    assert print_expr(variant.k) == "rope(k, kv_idx, freqs=f) if f != none else rope(k, kv_idx)"


def test_a_read_with_d_is_a_vector() -> None:
    variant = body("q = q * w[d]", header="t(w: float[D])")
    assert isinstance(variant.q, ir.Binary)
    assert variant.q.right.type == ir.VECTOR


def test_the_vector_is_underlined_and_explained() -> None:
    (found,) = diagnostics("score = score + k")
    assert found.code == "A203"
    assert found.headline == "`score` must be a scalar, found a vector over `d`"
    assert found.label == "this varies along the head dimension"
    assert found.help == "a change to the key belongs in `k = ...`, before the dot product"
    assert underlined(found) == "k"


def test_a_warning_in_the_prelude_stands_at_the_call() -> None:
    (found,) = diagnostics("mask = same_document(x)", header="t(x: int[B, Q])")
    assert found.code == "W104"
    assert underlined(found) == "same_document(x)"
