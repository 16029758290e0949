"""What torch's own machinery meets in a call with gradients: autocast, transforms, its checks."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

import attnlang

NORMED = """
attention normed(w: float[D]):
    score = score - 0.5 * dot(k * w[d], k) + 0.1 * dot(q, q) * float(h)
    mask = causal and dot(k, k) > 2.0
"""


@pytest.fixture(scope="module")
def causal() -> attnlang.Variant:
    return attnlang.loads("attention causal_only:\n    mask = causal\n")


def vectors(*lead: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(2)
    return [torch.randn(*lead, 2, n, 16, generator=g) for n in (21, 34, 34)]


def gradients(call, tensors, **how):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    params = dict(zip(how.pop("names"), leaves[4:], strict=True))
    out, lse = call(*leaves[:3], scale=leaves[3], **params, **how, return_lse=True)
    g = torch.Generator().manual_seed(5)
    weights = [torch.randn(x.shape, generator=g).to(x.dtype) for x in (out, lse)]
    return torch.autograd.grad(
        (out * weights[0]).sum() + (lse * weights[1]).nan_to_num(0, 0, 0).sum(), leaves
    )


def close(got, want):
    for a, b in zip(got, want, strict=True):
        assert not a.isnan().any()
        torch.testing.assert_close(a.double(), b, atol=2e-5, rtol=1e-4)


def test_a_scale_receives_its_gradient(causal):
    tensors = [*vectors(2), torch.tensor(0.3)]
    want = gradients(causal.reference, [t.double() for t in tensors], names=())
    close(gradients(causal, tensors, names=()), want)
    zero = [*vectors(2), torch.tensor(0.0)]
    want = gradients(causal.reference, [t.double() for t in zero], names=())
    close(gradients(causal, zero, names=()), want)


def test_products_of_vectors_in_a_score_receive_theirs():
    variant = attnlang.loads(NORMED)
    weight = torch.rand(16, generator=torch.Generator().manual_seed(1))
    tensors = [*vectors(2), torch.tensor(0.3), weight]
    lens = torch.tensor([34, 13])
    wide = [t.double() for t in tensors]
    for how in ({}, {"kv_lens": lens}):
        want = gradients(variant.reference, wide, names=("w",), **how)
        close(gradients(variant, tensors, names=("w",), **how), want)
    for hidden in tensors[1:3]:
        hidden[1, :, 13:] = torch.nan
    close(gradients(variant, tensors, names=("w",), kv_lens=lens), want)


@pytest.mark.slow
def test_a_mask_reads_vectors_as_they_were_passed():
    spec = "attention m:\n    q = 3 * l2_norm(q)\n    mask = dot(k, k) > 12.0 and causal\n"
    variant = attnlang.loads(spec)
    tensors = [*vectors(1), torch.tensor(1.0)]
    want = gradients(variant.reference, [t.double() for t in tensors], names=())
    close(gradients(variant, tensors, names=()), want)


def test_autocast_casts_the_vectors_as_it_does_for_torch(causal):
    q, k, v = vectors(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inferred = causal(q, k, v)
        q.requires_grad_()
        recorded = causal(q, k, v)
        theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    narrow = [x.detach().bfloat16() for x in (q, k, v)]
    assert inferred.dtype == recorded.dtype == theirs.dtype == torch.bfloat16
    assert torch.equal(inferred, causal(*narrow))
    assert torch.equal(recorded, inferred)
    recorded.float().square().sum().backward()
    narrow[0].requires_grad_()
    causal(*narrow).float().square().sum().backward()
    assert q.grad.dtype == torch.float32
    assert torch.equal(q.grad, narrow[0].grad.float())


@pytest.mark.slow
def test_autocast_leaves_transforms_in_their_precision():
    variant = attnlang.loads("attention n:\n    q = l2_norm(q)\n    out = acc * row_sum\n")
    q, k, v = (x.bfloat16().requires_grad_() for x in vectors(1))
    plain = torch.autograd.grad(variant(q, k, v).float().square().sum(), (q, k, v))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = variant(q, k, v)
    narrow = torch.autograd.grad(out.float().square().sum(), (q, k, v))
    assert all(torch.equal(a, b) for a, b in zip(narrow, plain, strict=True))


def test_vmap_is_refused(causal):
    q, k, v = vectors(3, 1)
    with pytest.raises(attnlang.CallError, match="vmap"):
        torch.vmap(causal)(q, k, v)
    with pytest.raises(attnlang.CallError, match="vmap"):
        torch.vmap(causal)(q.requires_grad_(), k, v)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_transforms_of_torch_func_are_refused(causal):
    q, k, v = vectors(1)
    with pytest.raises(attnlang.CallError, match=r"`torch\.func`"):
        torch.func.grad(lambda x: causal(x, k, v).sum())(q)
    with pytest.raises(attnlang.CallError, match="tangent"):
        torch.func.jvp(lambda x: causal(x, k, v), (q,), (q,))
    causal(q, k, v)
    with forward_ad.dual_level(), pytest.raises(attnlang.CallError, match=r"`k`.*tangent"):
        causal(q, forward_ad.make_dual(k, k), v)


@pytest.mark.filterwarnings("ignore:Input #:UserWarning")
def test_gradcheck(causal):
    """By differences in float32, as far as they go; and the oracle of all tests in float64."""
    g = torch.Generator().manual_seed(3)
    leaves = [torch.randn(1, 1, n, 16, generator=g).requires_grad_() for n in (3, 4, 4)]
    assert torch.autograd.gradcheck(
        causal, leaves, eps=2e-2, atol=2e-3, rtol=2e-2, nondet_tol=0.0, fast_mode=False
    )
    wide = [t.detach().double().requires_grad_() for t in leaves]
    assert torch.autograd.gradcheck(lambda q, k, v: causal.reference(q, k, v), wide)
