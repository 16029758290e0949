"""Plain and causal attention against torch's scaled_dot_product_attention in float64."""

import pytest
import torch
from reference_specs import body, by_hand, draw, out, positions, raw_scores, run
from torch.nn.functional import scaled_dot_product_attention as sdpa

FULL = body(header="full()")
CAUSAL = body("mask = causal")


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_plain():
    q, k, v = draw(hkv=4)
    close(out(FULL, q, k, v), sdpa(q, k, v))


@pytest.mark.parametrize("hkv", [1, 2, 4])
def test_grouped_heads(hkv):
    q, k, v = draw(hkv=hkv)
    close(out(FULL, q, k, v), sdpa(q, k, v, enable_gqa=True))


def test_causal_of_one_length():
    q, k, v = draw(q=7, kv=7)
    close(out(CAUSAL, q, k, v), sdpa(q, k, v, is_causal=True, enable_gqa=True))


@pytest.mark.parametrize(("rows", "columns"), [(5, 7), (1, 9), (7, 7)])
def test_causal_is_aligned_at_the_end(rows, columns):
    q, k, v = draw(q=rows, kv=columns)
    mask = torch.ones(rows, columns, dtype=torch.bool).tril(columns - rows)
    close(out(CAUSAL, q, k, v), sdpa(q, k, v, attn_mask=mask, enable_gqa=True))


def test_scale_is_a_number_or_a_tensor():
    q, k, v = draw()
    want = sdpa(q, k, v, scale=0.7, enable_gqa=True)
    close(out(FULL, q, k, v, scale=0.7), want)
    close(out(FULL, q, k, v, scale=torch.tensor(0.7, dtype=torch.float64)), want)


def test_lse_and_largest_score():
    q, k, v = draw()
    got, lse, largest = run(CAUSAL, q, k, v, return_lse=True, return_max=True)
    i, j = positions(5, 7)
    scores = raw_scores(q, k)
    want, want_lse = by_hand(scores, j <= i, v)
    close(got, want)
    close(lse, want_lse)
    close(largest, scores.masked_fill(j > i, -torch.inf).amax((2, 3)))


def test_order_of_the_results():
    q, k, v = draw()
    assert run(FULL, q, k, v, return_lse=True)[1].shape == (2, 4, 5)
    assert run(FULL, q, k, v, return_max=True)[1].shape == (2, 4)


def test_gradients_are_those_of_sdpa():
    q, k, v = draw(grad=True)
    mask = torch.ones(5, 7, dtype=torch.bool).tril(2)
    g = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    mine = torch.autograd.grad((out(CAUSAL, q, k, v) * g).sum(), (q, k, v))
    theirs = torch.autograd.grad(
        (sdpa(q, k, v, attn_mask=mask, enable_gqa=True) * g).sum(), (q, k, v)
    )
    for a, b in zip(mine, theirs, strict=True):
        close(a, b)


def test_strides_do_not_matter():
    q, k, v = draw()
    want = out(CAUSAL, q, k, v)
    x = q.transpose(1, 2).contiguous().transpose(1, 2)
    y = k[..., :1, :].expand_as(k)
    close(out(CAUSAL, x, k, v), want)
    close(out(CAUSAL, q, y, v), out(CAUSAL, q, y.contiguous(), v))


def test_large_scores_do_not_overflow():
    q, k, v = draw()
    q = q * 1e4
    close(out(FULL, q, k, v), sdpa(q, k, v, enable_gqa=True))
