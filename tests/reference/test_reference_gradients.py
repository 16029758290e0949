"""Gradients by finite differences in float64: q, k, v, tensors, 0-d parameters, the scale."""

import pytest
import torch
from reference_specs import body, draw
from torch.autograd import gradcheck

from attnlang.reference import reference


def tensor(*shape, seed=9):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()


def number(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


B, HQ, HKV, Q, KV, D, DV = 2, 2, 1, 3, 4, 4, 2

CASES = {
    "full": (body(header="full()"), {}),
    "soft cap": (
        body("score = cap * tanh(score / cap)", "mask = causal", header="t(cap: float)"),
        {"cap": number(0.7)},
    ),
    "alibi": (
        body("score = score + m[h] * (kv_idx - q_idx)", "mask = causal", header="t(m: float[HQ])"),
        {"m": tensor(HQ)},
    ),
    "sink": (
        body("weights = softmax(score, sink=s[h])", "mask = causal", header="t(s: float[HQ])"),
        {"s": tensor(HQ)},
    ),
    "pair bias, gated": (
        body(
            "score = score + bias[h, q_row, kv_col]",
            "out = acc * sigmoid(gate[b, h, q_row, d])",
            header="t(bias: float[HQ, Q, KV], gate: float[B, HQ, Q, DV])",
        ),
        {"bias": tensor(HQ, Q, KV), "gate": tensor(B, HQ, Q, DV)},
    ),
    "relative table": (
        body(
            "score = score + table[h, clamp(kv_idx - q_idx + R, 0, 2 * R)]",
            header="t(table: float[HQ, 2 * R + 1])",
        ),
        {"table": tensor(HQ, 5)},
    ),
    "sigmoid": (
        body("weights = sigmoid(score + bias)", "mask = causal", header="t(bias: float)"),
        {"bias": number(-0.4)},
    ),
    "retention": (
        body(
            "mask = causal",
            "weights = score * gamma[h] ** (q_idx - kv_idx)",
            "out = acc / max(abs(row_sum), 1.0)",
            header="t(gamma: float[HQ])",
        ),
        {"gamma": torch.tensor([0.9, 0.6], dtype=torch.float64, requires_grad=True)},
    ),
    "factor and row_sum": (
        body(
            "weights = softmax(score) * sigmoid(a * score)", "out = acc / row_sum",
            header="t(a: float)",
        ),
        {"a": number(0.8)},
    ),
    "qk norm and rope": (
        body(
            "q = rope(rms_norm(q, weight=wq[d]), q_idx)",
            "k = rope(rms_norm(k, weight=wk[d]), kv_idx, interleaved=true)",
            header="t(wq: float[D], wk: float[D])",
        ),
        {"wq": tensor(D), "wk": tensor(D, seed=2)},
    ),
    "rope with frequencies": (
        body(
            "q = rope(q, q_idx, freqs=f)", "k = rope(k, kv_idx, freqs=f)",
            header="t(f: float[D // 2])",
        ),
        {"f": tensor(D // 2)},
    ),
    "cosine": (
        body(
            "q = l2_norm(q)", "k = l2_norm(k)", "scale = 1.0 / max(tau[h], 0.01)",
            header="t(tau: float[HQ])",
        ),
        {"tau": torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)},
    ),
    "dots": (
        body(
            "score = score + dot(q, w[h, d]) * dot(k, u[h_kv, d])",
            "mask = causal",
            header="t(w: float[HQ, D], u: float[HKV, D])",
        ),
        {"w": tensor(HQ, D), "u": tensor(HKV, D)},
    ),
    "guarded branches": (
        body("score = log(score) if score > 0 else a * score", header="t(a: float)"),
        {"a": number(0.6)},
    ),
    "guarded entries": (
        body("q = sqrt(q) if q > 0 else a * q", header="t(a: float)"),
        {"a": number(0.6)},
    ),
    "score of minus infinity": (
        body("score = score + log(w[kv_col])", header="t(w: float[KV])"),
        {"w": torch.tensor([0.5, 1.0, 2.0, 0.1], dtype=torch.float64, requires_grad=True)},
    ),
    "lse in out": (body("out = acc * tanh(lse)", "mask = causal"), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name):
    variant, params = CASES[name]
    q, k, v = draw(B, HQ, HKV, Q, KV, D, DV, grad=True)
    softmax = variant.weights.softmax is not None

    def call(q, k, v, *values):
        named = dict(zip(params, values, strict=True))
        return reference(variant, q, k, v, params=named, return_lse=softmax)

    assert gradcheck(call, (q, k, v, *params.values()))


def test_gradient_of_the_scale():
    q, k, v = draw(B, HQ, HKV, Q, KV, D, DV)
    variant = body("mask = causal")
    assert gradcheck(lambda s: reference(variant, q, k, v, params={}, scale=s), (number(0.4),))


def test_gradient_of_values_made_of_keys():
    q, k, _ = draw(B, HQ, HKV, Q, KV, D, DV, grad=True)
    variant = body("k = rope(k, kv_idx)", "v = k[0:3]")
    assert gradcheck(lambda q, k: reference(variant, q, k, None, params={}), (q, k))


def test_gradient_through_dropout():
    q, k, v = draw(B, HQ, HKV, Q, KV, D, DV, grad=True)
    variant = body("weights = softmax(score) * dropout(p)", header="t(p: float)")
    p = number(0.4)
    assert gradcheck(
        lambda q, k, v, p: reference(variant, q, k, v, params={"p": p}, seed=5), (q, k, v, p)
    )


def test_no_gradient_through_the_mask():
    q, k, v = draw(grad=True)
    threshold = number(0.0)
    variant = body("mask = kv_idx < 1 or score > low", header="t(low: float)")
    result = reference(variant, q, k, v, params={"low": threshold})
    grads = torch.autograd.grad(result.sum(), (q, threshold), allow_unused=True)
    assert grads[0].isfinite().all()
    assert grads[1] is None


def test_second_derivatives():
    q, k, v = draw(1, 1, 1, 2, 3, 2, 2, grad=True)
    variant = body("score = 0.8 * tanh(score / 0.8)", "mask = causal")
    assert torch.autograd.gradgradcheck(
        lambda q, k, v: reference(variant, q, k, v, params={}), (q, k, v)
    )
