"""What is hidden contributes nothing, whatever it holds: empty rows, NaN, singular scores."""

import pytest
import torch
from reference_specs import body, by_hand, draw, out, positions, raw_scores, run

NAN = float("nan")


def finite(*tensors):
    return all(bool(t.isfinite().all()) for t in tensors)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_empty_rows():
    q, k, v = draw(q=7, kv=4, grad=True)
    got, lse = run(body("mask = causal"), q, k, v, return_lse=True)
    assert torch.equal(got[:, :, :3], torch.zeros_like(got[:, :, :3]))
    assert (lse[:, :, :3] == -torch.inf).all()
    assert finite(got, lse[:, :, 3:])
    (got.sum() + lse[:, :, 3:].sum()).backward()
    assert finite(q.grad, k.grad, v.grad)
    assert (q.grad[:, :, :3] == 0).all()


def test_gradient_of_lse_at_empty_rows_is_zero():
    q, k, v = draw(q=7, kv=4, grad=True)
    _, lse = run(body("mask = causal"), q, k, v, return_lse=True)
    grads = torch.autograd.grad(lse, (q, k), torch.ones_like(lse))
    assert finite(*grads)


def test_out_expression_of_an_empty_row():
    q, k, v = draw(q=7, kv=4)
    got = out(body("mask = causal", "out = acc + 1 + row_sum"), q, k, v)
    close(got[:, :, :3], torch.ones_like(got[:, :, :3]))


def test_sink_alone():
    q, k, v = draw(q=7, kv=4, grad=True)
    sink = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    variant = body("mask = causal", "weights = softmax(score, sink=s[h])", header="t(s: float[HQ])")
    got, lse = run(variant, q, k, v, s=sink, return_lse=True)
    assert (got[:, :, :3] == 0).all()
    assert (lse[:, :, :3] == -torch.inf).all()
    grads = torch.autograd.grad(got.sum(), (q, k, v, sink))
    assert finite(*grads)


@pytest.mark.parametrize(("rows", "columns"), [(5, 0), (0, 4), (0, 0)])
@pytest.mark.parametrize("statement", ["mask = causal", "weights = sigmoid(score)", "out = acc"])
def test_nothing_at_all(rows, columns, statement):
    q, k, v = draw(q=rows, kv=columns, grad=True)
    variant = body(statement)
    softmax = variant.weights.softmax is not None
    results = run(variant, q, k, v, return_lse=softmax, return_max=True)
    assert torch.equal(results[0], torch.zeros(2, 4, rows, 6, dtype=torch.float64))
    assert (results[-1] == -torch.inf).all()
    results[0].sum().backward()
    assert finite(q.grad, k.grad, v.grad)


COLUMN_MASKS = {
    "length": ("mask = kv_idx < length[b]", {}),
    "causal, then length": ("mask = causal and kv_idx < length[b]", {}),
    "reads the score first": ("mask = score > -100 and kv_idx < length[b]", {}),
    "kv_lens": ("mask = causal", {"kv_lens": torch.tensor([3, 5])}),
}


@pytest.mark.parametrize("name", COLUMN_MASKS)
@pytest.mark.parametrize("poison", [NAN, float("inf")])
def test_hidden_columns_hold_anything(name, poison):
    statement, call = COLUMN_MASKS[name]
    lengths = torch.tensor([3, 5])
    header = "t(length: int[B], bias: float[B, KV], w: float[KV])"
    if "length" not in statement:
        header = header.replace("length: int[B], ", "")
    else:
        call = {"length": lengths}
    variant = body(
        "k = rms_norm(k) * w[kv_col]", "v = v * (1 + w[kv_col])",
        "score = score + bias[b, kv_col]", statement, header=header,
    )  # fmt: skip
    q, k, v = draw()
    bias = torch.randn(2, 7, dtype=torch.float64)
    w = torch.rand(7, dtype=torch.float64)
    hidden = torch.arange(7) >= lengths.unsqueeze(1)

    def gradients(k, v, bias, w):
        leaves = [t.clone().requires_grad_() for t in (q, k, v, bias, w)]
        got, lse = run(
            variant, *leaves[:3], bias=leaves[3], w=leaves[4], return_lse=True, q_offset=10, **call
        )
        return got, lse, *torch.autograd.grad(got.square().sum() + lse.sum(), leaves)

    clean = gradients(k, v, bias, w)
    columns = hidden[:, None, :, None]
    everywhere = w.masked_fill(hidden.all(0), poison)
    poisoned = gradients(
        k.masked_fill(columns, poison),
        v.masked_fill(columns, poison),
        bias.masked_fill(hidden, poison),
        everywhere,
    )
    for a, b in zip(clean, poisoned, strict=True):
        assert finite(b)
        close(a, b)


def test_columns_hidden_from_some_heads_of_a_group():
    q, k, v = draw()
    length = torch.tensor([3, 7, 2, 2])
    variant = body("mask = kv_idx < length[h]", header="t(length: int[HQ])")
    clean = out(variant, q, k, v, length=length)
    dirty = k.clone(), v.clone()
    for t in dirty:
        t[:, 0, 3:] = NAN  # seen by head 1 alone
        t[:, 1, 2:] = NAN
    leaves = [t.requires_grad_() for t in (q, *dirty)]
    got = out(variant, *leaves, length=length)
    close(got[:, [0, 2, 3]], clean[:, [0, 2, 3]])
    assert got[:, 1].isnan().all()
    (gq,) = torch.autograd.grad(got[:, [0, 2, 3]].sum(), leaves[:1])
    assert finite(gq[:, [0, 2, 3]])


@pytest.mark.parametrize(
    "score",
    [
        "score + log(q_idx - kv_idx)",
        "score + sqrt(q_idx - kv_idx - 1)",
        "score / (q_idx - kv_idx)",
        "score * rsqrt(q_idx - kv_idx)",
        "score + float(q_idx - kv_idx) ** -1.5",
        "score * exp(100.0 * (kv_idx - q_idx))",
    ],
)
def test_singular_hidden_scores(score):
    q, k, v = draw(q=7, kv=7, grad=True)
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    variant = body(f"score = a * ({score})", "mask = kv_idx < q_idx", header="t(a: float)")
    got, lse = run(variant, q, k, v, a=a, return_lse=True)
    grads = torch.autograd.grad(got.sum() + lse[:, :, 1:].sum(), (q, k, v, a))
    assert finite(got, *grads)
    assert (got[:, :, 0] == 0).all()


def test_singular_hidden_scores_by_value():
    q, k, v = draw(q=7, kv=7)
    variant = body("score = score + log(q_idx - kv_idx)", "mask = kv_idx < q_idx")
    i, j = positions(7, 7)
    s = raw_scores(q, k) + (i - j).clamp(min=1).double().log()
    want = by_hand(s[:, :, 1:], (j < i)[1:], v)[0]
    close(out(variant, q, k, v)[:, :, 1:], want)


def test_score_of_minus_infinity_is_masked():
    q, k, v = draw(grad=True)
    keep = torch.tensor(
        [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True
    )
    variant = body("score = score + log(keep[kv_col])", header="t(keep: float[KV])")
    got, lse = run(variant, q, k, v, keep=keep, return_lse=True)
    want, want_lse = by_hand(raw_scores(q, k), keep.bool().reshape(1, 1, 1, 7), v)
    close(got, want)
    close(lse, want_lse)
    grads = torch.autograd.grad(got.square().sum(), (q, k, v, keep))
    assert finite(*grads)


def test_all_scores_of_minus_infinity():
    q, k, v = draw(grad=True)
    keep = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    variant = body("score = score + log(keep[kv_col])", header="t(keep: float[KV])")
    got, lse = run(variant, q, k, v, keep=keep, return_lse=True)
    assert (got == 0).all()
    assert (lse == -torch.inf).all()
    assert finite(*torch.autograd.grad(got.sum(), (q, k, v, keep)))


def test_gradients_change_no_value():
    """Where no gradient is wanted, scores are evaluated densely: the numbers must be the same."""
    variant = body(
        "score = score + log(q_idx - kv_idx)", "mask = kv_idx < q_idx",
        "weights = softmax(score) * sigmoid(score)",
    )  # fmt: skip
    q, k, v = draw(q=7, kv=7)
    plain = out(variant, q, k, v)
    assert torch.equal(plain, out(variant, q.clone().requires_grad_(), k, v).detach())
