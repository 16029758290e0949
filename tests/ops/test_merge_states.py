"""`merge_states`: the attention of two sets of keys, of any of them empty, and its gradients."""

from __future__ import annotations

import itertools

import pytest
import torch

import attnlang
from attnlang import CallError, merge_states

INF = float("inf")


def _state(scores: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    lse = scores.logsumexp(-1)
    weights = (scores - lse.nan_to_num(neginf=0.0).unsqueeze(-1)).exp()
    return weights @ v, lse


def _draw(rows: int, keys: int, *, hide: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    scores = torch.randn(rows, 3, keys, dtype=torch.float64) * 4
    scores[torch.rand(rows, 3, keys) < hide] = -INF
    return scores, torch.randn(keys, 5, dtype=torch.float64)


def test_two_parts_are_the_whole() -> None:
    torch.manual_seed(0)
    for split, hide in itertools.product((0, 1, 7, 20), (0.0, 0.7)):
        scores, v = _draw(11, 20, hide=hide)
        a = _state(scores[..., :split], v[:split])
        b = _state(scores[..., split:], v[split:])
        out, lse = merge_states(*a, *b)
        want, want_lse = _state(scores, v)
        torch.testing.assert_close(out, want)
        torch.testing.assert_close(lse, want_lse)


def test_merging_is_associative_and_symmetric() -> None:
    torch.manual_seed(1)
    a, b, c = (_state(*_draw(9, n, hide=0.6)) for n in (3, 4, 2))
    left = merge_states(*merge_states(*a, *b), *c)
    right = merge_states(*a, *merge_states(*b, *c))
    swapped = merge_states(*c, *merge_states(*b, *a))
    for other in (right, swapped):
        torch.testing.assert_close(left, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_empty_state_changes_no_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    out, lse = torch.randn(6, 2, 8).to(dtype), torch.randn(6, 2)
    poison = torch.full_like(out, float("nan"))
    none = torch.full_like(lse, -INF)
    for found, found_lse in (
        merge_states(out, lse, poison, none),
        merge_states(poison, none, out, lse),
    ):
        assert torch.equal(found, out)
        assert torch.equal(found_lse, lse)
        assert found.dtype == dtype
    nothing, nothing_lse = merge_states(poison, none, poison, none)
    assert torch.equal(nothing, torch.zeros_like(out))
    assert torch.equal(nothing_lse, none)


def test_far_apart_scores_do_not_overflow() -> None:
    out_a, out_b = torch.full((1, 1, 2), 3.0), torch.full((1, 1, 2), 7.0)
    for a, b, want in ((1e4, -1e4, 3.0), (-1e4, 1e4, 7.0), (1e4, 1e4, 5.0)):
        out, lse = merge_states(out_a, torch.tensor([[a]]), out_b, torch.tensor([[b]]))
        assert torch.equal(out, torch.full((1, 1, 2), want))
        assert abs(lse.item() - 1e4) < 1


def test_gradients_are_those_of_the_whole_and_never_nan() -> None:
    torch.manual_seed(3)
    scores, v = _draw(4, 6)
    scores[0, 0, :3] = -INF  # the first part of a row is empty
    scores[1, 1, 3:] = -INF
    scores[2, 2] = -INF  # all of it
    grads = []
    for parts in (False, True):
        x = v.clone().requires_grad_()
        keep = scores.isfinite()
        s = torch.where(keep, scores, 0.0).requires_grad_()
        weights = torch.where(keep, s.exp(), 0.0)

        def state(at: slice, weights: torch.Tensor = weights, x: torch.Tensor = x):
            total = weights[..., at].sum(-1)
            safe = torch.where(total > 0, total, 1.0)
            lse = torch.where(total > 0, safe.log(), -INF)
            return (weights[..., at] @ x[at]) / safe.unsqueeze(-1), lse

        out, lse = (
            merge_states(*state(slice(0, 3)), *state(slice(3, 6))) if parts else state(slice(0, 6))
        )
        (out.square().sum() + torch.where(lse > -INF, lse, 0.0).sum()).backward()
        grads.append((x.grad, s.grad))
    for whole, merged in zip(*grads, strict=True):
        assert torch.isfinite(merged).all()
        torch.testing.assert_close(merged, whole)


def test_gradcheck() -> None:
    torch.manual_seed(4)
    args = [torch.randn(*s, dtype=torch.float64) for s in ((2, 2, 3), (2, 2)) * 2]
    args[1][0, 0] = -INF
    for x in args:
        x.requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: merge_states(*a)[0], args)


def test_the_states_of_a_variant_merge() -> None:
    full = attnlang.loads("attention full:\n")
    torch.manual_seed(5)
    q, k, v = torch.randn(1, 4, 3, 16), torch.randn(1, 2, 50, 16), torch.randn(1, 2, 50, 16)
    want, want_lse = full(q, k, v, return_lse=True)
    states = []
    for at in (slice(0, 20), slice(20, 50)):
        out, lse = full(q, k[:, :, at], v[:, :, at], return_lse=True)
        states += [out.transpose(1, 2), lse.transpose(1, 2)]
    out, lse = merge_states(*states)
    torch.testing.assert_close(out.transpose(1, 2), want, atol=1e-5, rtol=0)
    torch.testing.assert_close(lse.transpose(1, 2), want_lse, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({0: torch.zeros(3)}, "out_a"),
        ({0: 1.0}, "out_a"),
        ({1: torch.zeros(2, 3)}, "lse_a"),
        ({1: torch.zeros(2, 2, dtype=torch.int32)}, "lse_a"),
        ({2: torch.zeros(2, 2, 4)}, "out_b"),
        ({3: torch.zeros(1, 2)}, "lse_b"),
        ({3: torch.zeros(2, 2, device="meta")}, "lse_b"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[int, object], argument: str) -> None:
    args: list[object] = [torch.zeros(2, 2, 3), torch.zeros(2, 2)] * 2
    for place, value in change.items():
        args[place] = value
    with pytest.raises(CallError) as raised:
        merge_states(*args)
    assert raised.value.argument == argument
