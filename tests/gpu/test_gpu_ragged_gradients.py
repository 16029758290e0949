"""Gradients of ragged calls by GPU kernels, there and in the emulator, against the reference's."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from gallery_gradients import leaves
from ragged_gradients import check_gradients, differentiate, results
from ragged_inputs import WITHOUT_A_PLACE, Lengths, Packed, offsets, pack
from ragged_specs import SPECS, call_of
from support import EXAMPLES, PARAMS, Sizes, moved_tensor

import attnlang

HEADS = Sizes(1, 4, 2, 0, 0, 48, 32)
# Off every tile; none of queries, of keys, of both; as many as two blocks of rows.
LENGTHS = ((5, 40), (0, 7), (1, 0), (70, 150), (33, 33), (1, 1), (0, 0), (150, 20))
MORE = {
    # Biases of single elements: what all requests share, and what each head has for itself.
    "shared": "attention shared(t: float[R, C]):\n score = score + t[q_row, kv_col]\n",
    "apart": (
        "attention apart(t: float[B, R, C], u: float[HQ, R, C]):\n"
        " score = score + t[b, q_row, kv_col] + u[h, q_row, kv_col]\n mask = causal\n"
    ),
    "numbers": (  # Q, KV, B and b of a transform and an out expression are the request's
        "attention numbers(a: float[B, HQ], gate: float[B, Q, HQ]):\n"
        " q = q * (1 + 0.01 * Q + 0.1 * b)\n"
        " k = k if kv_idx % 2 == 0 else k * (0.01 * KV + B)\n"
        " score = score + a[b, h] * 0.1 + dot(k, k) * 0.01\n"
        " mask = kv_idx <= q_idx + b\n"
        " out = acc * gate[b, q_row, h] + row_sum * 0.1 * b + lse * 0.01\n"
    ),
    "dropped": (
        "attention dropped(p: float = 0.4):\n mask = causal\n"
        " weights = softmax(score) * dropout(p)\n"
    ),
}


def make(
    name: str, device: str, dtype: torch.dtype = torch.bfloat16, lengths: Lengths = LENGTHS
) -> Packed:
    if name in SPECS:
        return replace(call_of(name, dtype, lengths, HEADS), device=device)
    g = torch.Generator().manual_seed(len(name))
    b, q, kv = len(lengths), max(n for n, _ in lengths), max(n for _, n in lengths)
    params = {
        "shared": {"t": torch.randn(q, kv, generator=g)},
        "apart": {
            "t": torch.randn(b, q, kv, generator=g),
            "u": torch.randn(HEADS.hq, q, kv, generator=g),
        },
        "numbers": {
            "a": torch.randn(b, HEADS.hq, generator=g),
            "gate": torch.randn(b, q, HEADS.hq, generator=g),
        },
    }.get(name, {})
    call = pack(attnlang.loads(MORE[name]), lengths, HEADS, dtype, g, params)
    return replace(call, device=device)


def slow(*names: str) -> list[object]:
    return [pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize(
    "name", ["rows", *slow("causal", "lengths", "plain", "weights", "shared", "apart", "numbers")]
)
def test_each_request_agrees_with_the_reference(name: str, device: str) -> None:
    check_gradients(make(name, device), torch.Generator().manual_seed(7))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal", "rows"])
def test_float16(name: str, device: str) -> None:
    check_gradients(make(name, device, torch.float16), torch.Generator().manual_seed(7))


@pytest.mark.slow
def test_positions_and_dropout(device: str) -> None:
    keywords = {"q_offset": torch.arange(len(LENGTHS)) * 3, "kv_offset": 7, "scale": 0.3}
    check_gradients(make("causal", device), torch.Generator().manual_seed(8), **keywords)
    check_gradients(make("dropped", device), torch.Generator().manual_seed(9), seed=5)


GALLERY = [
    pytest.param(name, dim, marks=pytest.mark.slow, id=f"{name}-{dim}")
    for place, name in enumerate(sorted(set(PARAMS) - WITHOUT_A_PLACE - {"mla_absorbed"}))
    for dim in ((64, 128)[place % 2],)
]


@pytest.mark.parametrize(("name", "dim"), GALLERY)
def test_the_gallery(name: str, dim: int, device: str) -> None:
    """Every variant that a ragged call takes."""
    heads = Sizes(1, 4, 2, 0, 0, dim, dim)
    lengths = ((40, 90), (0, 3), (2, 0), (67, 33), (1, 1))
    dtype = (torch.bfloat16, torch.float16)[len(name) % 2]
    g = torch.Generator().manual_seed(3)
    call = pack(attnlang.load(EXAMPLES / f"{name}.attn"), lengths, heads, dtype, g)
    seed = {} if call.variant.ir.weights.dropout is None else {"seed": 1}
    check_gradients(replace(call, device=device), g, **seed)


def gradients(call: Packed) -> dict[str, torch.Tensor]:
    """Return the gradients of a sum, parameters' too."""
    with torch.no_grad():
        grads = [torch.ones_like(x) for x in results(call)]
    return differentiate(call, results, leaves(call.variant, call.params), grads)


def test_runs_repeat_and_a_request_is_what_it_would_be_alone(device: str) -> None:
    call = make("rows", device)
    found = gradients(call)
    assert all(torch.equal(x, found[n]) for n, x in gradients(call).items())
    for b in (0, 3, 4, 7):
        own = Packed(
            call.variant, (LENGTHS[b],),
            call.q[call.rows(b)], call.k[call.columns(b)], call.v[call.columns(b)],
            {n: t[b : b + 1] if n in ("bias", "gain") else t for n, t in call.params.items()},
            device,
        )  # fmt: skip
        rows = {n: call.rows(b) for n in ("q", "gain")}
        for n, got in gradients(own).items():
            assert torch.equal(got, found[n][rows.get(n, call.columns(b))]), n


def test_nothing_of_another_request_reaches_one(device: str) -> None:
    call = make("causal", device)
    found = gradients(call)
    b = 3
    places = {"q": call.rows(b), "k": call.columns(b), "v": call.columns(b)}
    poisoned = {n: torch.full_like(getattr(call, n), math.nan) for n in places}
    for n, rows in places.items():
        poisoned[n][rows] = getattr(call, n)[rows]
    got = gradients(replace(call, **poisoned))
    for n, rows in places.items():
        assert torch.equal(got[n][rows], found[n][rows])


@pytest.mark.parametrize("name", ["causal", "numbers"])
def test_offsets_may_lie_where_the_rows_do(name: str, device: str) -> None:
    call = make(name, device, lengths=LENGTHS[:3])
    params = {n: moved_tensor(x, device) for n, x in call.packed_params().items()}
    found = []
    for on in ("cpu", device):
        ends = (moved_tensor(x, on) for x in (call.q_indptr, call.kv_indptr))
        vectors = [x.detach().clone().requires_grad_() for x in call.vectors()]
        call.variant.ragged(*vectors, *ends, **params).float().square().sum().backward()
        found.append([x.grad for x in vectors])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_strided_rows_and_expanded_gradients(device: str) -> None:
    call = make("causal", device)
    ends = (moved_tensor(x, device) for x in (call.q_indptr, call.kv_indptr))
    q_indptr, kv_indptr = ends
    dense = [x.detach().clone().requires_grad_() for x in call.vectors()]
    wide = [x.new_full((x.shape[0], x.shape[1] + 1, 2 * x.shape[2]), math.nan) for x in dense]
    for memory, x in zip(wide, dense, strict=True):
        memory[:, 1:, ::2] = x.detach()
    strided = [x[:, 1:, ::2].requires_grad_() for x in wide]
    for q, k, v in (dense, strided):
        call.variant.ragged(q, k, v, q_indptr, kv_indptr).mean().backward()
    for a, b in zip(dense, strided, strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("lengths", [(), ((0, 0),), ((0, 5), (0, 3)), ((4, 0),)])
def test_no_request_and_no_row(lengths: Lengths, device: str) -> None:
    variant = attnlang.loads(SPECS["causal"])

    def ones(*shape: int) -> torch.Tensor:
        x = torch.ones(shape, dtype=torch.bfloat16)
        return moved_tensor(x, device).requires_grad_()

    rows, columns = (sum(n) for n in zip(*lengths, strict=True)) if lengths else (0, 0)
    q = ones(rows, HEADS.hq, HEADS.d)
    k, v = (ones(columns, HEADS.hkv, d) for d in (HEADS.d, HEADS.dv))
    ends = (offsets([n for n, _ in lengths]), offsets([n for _, n in lengths]))
    variant.ragged(q, k, v, *ends).sum().backward()
    for x in (q, k, v):
        assert x.grad is not None
        assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_in_one_graph(device: str) -> None:
    call = make("causal", device, lengths=LENGTHS[:4])
    ends = [moved_tensor(x, device) for x in (call.q_indptr, call.kv_indptr)]

    def function(q, k, v, q_indptr, kv_indptr):
        out, lse = call.variant.ragged(q * 2, k, v, q_indptr, kv_indptr, return_lse=True)
        return out.float().square().sum() + torch.where(lse.isneginf(), 0.0, lse).sum()

    torch._dynamo.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    found = []
    for each in (compiled, function):
        own = [x.detach().clone().requires_grad_() for x in call.vectors()]
        each(*own, *ends).backward()
        found.append([x.grad for x in own])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
