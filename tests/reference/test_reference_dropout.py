"""Dropout: determinism, independence of shapes, statistics, the factor of what is kept."""

import torch
from reference_specs import body, draw, out

from attnlang.reference.philox import kept

DROP = body("weights = softmax(score) * dropout(p)", header="t(p: float = 0.3)")
PLAIN = body(header="t()")


def weights(variant, q, k, **call):
    """The weights themselves: v is the identity."""
    kv = k.shape[2]
    v = torch.eye(kv, dtype=q.dtype).expand(*k.shape[:2], kv, kv)
    return out(variant, q, k, v, **call)


def test_kept_weights_are_scaled():
    q, k, _ = draw(q=40, kv=50)
    w, plain = weights(DROP, q, k, seed=7), weights(PLAIN, q, k)
    keep = w != 0
    torch.testing.assert_close(w[keep], plain[keep] / 0.7)
    share = keep.double().mean().item()
    assert abs(share - 0.7) < 5 * (0.21 / keep.numel()) ** 0.5


def test_the_elements_kept_are_those_of_the_contract():
    q, k, _ = draw(q=5, kv=7)
    keep = weights(DROP, q, k, seed=2**40 + 1, q_offset=100, kv_offset=3) != 0
    axes = [
        torch.arange(n).reshape([-1 if a == i else 1 for a in range(4)])
        for i, n in enumerate(keep.shape)
    ]
    b, h, row, column = axes
    want = kept(torch.tensor(0.3), 2**40 + 1, b, h, row + 100, column + 3)
    assert torch.equal(keep, want)


def test_seeds():
    q, k, v = draw()
    assert torch.equal(out(DROP, q, k, v, seed=1), out(DROP, q, k, v, seed=1))
    assert not torch.equal(out(DROP, q, k, v, seed=1), out(DROP, q, k, v, seed=2))
    assert not torch.equal(out(DROP, q, k, v, seed=1), out(DROP, q, k, v, seed=1 + 2**32))


def test_by_default_the_seed_is_drawn_from_torch():
    q, k, v = draw()
    torch.manual_seed(5)
    first, second = out(DROP, q, k, v), out(DROP, q, k, v)
    torch.manual_seed(5)
    assert torch.equal(first, out(DROP, q, k, v))
    assert not torch.equal(first, second)


def test_a_variant_without_dropout_draws_nothing():
    q, k, v = draw()
    before = torch.get_rng_state()
    out(PLAIN, q, k, v)
    assert torch.equal(before, torch.get_rng_state())


def test_probabilities_of_zero_and_one():
    q, k, v = draw()
    torch.testing.assert_close(out(DROP, q, k, v, p=0.0, seed=1), out(PLAIN, q, k, v))
    p = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    got = out(DROP, q, k, v, p=p, seed=1)
    assert (got == 0).all()
    assert torch.autograd.grad(got.sum(), (p,))[0].isfinite()


def test_row_sum_and_non_softmax_weights_see_the_dropout():
    q, k, _ = draw()
    normed = body("weights = softmax(score) * dropout(0.5)", "out = acc / max(row_sum, 0.001)")
    total = weights(normed, q, k, seed=4).sum(-1)
    torch.testing.assert_close(total[total > 0], torch.ones_like(total[total > 0]))
    gate = body("weights = sigmoid(score) * dropout(0.5)")
    w, plain = weights(gate, q, k, seed=4), weights(body("weights = sigmoid(score)"), q, k)
    torch.testing.assert_close(w[w != 0], 2 * plain[w != 0])
