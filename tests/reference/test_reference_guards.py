"""Guards: a read under a false guard was not made; a selected one out of range raises."""

import pytest
import torch
from reference_specs import body, draw, out

from attnlang.reference.domain import Domain
from attnlang.reference.faults import Fault

T = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)


def header(*more):
    return f"t({', '.join(('t: float[N]', *more))})".replace("t: float", "bias: float")


GUARDED = [
    "score = score + bias[kv_idx] if kv_idx < N else score",
    "score = score if kv_idx >= N else score + bias[kv_idx]",
    "score = score + (bias[kv_idx] if kv_idx < N and kv_idx >= 0 else 0.0)",
    "mask = kv_idx < N and bias[kv_idx] > 0.7",
    "mask = kv_idx >= N or bias[kv_idx] > 0.7",
    "mask = not (kv_idx < N and bias[kv_idx] > 0.7)",
    "mask = kv_idx < N and (bias[kv_idx] > 0.7 or bias[kv_idx] < 0.6)",
    "q = q * bias[d] if d < N else q",
    "q = q * bias[q_row] if q_row < N else q",
    "out = acc * bias[q_row] if q_row < N else acc",
]


@pytest.mark.parametrize("statement", GUARDED)
@pytest.mark.parametrize("grad", [False, True])
def test_guarded_reads_are_not_made(statement, grad):
    q, k, v = draw(grad=grad)
    bias = T.clone().requires_grad_(grad)
    got = out(body(statement, header=header()), q, k, v, bias=bias)
    assert got.isfinite().all()
    if grad:
        grads = torch.autograd.grad(got.square().sum(), (q, k, v, bias), allow_unused=True)
        assert all(g is None or g.isfinite().all() for g in grads)


UNGUARDED = [
    "score = score + bias[kv_idx]",
    "mask = bias[kv_idx] > 0.7",
    "mask = kv_idx < N or bias[kv_idx] > 0.7",
    "mask = bias[kv_idx] > 0.7 and kv_idx < N",
    "score = score + bias[kv_idx] if kv_idx < N + 1 else score",
    "k = k * bias[kv_col]",
    "q = q * bias[d]",
    "q = q * bias[d] if d < N + 1 else q",
    "out = acc * bias[q_row]",
    "weights = softmax(score, sink=bias[q_row])",
    "weights = softmax(score) * bias[kv_idx]",
    "weights = bias[kv_idx] * score",
    "score = score + dot(q * bias[q_row], q)",
]


@pytest.mark.parametrize("statement", UNGUARDED)
@pytest.mark.parametrize("grad", [False, True])
def test_selected_reads_out_of_range_raise(statement, grad):
    q, k, v = draw(grad=grad)
    with pytest.raises(IndexError, match=r"`bias` is read at 3 on axis 0, whose extent is 3"):
        out(body(statement, header=header()), q, k, v, bias=T)


def test_negative_indices_do_not_wrap():
    q, k, v = draw()
    with pytest.raises(IndexError, match="read at -4"):
        out(body("score = score + bias[q_row - 4]", header=header()), q, k, v, bias=T)


@pytest.mark.parametrize(
    "statement",
    [
        "score = score + bias[kv_idx]",
        "k = k * bias[kv_col]",
        "v = v * bias[kv_col]",
        "weights = softmax(score) * bias[kv_idx]",
        "score = score + dot(k, k * bias[kv_col])",
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_the_mask_guards_everything(statement, grad):
    q, k, v = draw(grad=grad)
    assert (
        out(body("mask = kv_idx < N", statement, header=header()), q, k, v, bias=T).isfinite().all()
    )


def test_rows_that_see_nothing_read_nothing():
    q, k, v = draw()
    variant = body("q = q * bias[q_row]", "mask = q_row < N", header=header())
    assert out(variant, q, k, v, bias=T).isfinite().all()


def test_kv_lens_guard_the_mask():
    q, k, v = draw()
    variant = body("mask = bias[kv_idx] > 0.0", header=header())
    assert out(variant, q, k, v, bias=T, kv_lens=torch.tensor([3, 2])).isfinite().all()
    with pytest.raises(IndexError):
        out(variant, q, k, v, bias=T, kv_lens=torch.tensor([3, 4]))


def test_selected_columns_guard_the_mask():
    q, k, v = draw()
    variant = body("mask = bias[kv_idx] > 0.0", header=header())
    indices = torch.full((2, 2, 5, 2), 2)
    assert out(variant, q, k, v, bias=T, kv_indices=indices).isfinite().all()


@pytest.mark.parametrize("operator", ["//", "%"])
def test_division_by_zero(operator):
    q, k, v = draw()
    wrong = body(f"score = score + kv_idx {operator} n", header="t(n: int)")
    assert out(wrong, q, k, v, n=2).isfinite().all()
    with pytest.raises(ZeroDivisionError, match=operator):
        out(wrong, q, k, v, n=0)
    guarded = body(f"score = score + (7 {operator} kv_idx if kv_idx != 0 else 0)")
    assert out(guarded, q, k, v).isfinite().all()
    masked = body(f"mask = kv_idx > 0 and 7 {operator} kv_idx != 3")
    assert out(masked, q, k, v).isfinite().all()
    with pytest.raises(Fault):
        out(body(f"mask = 7 {operator} kv_idx != 3"), q, k, v)


def test_a_chain_of_conditions_is_not_evaluated_over_and_over(monkeypatch):
    """Each statement reads the last score in both branches: 2 ** 9 contexts if done naively."""
    steps = [f"score = score + {n}.0 if (kv_idx + {n}) % 2 == 0 else score * 0.5" for n in range(9)]
    variant = body(*steps)
    q, k, v = draw(b=1, q=2, kv=3, grad=True)
    cuts = []
    where = Domain.where
    monkeypatch.setattr(Domain, "where", lambda self, mask: cuts.append(1) or where(self, mask))
    got = out(variant, q, k, v)
    assert torch.autograd.grad(got.sum(), (q,))[0].isfinite().all()
    assert len(cuts) < 40


def test_long_conjunctions_need_no_deep_stack():
    q, k, v = draw(b=1, q=2, kv=3)
    names = ", ".join(f"a{n}: int" for n in range(60))
    mask = " and ".join(f"kv_idx != a{n}" for n in range(60))
    params = {f"a{n}": n + 2 for n in range(60)}
    got = out(body(f"mask = {mask}", header=f"t({names})"), q, k, v, **params)
    assert torch.equal(got, out(body("mask = kv_idx < 2"), q, k, v))


def test_nested_guards():
    q, k, v = draw(b=1, q=2, kv=70, grad=True)
    steps = [f"score = tanh(score) if kv_idx + {n} < 69 else 0.0" for n in reversed(range(60))]
    got = out(body(*steps), q, k, v)
    assert torch.autograd.grad(got.sum(), (q,))[0].isfinite().all()
