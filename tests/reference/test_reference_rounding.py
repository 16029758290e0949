"""Dtypes, and rounding as fused kernels do it."""

import pytest
import torch
from reference_specs import body, by_hand, draw, out, raw_scores, run

CAUSAL = body("mask = causal")
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rounding", ["exact", "fused"])
def test_dtypes_of_the_results(dtype, rounding):
    q, k, v = draw(dtype=dtype)
    got, lse, largest = run(CAUSAL, q, k, v, rounding=rounding, return_lse=True, return_max=True)
    inside = torch.float64 if dtype == torch.float64 else torch.float32
    assert (got.dtype, lse.dtype, largest.dtype) == (dtype, inside, inside)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rounding", ["exact", "fused"])
def test_errors_are_those_of_the_dtype(dtype, rounding):
    q, k, v = draw(q=65, kv=65, d=32, dv=32, dtype=dtype)
    want = out(CAUSAL, q, k, v, dtype=torch.float64)
    assert want.dtype == torch.float64
    error = (out(CAUSAL, q, k, v, rounding=rounding).double() - want).abs().max().item()
    eps = torch.finfo(dtype).eps
    assert error < 8 * eps
    if dtype in (torch.float16, torch.bfloat16):
        assert error > eps / 16


def test_fused_rounds_the_weights_once_before_the_division():
    q, k, v = draw(b=1, hq=1, hkv=1, q=33, kv=65, dtype=torch.bfloat16)
    s = raw_scores(q.float(), k.float())
    weights = torch.exp(s - s.amax(-1, keepdim=True))
    acc = weights.bfloat16().float() @ v.float() / weights.sum(-1, keepdim=True)
    got = out(body(header="t()"), q, k, v, rounding="fused")
    assert (got == acc.bfloat16()).double().mean() > 0.995
    exact = out(body(header="t()"), q, k, v)
    assert (got == exact).double().mean() < 0.95


def test_fused_rounds_transformed_keys():
    q, k, v = draw(b=1, hq=1, hkv=1, dtype=torch.bfloat16)
    variant = body("k = k * 1.2345", "weights = score")
    turned = (k.float() * 1.2345).bfloat16()
    w = raw_scores(q.float(), turned.float()).bfloat16().float()
    got = out(variant, q, k, v, rounding="fused")
    torch.testing.assert_close(got, (w @ v.float()).bfloat16(), rtol=0.01, atol=1e-3)
    assert not torch.equal(got, out(variant, q, k, v))


def test_float32_is_not_rounded():
    q, k, v = draw(dtype=torch.float32)
    assert torch.equal(out(CAUSAL, q, k, v), out(CAUSAL, q, k, v, rounding="fused"))


def test_gradients_of_rounded_calls():
    q, k, v = draw(q=17, kv=17, dtype=torch.bfloat16, grad=True)
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    g = torch.randn(2, 4, 17, 6, dtype=torch.bfloat16)
    fused = torch.autograd.grad(out(CAUSAL, q, k, v, rounding="fused"), (q, k, v), g)
    want = torch.autograd.grad(out(CAUSAL, *exact), exact, g.double())
    for a, b in zip(fused, want, strict=True):
        assert a.dtype == torch.bfloat16
        error = (a.double() - b).abs().max()
        assert 0 < error < 0.02 * b.abs().max()


def test_float64_from_the_bits_of_bfloat16():
    q, k, v = draw(dtype=torch.bfloat16)
    wide = [t.double() for t in (q, k, v)]
    assert torch.equal(out(CAUSAL, q, k, v, dtype=torch.float64), out(CAUSAL, *wide))
    scores = raw_scores(*wide[:2])
    want = by_hand(scores, torch.ones(5, 7, dtype=torch.bool).tril(2), wide[2])[0]
    torch.testing.assert_close(out(CAUSAL, q, k, v, dtype=torch.float64), want)


def test_a_rounded_result_in_a_wider_dtype():
    q, k, v = draw(dtype=torch.bfloat16)
    wide = out(CAUSAL, q, k, v, rounding="fused", dtype=torch.float32)
    assert wide.dtype == torch.float32
    assert torch.equal(wide, out(CAUSAL, q, k, v, rounding="fused").float())
