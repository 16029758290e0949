"""What a call may pass: sizes solved from tensors, and what is said when a shape does not fit."""

import pytest
import torch
from reference_specs import body, draw, out, run


def test_shapes_of_q_k_v():
    q, k, v = draw()
    full = body(header="t()")
    for wrong, name in [
        ((q[0], k, v), "q"),
        ((q, k[:1], v), "k"),
        ((q, k[..., :4], v), "k"),
        ((q[:, :3], k, v), "k"),
        ((q, k, v[:, :, :5]), "v"),
        ((q, k, v[:, :1]), "v"),
    ]:
        with pytest.raises(ValueError, match=f"`{name}`"):
            out(full, *wrong)


def test_shapes_of_tensors():
    q, k, v = draw()
    variant = body("score = score + x[h, kv_col]", header="t(x: float[HQ, KV])")
    assert out(variant, q, k, v, x=torch.zeros(4, 7)).isfinite().all()
    for shape in [(4, 6), (1, 7), (4,), (4, 7, 1)]:
        with pytest.raises(ValueError, match="`x`"):
            out(variant, q, k, v, x=torch.zeros(shape))


def test_bound_sizes():
    q, k, v = draw()
    variant = body("score = score + x[h, R] + R", header="t(x: float[HQ, 2 * R + 1])")
    _, three = run(variant, q, k, v, x=torch.zeros(4, 7), return_lse=True)
    _, one = run(variant, q, k, v, x=torch.zeros(4, 3), return_lse=True)
    torch.testing.assert_close(three - one, torch.full_like(one, 2.0))
    with pytest.raises(ValueError, match="`R`"):
        out(variant, q, k, v, x=torch.zeros(4, 6))


def test_sizes_bound_twice_agree():
    q, k, v = draw()
    variant = body(
        "score = score + x[h, N - 1] + y[N - 1]", header="t(x: float[HQ, N], y: float[N])"
    )
    assert out(variant, q, k, v, x=torch.zeros(4, 3), y=torch.zeros(3)).isfinite().all()
    with pytest.raises(ValueError, match="`y`"):
        out(variant, q, k, v, x=torch.zeros(4, 3), y=torch.zeros(5))


def test_missing_and_unknown_parameters():
    q, k, v = draw()
    variant = body("score = score * a + x[h]", header="t(a: float, x: float[HQ])")
    x = torch.zeros(4)
    with pytest.raises(ValueError, match="`a`"):
        out(variant, q, k, v, x=x)
    with pytest.raises(ValueError, match="`x`"):
        out(variant, q, k, v, a=1.0)
    with pytest.raises(ValueError, match="`z`"):
        out(variant, q, k, v, a=1.0, x=x, z=1)


def test_kinds_of_parameters():
    q, k, v = draw()
    variant = body(
        "score = score * a", "mask = causal or not flag", header="t(a: float, flag: bool = true)"
    )
    number, tensor = out(variant, q, k, v, a=2.0), out(variant, q, k, v, a=torch.tensor(2.0))
    assert torch.equal(number, tensor)
    assert not torch.equal(number, out(variant, q, k, v, a=2.0, flag=False))
    assert torch.equal(number, out(variant, q, k, v, a=2, flag=torch.tensor(True)))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8])
def test_dtypes_of_int_tensors(dtype):
    q, k, v = draw()
    variant = body("mask = kv_idx < length[b]", header="t(length: int[B])")
    lengths = torch.tensor([3, 5])
    want = out(variant, q, k, v, length=lengths)
    assert torch.equal(out(variant, q, k, v, length=lengths.to(dtype)), want)


def test_lse_without_softmax():
    q, k, v = draw()
    with pytest.raises(ValueError, match="lse"):
        run(body("weights = sigmoid(score)"), q, k, v, return_lse=True)


def test_offsets_have_one_entry_for_each_request():
    q, k, v = draw()
    with pytest.raises(ValueError, match="kv_lens"):
        out(body("mask = causal"), q, k, v, kv_lens=torch.tensor([1, 2, 3]))


def test_largest_score_without_softmax():
    q, k, v = draw()
    _, largest = run(body("weights = sigmoid(score - 1.0)"), q, k, v, return_max=True)
    _, plain = run(body(header="t()"), q, k, v, return_max=True)
    assert torch.equal(largest, plain)
