"""Calls that autograd records: what they give, what they refuse, and how torch sees their ops."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import attnlang
from attnlang.ops.targets import check_dtype
from attnlang.ops.training import TrainingCall
from attnlang.ops.training_op import positional

SPEC = """
attention biased(cap: float = 3.0, table: float[HQ, 2 * R + 1]):
    require cap > 0, "cap must be positive"
    score = cap * tanh(score / cap) + table[h, clamp(kv_idx - q_idx + R, 0, 2 * R)]
    mask = causal
"""


@pytest.fixture(scope="module")
def biased() -> attnlang.Variant:
    return attnlang.loads(SPEC)


def inputs(*, grad=True):
    g = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, h, n, 16, generator=g) for h, n in ((4, 37), (2, 70), (2, 70)))
    table = torch.randn(4, 9, generator=g)
    return tuple(t.requires_grad_(grad) for t in (q, k, v, table))


def test_only_what_is_asked_for_gets_a_gradient(biased):
    q, k, v, table = inputs(grad=False)
    k.requires_grad_()
    biased(q, k, v, table=table).sum().backward()
    assert k.grad is not None
    assert q.grad is None
    assert table.grad is None


def test_without_grad_mode_nothing_is_recorded(biased):
    q, k, v, table = inputs()
    with torch.no_grad():
        assert not biased(q, k, v, table=table).requires_grad


def test_gradients_repeat_bit_for_bit_on_any_number_of_threads(biased):
    found = []
    threads = torch.get_num_threads()
    for count in (1, 2, 2):
        torch.set_num_threads(count)
        leaves = inputs()
        biased(*leaves[:3], table=leaves[3]).square().sum().backward()
        found.append([t.grad for t in leaves])
    torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_a_parameter_of_another_dtype_gets_its_gradient_in_it(biased):
    q, k, v, table = inputs(grad=False)
    wide = table.double().requires_grad_()
    biased(q, k, v, table=wide).sum().backward()
    assert wide.grad.dtype == torch.float64
    narrow = table.detach().clone().requires_grad_()
    biased(q, k, v, table=narrow).sum().backward()
    torch.testing.assert_close(wide.grad.float(), narrow.grad)


def test_lse_alone(biased):
    q, k, v, table = inputs()
    lse = biased(q, k, v, table=table, return_lse=True)[1]
    grads = torch.autograd.grad(lse.sum(), (q, k, table))
    exact = biased.reference(
        *(t.double() for t in (q, k, v)), table=table.double(), return_lse=True
    )[1]
    for got, want in zip(grads, torch.autograd.grad(exact.sum(), (q, k, table)), strict=True):
        torch.testing.assert_close(got, want.to(got.dtype), atol=2e-5, rtol=1e-4)


def test_return_max_has_no_gradient(biased):
    q, k, v, table = inputs()
    out, largest = biased(q, k, v, table=table, return_max=True)
    assert out.requires_grad
    assert not largest.requires_grad


def test_an_expanded_gradient_and_a_mean(biased):
    q, k, v, table = inputs()
    biased(q, k, v, table=table).mean().backward()
    exact = tuple(t.detach().double().requires_grad_() for t in (q, k, v, table))
    biased.reference(*exact[:3], table=exact[3]).mean().backward()
    for got, want in zip((q, k, v, table), exact, strict=True):
        torch.testing.assert_close(got.grad.double(), want.grad, atol=1e-6, rtol=1e-4)


def test_second_derivatives_are_refused(biased):
    q, k, v, table = inputs()
    out = biased(q, k, v, table=table)
    weight = torch.ones_like(out, requires_grad=True)
    for loss in ((out * weight).sum(), out.sum()):  # nothing reaches `out` with a gradient in it
        with pytest.raises(RuntimeError, match="no second derivatives"):
            torch.autograd.grad(loss, q, create_graph=True, retain_graph=True)


def test_a_wrong_call_is_refused_as_without_gradients(biased):
    q, k, v, table = inputs()
    with pytest.raises(attnlang.CallError, match="cap must be positive"):
        biased(q, k, v, cap=-1.0, table=table)
    with pytest.raises(attnlang.CallError, match="`v`"):
        biased(q, k, v[:, :, :5], table=table)


def test_empty_requests_and_rows(biased):
    q, k, v, table = (t.detach() for t in inputs())
    for queries, keys in ((0, 5), (5, 0), (1, 1), (9, 3)):
        leaves = [q[:, :, :queries], k[:, :, :keys], v[:, :, :keys]]
        leaves = [t.clone().requires_grad_() for t in leaves]
        biased(*leaves, table=table).sum().backward()
        for leaf in leaves:
            assert leaf.grad.shape == leaf.shape
            assert not leaf.grad.isnan().any()


def test_dropout_is_the_same_in_both_directions():
    variant = attnlang.loads(
        "attention d(p: float = 0.4):\n    weights = softmax(score) * dropout(p)\n"
    )
    leaves = [torch.randn(1, 2, 40, 16, requires_grad=True) for _ in range(3)]
    torch.manual_seed(5)
    got = variant(*leaves)
    torch.manual_seed(5)
    again = variant(*leaves)
    assert torch.equal(got, again)
    exact = [t.detach().double().requires_grad_() for t in leaves]
    variant(*leaves, seed=11).sum().backward()
    variant.reference(*exact, seed=11).sum().backward()
    for leaf, want in zip(leaves, exact, strict=True):
        torch.testing.assert_close(leaf.grad.double(), want.grad, atol=2e-5, rtol=1e-4)


def test_kv_lens_and_offsets(biased):
    q, k, v, table = inputs()
    how = {"kv_lens": torch.tensor([70, 21]), "q_offset": torch.tensor([40, 3]), "kv_offset": 2}
    biased(q, k, v, table=table, **how).square().sum().backward()
    exact = tuple(t.detach().double().requires_grad_() for t in (q, k, v, table))
    biased.reference(*exact[:3], table=exact[3], **how).square().sum().backward()
    for got, want in zip((q, k, v, table), exact, strict=True):
        torch.testing.assert_close(got.grad.double(), want.grad, atol=5e-5, rtol=1e-4)


def test_checkpointing(biased):
    leaves = inputs()
    got = torch.utils.checkpoint.checkpoint(
        lambda q, k, v, t: biased(q, k, v, table=t), *leaves, use_reentrant=False
    )
    got.sum().backward()
    plain = inputs()
    biased(*plain[:3], table=plain[3]).sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(leaves, plain, strict=True))


def test_opcheck(biased):
    leaves = inputs()
    values = {"cap": 3.0, "table": leaves[3]}
    call = TrainingCall(*leaves[:3], values, (), frozenset({"table"}), 16, None, None, 0, None)
    training = biased.training
    op = training._op(call, training._core(call), check_dtype(leaves[0]), leaves[0], leaves[2])
    named = biased.op_arguments(values, 0.25, None, 0, None)
    torch.library.opcheck(op.overload, tuple(positional(op, leaves[:3], named)))
    *plain, table = inputs(grad=False)
    raw = biased.specialised((), frozenset({"table"})).op.overload
    torch.library.opcheck(raw, tuple(plain), {"table": table, "return_lse": True})


@pytest.mark.slow  # both kernels, the op and the binding are compiled
def test_two_processes_differentiate_with_a_cold_cache(tmp_path):
    program = (
        "import torch, attnlang\n"
        "v = attnlang.loads('attention a:\\n    mask = causal\\n')\n"
        "x = torch.ones(1, 1, 8, 16, requires_grad=True)\n"
        "v(x, x, x).sum().backward()\n"
        "print(x.grad.sum().item())\n"
    )
    environment = {"ATTNLANG_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert outputs[0] == outputs[1]
