"""Variants of the gallery against their formulas, written by hand in torch."""

import pytest
import torch
from reference_specs import body, by_hand, draw, out, positions, raw_scores, run


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def setup(q=6, kv=9):
    x, y, z = draw(q=q, kv=kv)
    i, j = positions(q, kv)
    return x, y, z, i, j, raw_scores(x, y), z.repeat_interleave(2, dim=1)


def heads(*values):
    return torch.tensor(values, dtype=torch.float64)


def every(scores):
    return torch.ones_like(scores, dtype=torch.bool)


def test_soft_cap():
    q, k, v, i, j, s, _ = setup()
    variant = body("score = cap * tanh(score / cap)", "mask = causal", header="t(cap: float = 5.0)")
    close(out(variant, q, k, v, cap=0.6), by_hand(0.6 * torch.tanh(s / 0.6), j <= i, v)[0])
    close(out(variant, q, k, v), by_hand(5 * torch.tanh(s / 5), j <= i, v)[0])


def test_alibi():
    q, k, v, i, j, s, _ = setup()
    m = heads(0.5, 0.25, 0.1, 2.0)
    variant = body("score = score + m[h] * (kv_idx - q_idx)", header="t(m: float[HQ])")
    want, lse = by_hand(s + m.reshape(4, 1, 1) * (j - i), every(s), v)
    got, got_lse = run(variant, q, k, v, m=m, return_lse=True)
    close(got, want)
    close(got_lse, lse)


def test_sink_as_gpt_oss_does_it():
    q, k, v, i, j, s, values = setup()
    sink = heads(0.3, -2.0, 4.0, 0.0)
    variant = body(
        "mask = causal", "weights = softmax(score, sink=sink[h])", header="t(sink: float[HQ])"
    )
    masked = s.masked_fill(j > i, -torch.inf)
    column = sink.reshape(1, 4, 1, 1).expand(2, 4, 6, 1)
    probabilities = torch.cat([masked, column], dim=-1).softmax(-1)[..., :-1]
    got, lse = run(variant, q, k, v, sink=sink, return_lse=True)
    close(got, probabilities @ values)
    close(lse, masked.logsumexp(-1))


def test_huge_and_absent_sinks():
    q, k, v, _i, _j, s, _ = setup()
    variant = body("weights = softmax(score, sink=sink[h])", header="t(sink: float[HQ])")
    plain = by_hand(s, every(s), v)[0]
    close(out(variant, q, k, v, sink=torch.full((4,), -torch.inf, dtype=torch.float64)), plain)
    huge = out(variant, q, k, v, sink=torch.full((4,), 1e4, dtype=torch.float64))
    assert torch.equal(huge, torch.zeros_like(huge))


def test_an_infinite_sink_takes_all_of_the_weight():
    q, k, v, _i, _j, s, _ = setup()
    variant = body("weights = softmax(score, sink=sink[h])", header="t(sink: float[HQ])")
    sink = torch.tensor([torch.inf, 0.5, torch.inf, -1.0], dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (q, k, v, sink)]
    got, lse = run(variant, q, k, v, sink=sink, return_lse=True)
    assert torch.equal(got[:, ::2], torch.zeros_like(got[:, ::2]))
    close(lse, s.logsumexp(-1))
    gradients = torch.autograd.grad(got.sum(), inputs)
    assert all(torch.isfinite(g).all() for g in gradients)
    assert not gradients[0][:, ::2].any()
    assert gradients[3].ne(0).tolist() == [False, True, False, True]


def test_softmax_one():
    q, k, v, _i, _j, s, values = setup()
    variant = body("weights = softmax(score, sink=0.0)")
    close(out(variant, q, k, v), s.exp() / (1 + s.exp().sum(-1, keepdim=True)) @ values)


def test_factors_and_row_sum():
    q, k, v, _i, _j, s, values = setup()
    variant = body("weights = softmax(score) * sigmoid(score)", "out = acc / row_sum")
    w = s.softmax(-1) * s.sigmoid()
    close(out(variant, q, k, v), w @ values / w.sum(-1, keepdim=True))


def test_row_sum_of_a_softmax_is_one():
    q, k, v, _i, _j, s, _ = setup()
    close(out(body("out = acc * row_sum"), q, k, v), by_hand(s, every(s), v)[0])


def test_out_reads_lse():
    q, k, v, _i, _j, s, _ = setup()
    want, lse = by_hand(s, every(s), v)
    close(out(body("out = acc * sigmoid(lse)"), q, k, v), want * lse.sigmoid().unsqueeze(-1))


@pytest.mark.parametrize(
    ("weights", "formula"),
    [
        ("sigmoid(score - 1.5)", lambda s: torch.sigmoid(s - 1.5)),
        ("relu(score) ** 2 / KV", lambda s: s.relu() ** 2 / 9),
        ("silu(score) / KV", lambda s: torch.nn.functional.silu(s) / 9),
    ],
)
def test_weights_without_softmax(weights, formula):
    q, k, v, i, j, s, values = setup()
    variant = body("mask = causal", f"weights = {weights}")
    close(out(variant, q, k, v), formula(s).masked_fill(j > i, 0.0) @ values)


def test_retention():
    q, k, v, i, j, s, values = setup()
    gamma = heads(0.9, 0.5, 0.99, 1.0)
    variant = body(
        "mask = causal",
        "weights = score * gamma[h] ** (q_idx - kv_idx)",
        "out = acc / max(abs(row_sum), 1.0)",
        header="t(gamma: float[HQ])",
    )
    w = (s * gamma.reshape(4, 1, 1) ** (i - j)).masked_fill(j > i, 0.0)
    close(
        out(variant, q, k, v, gamma=gamma), w @ values / w.sum(-1, keepdim=True).abs().clamp(min=1)
    )


def test_gated_output():
    q, k, v, i, j, s, _ = setup()
    gate = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    variant = body(
        "mask = causal",
        "out = acc * sigmoid(gate[b, h, q_row, d])",
        header="t(gate: float[B, HQ, Q, DV])",
    )
    close(out(variant, q, k, v, gate=gate), by_hand(s, j <= i, v)[0] * gate.sigmoid())


def test_relative_table_solves_its_size():
    q, k, v, i, j, s, _ = setup()
    table = torch.randn(4, 7, dtype=torch.float64)
    variant = body(
        "score = score + table[h, clamp(kv_idx - q_idx + R, 0, 2 * R)]",
        header="t(table: float[HQ, 2 * R + 1])",
    )
    bias = table[:, (j - i + 3).clamp(0, 6)]
    close(out(variant, q, k, v, table=table), by_hand(s + bias, every(s), v)[0])


def test_scale_of_the_spec():
    q, k, v, _i, _j, s, _ = setup()
    tau = heads(0.5, 0.005, 1.0, 2.0)
    variant = body(
        "q = l2_norm(q)", "k = l2_norm(k)", "scale = 1.0 / max(tau[h], 0.01)",
        header="t(tau: float[HQ])",
    )  # fmt: skip
    unit = [t / t.norm(dim=-1, keepdim=True) for t in (q, k)]
    cosine = raw_scores(*unit) * 8**0.5
    want = by_hand(cosine / tau.clamp(min=0.01).reshape(4, 1, 1), every(s), v)[0]
    close(out(variant, q, k, v, tau=tau), want)


def test_forgetting_gate():
    q, k, v, i, j, s, _ = setup(9, 9)
    c = torch.randn(2, 4, 9, dtype=torch.float64).cumsum(-1)
    variant = body(
        "score = score + c[b, h, q_idx] - c[b, h, kv_idx]", "mask = causal",
        header="t(c: float[B, HQ, KV])",
    )  # fmt: skip
    close(out(variant, q, k, v, c=c), by_hand(s + c.unsqueeze(3) - c.unsqueeze(2), j <= i, v)[0])


MASKS = {
    "mask = sliding_window(3)": lambda i, j: (i - j >= 0) & (i - j < 3),
    "mask = bidirectional_window(2, 1)": lambda i, j: (i - j <= 2) & (i - j >= -1),
    "mask = chunked(4)": lambda i, j: (j <= i) & (i // 4 == j // 4),
    "mask = (causal and (i - j) % 2 == 0) or j < 1": lambda i, j: (
        (j <= i) & ((i - j) % 2 == 0) | (j < 1)
    ),
    "mask = strided(2)": lambda i, j: (j <= i) & ((i - j < 2) | ((i - j) % 2 == 0)),
    "mask = not (kv_idx > q_idx) and abs(q_idx - kv_idx) != 1": lambda i, j: (
        (j <= i) & ((i - j).abs() != 1)
    ),
}


@pytest.mark.parametrize("mask", MASKS)
def test_masks(mask):
    q, k, v, i, j, s, _ = setup()
    text = mask.replace("(i - j)", "(q_idx - kv_idx)").replace(" j <", " kv_idx <")
    close(out(body(text), q, k, v), by_hand(s, MASKS[mask](i, j), v)[0])


def test_document_mask():
    q, k, v, i, j, s, _ = setup(9, 9)
    doc = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2], [5, 5, 5, 5, 5, 5, 5, 5, 7]])
    variant = body("mask = causal and same_document(doc)", header="t(doc: int[B, KV])")
    mask = (j <= i) & (doc[:, None, :, None] == doc[:, None, None, :])
    close(out(variant, q, k, v, doc=doc.to(torch.int32)), by_hand(s, mask, v)[0])


def test_mask_by_packed_bits():
    q, k, v, _i, _j, s, _ = setup()
    words = torch.tensor([[1, 0b110, -1, 0b101010101, 2**8, 3]] * 2)
    variant = body("mask = bit(words[b, q_row], kv_col)", header="t(words: int[B, Q])")
    mask = (words[:, None, :, None] >> torch.arange(9)) & 1 == 1
    close(out(variant, q, k, v, words=words), by_hand(s, mask, v)[0])


def test_mask_that_reads_the_score():
    q, k, v, _i, j, s, _ = setup()
    variant = body("mask = kv_idx < 1 or score > 0.1")
    close(out(variant, q, k, v), by_hand(s, (j < 1) | (s > 0.1), v)[0])


def test_bool_tensors():
    q, k, v, _i, _j, s, _ = setup()
    keep = torch.rand(2, 4, 6, 9) < 0.6
    keep[..., 0] = True
    variant = body("mask = keep[b, h, q_row, kv_col]", header="t(keep: bool[B, HQ, Q, KV])")
    close(out(variant, q, k, v, keep=keep), by_hand(s, keep, v)[0])


def test_optional_tensor():
    q, k, v, _i, _j, s, _ = setup()
    variant = body(
        "score = score if bias == none else score + bias[h]", header="t(bias: float[HQ] = none)"
    )
    bias = heads(1.0, 2.0, 3.0, 4.0)
    plain, lse = run(variant, q, k, v, bias=None, return_lse=True)
    close(plain, by_hand(s, every(s), v)[0])
    _, shifted = run(variant, q, k, v, bias=bias, return_lse=True)
    close(shifted, lse + bias.reshape(4, 1))


def test_differential_from_two_calls():
    q, k, v, i, j, s, values = setup()
    other = draw(q=6, kv=9, seed=5)
    causal = body("mask = causal")
    got = out(causal, q, k, v) - 0.3 * out(causal, other[0], other[1], v)
    hidden = (j > i).expand_as(s)
    first = s.masked_fill(hidden, -torch.inf).softmax(-1)
    second = raw_scores(other[0], other[1]).masked_fill(hidden, -torch.inf).softmax(-1)
    close(got, (first - 0.3 * second) @ values)
