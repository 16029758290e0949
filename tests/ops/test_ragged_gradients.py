"""Gradients of ragged calls: any lengths, 0 and 1 too, grouped heads, what reaches lse."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from ragged_gradients import check_gradients, differentiate, results
from ragged_inputs import Packed, offsets
from ragged_specs import LENGTHS, SPECS, call_of
from support import sample
from torch.utils._python_dispatch import TorchDispatchMode

import attnlang
from attnlang.ops.training_op import _registered, positional

MORE = {
    "numbers": (  # Q, KV, B and b of a transform and an out expression are the request's
        "attention numbers(a: float[B, HQ], gate: float[B, Q, HQ]):\n"
        " q = q * (1 + 0.01 * Q + 0.1 * b)\n"
        " k = k if kv_idx % 2 == 0 else k * (0.01 * KV + B)\n"
        " score = score + a[b, h] * 0.1 + dot(k, k) * 0.01\n"
        " mask = kv_idx <= q_idx + b\n"
        " out = acc * gate[b, q_row, h] + row_sum * 0.1 * b + lse * 0.01\n"
    ),
}


def more_call(name: str, dtype: torch.dtype) -> Packed:
    call = call_of("lengths", dtype)
    g = torch.Generator().manual_seed(1)
    gate = torch.randn(len(LENGTHS), max(q for q, _ in LENGTHS), 4, generator=g)
    return replace(call, variant=attnlang.loads(MORE[name]), params=call.params | {"gate": gate})


F32, BF16 = torch.float32, torch.bfloat16
CASES = [(n, d) for n in sorted(SPECS) for d in (F32, BF16)]
QUICK = (("causal", F32), ("lengths", F32), ("rows", F32), ("rows", BF16))


@pytest.mark.parametrize("case", sample(CASES, *QUICK), ids=lambda c: f"{c[0]}-{c[1]}")
def test_each_request_agrees_with_the_reference(case: tuple[str, torch.dtype]) -> None:
    name, dtype = case
    check_gradients(call_of(name, dtype), torch.Generator().manual_seed(7))


def test_transforms_and_out_expressions_are_each_requests_own() -> None:
    check_gradients(more_call("numbers", torch.float32), torch.Generator().manual_seed(7))


def test_offsets_and_a_scale_that_wants_a_gradient() -> None:
    call = call_of("causal", torch.float32)
    keywords = {"q_offset": torch.arange(len(LENGTHS)) * 3, "kv_offset": 7}
    check_gradients(call, torch.Generator().manual_seed(8), scale=0.3, **keywords)
    scales = [torch.tensor(0.3, dtype=d, requires_grad=True) for d in (torch.float32,) * 2]
    call.call(scale=scales[0]).square().sum().backward()
    parts = []
    for b in range(len(LENGTHS)):
        one = [x[rows][None].transpose(1, 2) for x, rows in (
            (call.q, call.rows(b)), (call.k, call.columns(b)), (call.v, call.columns(b))
        )]  # fmt: skip
        parts.append(call.variant(*one, scale=scales[1]).square().sum())
    sum(parts).backward()
    torch.testing.assert_close(scales[0].grad, scales[1].grad, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_dropout_is_each_requests_own() -> None:
    spec = "attention d(p: float = 0.4):\n mask = causal\n weights = softmax(score) * dropout(p)\n"
    call = replace(call_of("causal", torch.float32), variant=attnlang.loads(spec))
    check_gradients(call, torch.Generator().manual_seed(9), seed=5)


def test_threads_and_runs_change_nothing() -> None:
    call = call_of("rows", torch.float32, ((200, 700), (1, 3), (0, 5), (64, 2300)))
    g = torch.Generator().manual_seed(2)
    floats = {n: call.params[n] for n in ("bias", "gain")}
    with torch.no_grad():
        grads = [torch.randn(x.shape, generator=g) for x in results(call)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2, 5):
            torch.set_num_threads(threads)
            found.append(differentiate(call, results, floats, grads))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(other[n], x) for n, x in found[0].items())


@pytest.mark.parametrize("name", ["plain", "rows"])
def test_nothing_of_another_request_reaches_one(name: str) -> None:
    call = call_of(name, torch.float32)
    with torch.no_grad():
        grads = [torch.ones_like(x) for x in results(call)]
    want = differentiate(call, results, {}, grads)
    b = 3
    places = {"q": call.rows(b), "k": call.columns(b), "v": call.columns(b)}
    poisoned = {n: torch.full_like(getattr(call, n), math.nan) for n in places}
    for n, rows in places.items():
        poisoned[n][rows] = getattr(call, n)[rows]
    got = differentiate(replace(call, **poisoned), results, {}, grads)
    for n, rows in places.items():
        assert torch.equal(got[n][rows], want[n][rows])


def test_strided_tensors_and_expanded_gradients() -> None:
    call = call_of("causal", torch.float32)
    dense = [x.detach().clone().requires_grad_() for x in (call.q, call.k, call.v)]
    wide = [torch.full((x.shape[0], x.shape[1] + 1, 2 * x.shape[2]), math.nan) for x in dense]
    for memory, x in zip(wide, dense, strict=True):
        memory[:, 1:, ::2] = x.detach()
    strided = [x[:, 1:, ::2].requires_grad_() for x in wide]
    for q, k, v in (dense, strided):
        call.variant.ragged(q, k, v, call.q_indptr, call.kv_indptr).mean().backward()
    for a, b in zip(dense, strided, strict=True):
        assert torch.equal(a.grad, b.grad)


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    call = call_of("rows", torch.float32)
    k = call.k.clone().requires_grad_()
    out, top = replace(call, k=k).call(return_max=True)
    assert out.requires_grad
    assert not top.requires_grad
    out.sum().backward()
    with torch.no_grad():
        assert not replace(call, k=k).call().requires_grad
    out = replace(call, k=k).call()
    weight = torch.ones_like(out, requires_grad=True)
    for loss in ((out * weight).sum(), out.sum()):
        with pytest.raises(RuntimeError, match="no second derivatives"):
            torch.autograd.grad(loss, k, create_graph=True, retain_graph=True)


@pytest.mark.parametrize("lengths", [(), ((0, 0),), ((0, 5), (0, 3)), ((4, 0),)])
def test_no_request_and_no_row(lengths) -> None:
    for spec in (SPECS["causal"], "attention n:\n k = l2_norm(k)\n mask = causal\n"):
        variant = attnlang.loads(spec)
        q = torch.ones(sum(n for n, _ in lengths), 2, 16, requires_grad=True)
        k, v = (torch.ones(sum(n for _, n in lengths), 2, 16, requires_grad=True) for _ in range(2))
        ends = (offsets([n for n, _ in lengths]), offsets([n for _, n in lengths]))
        variant.ragged(q, k, v, *ends).sum().backward()
        for x in (q, k, v):
            assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", ["causal", "rows"])
def test_in_one_graph(name: str) -> None:
    call = call_of(name, torch.float32)
    ends, params = (call.q_indptr, call.kv_indptr), call.packed_params()

    def function(q, k, v, q_indptr, kv_indptr):
        out, lse = call.variant.ragged(q * 2, k, v, q_indptr, kv_indptr, return_lse=True, **params)
        return out.square().sum() + torch.where(lse.isneginf(), 0.0, lse).sum()

    torch._dynamo.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    gradients = []
    for each in (compiled, function):
        leaves = [x.detach().clone().requires_grad_() for x in (call.q, call.k, call.v)]
        each(*leaves, *ends).backward()
        gradients.append([x.grad for x in leaves])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_the_ops_are_sound() -> None:
    call = call_of("rows", torch.float32, ((3, 5), (0, 2), (1, 9)))
    own = SPECS["rows"].replace("attention rows", "attention sound")  # registered by no other test
    call = replace(call, variant=attnlang.loads(own))
    leaves = [x.detach().clone().requires_grad_() for x in (call.q, call.k, call.v)]
    params = call.packed_params()
    call.variant.ragged(*leaves, call.q_indptr, call.kv_indptr, **params)
    packed = [op for (_, kind), op in _registered.items() if kind]
    op = next(op for op in packed if op.overload._schema.name.startswith("attnlang::sound_"))
    named = call.variant.op_arguments(params, 0.25, None, 0, None)
    named |= {"q_indptr": call.q_indptr, "kv_indptr": call.kv_indptr}
    torch.library.opcheck(op.overload, tuple(positional(op, leaves, named)))


def test_a_graph_with_transforms_is_refused() -> None:
    variant = attnlang.loads("attention n:\n k = l2_norm(k)\n mask = causal\n")
    q = torch.ones(4, 2, 16, requires_grad=True)
    ends = offsets([1, 3])
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda q, ends: variant.ragged(q, q, q, ends, ends), backend="eager", fullgraph=True
    )
    with pytest.raises(Exception, match="in a compiled ragged call of a spec with transforms"):
        compiled(q, ends)


@pytest.mark.parametrize("name", ["q_indptr", "kv_indptr"])
@pytest.mark.parametrize("gradient", [False, True])
def test_a_graph_has_offsets_in_tensors(name: str, gradient: bool) -> None:
    variant = attnlang.loads("attention masked:\n mask = causal\n")
    passed = {"q_indptr": offsets([1, 3]), "kv_indptr": offsets([1, 3])} | {name: [0, 1, 4]}
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda q: variant.ragged(q, q, q, **passed), backend="eager", fullgraph=True
    )
    with pytest.raises(Exception, match=rf"`{name}`: expected an int tensor .*found list"):
        compiled(torch.ones(4, 2, 16, requires_grad=gradient))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_a_graph_has_no_lse_without_a_softmax(ragged: bool, gradient: bool) -> None:
    variant = attnlang.loads("attention none_there:\n weights = sigmoid(score)\n mask = causal\n")

    def function(q, ends):
        if ragged:
            return variant.ragged(q, q, q, ends, ends, return_lse=True)[0]
        return variant(q[None], q[None], q[None], return_lse=True)[0]

    torch._dynamo.reset()
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="without a softmax there is no lse"):
        compiled(torch.ones(4, 2, 16, requires_grad=gradient), offsets([1, 3]))


class _Made(TorchDispatchMode):
    """Counts the elements of all results."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        for x in results if isinstance(results, tuple | list) else (results,):
            if isinstance(x, torch.Tensor):
                self.elements += x.numel()
        return results


def test_work_on_a_tensor_of_many_requests_follows_its_rows() -> None:
    """Its gradient is summed up in its own shape, not in the batch's for each request."""
    gated = attnlang.loads(
        "attention g(gate: float[B, HQ, Q, DV]):\n out = acc * gate[b, h, q_row, d]\n"
    )

    def made(requests: int) -> int:
        ends = offsets([2] * requests)
        q = torch.ones(2 * requests, 2, 16)
        gate = torch.ones(2 * requests, 2, 16, requires_grad=True)
        with _Made() as counted:
            gated.ragged(q, q, q, ends, ends, gate=gate).sum().backward()
        assert gate.grad is not None
        return counted.elements

    assert made(64) < 10 * made(8)


def test_keys_that_no_head_asks_for_have_gradients_of_zero() -> None:
    variant = attnlang.loads("attention masked:\n mask = causal\n")
    q = torch.ones(5, 0, 16, requires_grad=True)
    k, v = (torch.ones(9, 2, 16, requires_grad=True) for _ in range(2))
    torch.full((9, 2, 16), torch.nan)  # what freed memory holds
    variant.ragged(q, k, v, offsets([2, 3]), offsets([4, 5])).sum().backward()
    for x in (k, v):
        assert x.grad is not None
        assert torch.equal(x.grad, torch.zeros(9, 2, 16))
