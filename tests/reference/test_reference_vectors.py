"""Transforms of q, k, v and acc: rope against complex numbers, norms, slices, `d`, `dot`."""

import pytest
import torch
from reference_specs import body, by_hand, draw, out, positions, raw_scores
from torch.nn.functional import normalize, rms_norm


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def turned(x, position, frequencies, start, dims, interleaved):
    """Rotate by multiplying complex numbers: x [..., N, D], position [N]."""
    part = x[..., start : start + dims]
    if interleaved:
        pairs = torch.complex(part[..., 0::2], part[..., 1::2])
    else:
        pairs = torch.complex(part[..., : dims // 2], part[..., dims // 2 :])
    angles = position.double().unsqueeze(-1) * frequencies
    pairs = pairs * torch.polar(torch.ones_like(angles), angles)
    result = x.clone()
    if interleaved:
        result[..., start : start + dims : 2] = pairs.real
        result[..., start + 1 : start + dims : 2] = pairs.imag
    else:
        result[..., start : start + dims // 2] = pairs.real
        result[..., start + dims // 2 : start + dims] = pairs.imag
    return result


def powers(base, dims):
    return torch.tensor([base ** (-2 * t / dims) for t in range(dims // 2)], dtype=torch.float64)


ROPES = [
    ("", 10000.0, 0, 8, False),
    (", base=100.0", 100.0, 0, 8, False),
    (", dims=4", 10000.0, 0, 4, False),
    (", start=2, dims=6", 10000.0, 2, 6, False),
    (", interleaved=true", 10000.0, 0, 8, True),
    (", base=7.0, start=3, dims=4, interleaved=true", 7.0, 3, 4, True),
]


@pytest.mark.parametrize(("options", "base", "start", "dims", "interleaved"), ROPES)
def test_rope(options, base, start, dims, interleaved):
    q, k, v = draw()
    variant = body(f"q = rope(q, q_idx{options})", f"k = rope(k, kv_idx{options})")
    i, j = positions(5, 7)
    x = turned(q, i.flatten(), powers(base, dims), start, dims, interleaved)
    y = turned(k, j.flatten(), powers(base, dims), start, dims, interleaved)
    s = raw_scores(x, y)
    close(out(variant, q, k, v), by_hand(s, torch.ones_like(s, dtype=torch.bool), v)[0])


def test_rope_with_given_frequencies_and_float_positions():
    q, k, v = draw()
    freqs = torch.tensor([0.5, 0.25, 2.0, 0.0], dtype=torch.float64)
    variant = body(
        "q = rope(q, 0.5 * q_idx, freqs=freqs)", "k = rope(k, 0.5 * kv_idx, freqs=freqs)",
        header="t(freqs: float[D // 2])",
    )  # fmt: skip
    i, j = positions(5, 7)
    x = turned(q, i.flatten() * 0.5, freqs, 0, 8, False)
    y = turned(k, j.flatten() * 0.5, freqs, 0, 8, False)
    s = raw_scores(x, y)
    got = out(variant, q, k, v, freqs=freqs)
    close(got, by_hand(s, torch.ones_like(s, dtype=torch.bool), v)[0])


def test_rope_of_the_accumulator():
    q, k, v = draw(dv=8)
    plain = out(body(header="t()"), q, k, v)
    i, _ = positions(5, 7)
    want = turned(plain, -i.flatten(), powers(10000.0, 8), 0, 8, False)
    close(out(body("out = rope(acc, -q_idx)"), q, k, v), want)


def test_rope_by_offsets_is_relative():
    q, k, v = draw()
    variant = body("q = rope(q, q_idx)", "k = rope(k, kv_idx)", "mask = causal")
    close(out(variant, q, k, v), out(variant, q, k, v, kv_offset=1000))


@pytest.mark.parametrize("options", ["start=4, dims=6", "dims=3", "start=7, dims=2"])
def test_rope_outside_the_vector(options):
    q, k, v = draw()
    variant = body("q = rope(q, q_idx, start=a, dims=n)", header="t(const a: int, const n: int)")
    numbers = dict(p.split("=") for p in options.split(", "))
    with pytest.raises(ValueError, match="rope"):
        out(variant, q, k, v, a=int(numbers.get("start", 0)), n=int(numbers["dims"]))


def test_norms():
    q, k, v = draw()
    w = torch.rand(8, dtype=torch.float64)
    variant = body("q = rms_norm(q, weight=w[d])", "k = l2_norm(k)", header="t(w: float[D])")
    s = raw_scores(rms_norm(q, (8,), w, 1e-6), normalize(k, dim=-1))
    close(out(variant, q, k, v, w=w), by_hand(s, torch.ones_like(s, dtype=torch.bool), v)[0])


def test_l2_norm_of_zero_has_a_gradient():
    q, k, v = draw(grad=True)
    zero = torch.zeros_like(q, requires_grad=True)
    (g,) = torch.autograd.grad(out(body("q = l2_norm(q)"), zero, k, v).sum(), (zero,))
    assert g.isfinite().all()


def test_elementwise_with_d():
    q, k, v = draw()
    variant = body("q = q * (1 + d) if d % 2 == 0 else -q", "out = acc + d")
    d = torch.arange(8)
    x = torch.where(d % 2 == 0, q * (1 + d), -q)
    s = raw_scores(x, k)
    want = by_hand(s, torch.ones_like(s, dtype=torch.bool), v)[0] + torch.arange(6)
    close(out(variant, q, k, v), want)


def test_values_made_of_keys():
    q, k, _ = draw()
    s = raw_scores(q, k)
    every = torch.ones_like(s, dtype=torch.bool)
    close(out(body("v = k[0:5]"), q, k, None), by_hand(s, every, k[..., :5])[0])
    want = by_hand(s, every, rms_norm(k, (8,), None, 1e-6))[0]
    close(out(body("v = rms_norm(k)"), q, k, None), want)
    sized = body("v = k[2:D]", "out = acc * DV")
    close(out(sized, q, k, None), 6 * by_hand(s, every, k[..., 2:])[0])


def test_values_made_of_turned_keys():
    q, k, _ = draw()
    variant = body("k = rope(k, kv_idx)", "v = k[0:4]")
    y = turned(k, torch.arange(7), powers(10000.0, 8), 0, 8, False)
    s = raw_scores(q, y)
    want = by_hand(s, torch.ones_like(s, dtype=torch.bool), y[..., :4])[0]
    close(out(variant, q, k, None), want)


def test_dot_of_a_row_and_of_a_column():
    q, k, v = draw()
    w = torch.randn(4, 8, dtype=torch.float64)
    u = torch.randn(2, 8, dtype=torch.float64)
    variant = body(
        "score = score + dot(q, w[h, d]) * kv_idx - dot(k, u[h_kv, d])", "mask = causal",
        header="t(w: float[HQ, D], u: float[HKV, D])",
    )  # fmt: skip
    i, j = positions(5, 7)
    row = (q * w.unsqueeze(1)).sum(-1, keepdim=True)
    column = (k * u.unsqueeze(1)).sum(-1).repeat_interleave(2, dim=1).unsqueeze(2)
    want = by_hand(raw_scores(q, k) + row * j - column, j <= i, v)[0]
    close(out(variant, q, k, v, w=w, u=u), want)


def test_transform_by_a_tensor_of_the_column():
    q, k, v = draw()
    t = torch.randn(2, 7, 8, dtype=torch.float64)
    variant = body("k = k + add[b, kv_col, d]", header="t(add: float[B, KV, D])")
    s = raw_scores(q, k + t.unsqueeze(1))
    close(out(variant, q, k, v, add=t), by_hand(s, torch.ones_like(s, dtype=torch.bool), v)[0])
