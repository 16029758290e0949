"""What packed kernels bring together or sum up before, on a GPU and in the emulator.

Tensors over KV beside pages, dot products of keys in pages, facts of tensors along rows and
columns.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from paged_inputs import FP8
from ragged_inputs import Lengths, Packed, pack
from support import Sizes, moved, moved_tensor
from test_gpu_fp8 import as_stored
from test_gpu_packed import HEADS, LENGTHS, pool_of

import attnlang

SPECS = {
    "hidden": "attention paged_hidden(seen: bool[B, KV]):\n mask = causal and seen[b, kv_col]\n",
    "both": (
        "attention paged_both(bias: float[B, HQ, KV], gain: float[B, Q, HQ], c: float[HQ, KV]):\n"
        " score = score * gain[b, q_row, h] + bias[b, h, kv_col] + c[h, kv_col]\n mask = causal\n"
    ),
    "gated": (
        "attention paged_gated(w: float[HKV, D], bias: float[B, HQ, KV]):\n"
        " score = score + dot(k, w[h_kv, d]) * sigmoid(bias[b, h, kv_col])\n mask = causal\n"
    ),
    "apart": (
        "attention paged_apart(w: float[HKV, D]):\n"
        " score = score + dot(k, w[h_kv, d])\n mask = causal\n"
    ),
    "rope_apart": (
        "attention paged_rope_apart(w: float[HKV, D]):\n"
        " score = score + dot(k, w[h_kv, d])\n"
        " q = rope(q, q_idx)\n k = rope(k, kv_idx)\n mask = causal\n"
    ),
    "documents": (
        "attention paged_documents(doc: int[B, KV]):\n"
        " mask = causal and doc[b, q_idx] == doc[b, kv_idx]\n"
    ),
    "spans": (
        "attention paged_spans(doc: int[B, KV]):\n"
        " mask = abs(doc[b, q_idx] - doc[b, kv_col]) < 1 and kv_idx <= q_idx\n"
    ),
}
KEY_TENSORS = {"hidden": ("seen",), "gated": ("bias",), "both": ("bias",)}


def call_of(name: str, device: str, lengths: Lengths = LENGTHS) -> Packed:
    g = torch.Generator().manual_seed(len(name))
    b, q, kv = len(lengths), max(q for q, _ in lengths), max(kv for _, kv in lengths)
    drawn = {
        "seen": torch.rand(b, kv, generator=g) < 0.7,
        "bias": torch.randn(b, HEADS.hq, kv, generator=g),
        "gain": torch.rand(b, q, HEADS.hq, generator=g) + 0.5,
        "c": torch.randn(HEADS.hq, kv, generator=g),
        "w": torch.randn(HEADS.hkv, HEADS.d, generator=g) / 6,
    }
    variant = attnlang.loads(SPECS[name])
    params = {p.name: drawn[p.name] for p in variant.ir.params}
    call = pack(variant, lengths, HEADS, torch.bfloat16, g, params)
    return replace(call, device=device)


@pytest.mark.parametrize("page", [1, 16])
@pytest.mark.parametrize(
    "name", ["both", *(pytest.param(n, marks=pytest.mark.slow) for n in ("hidden", "gated"))]
)
def test_tensors_over_keys_by_rows_and_by_pages(name: str, page: int, device: str) -> None:
    call = call_of(name, device)
    ragged = call.call(return_lse=True)
    call.check(*ragged)
    pool = pool_of(call, page)
    k, v = pool.spread(call.k), pool.spread(call.v)
    for paged in ((), KEY_TENSORS[name]):
        out, lse = pool.run(k, v, paged=paged)
        assert torch.equal(out, ragged[0])
        assert torch.equal(lse, ragged[1])


def test_a_plan_with_a_tensor_over_keys(device: str) -> None:
    call = call_of("both", device)
    pool, (q, *_) = pool_of(call, 16), call.vectors()
    params = moved(call.packed_params(), device)
    pages = moved_tensor(pool.spread(call.packed_params()["bias"]), device)
    plan = call.variant.plan(call.q_indptr, pool.cache(), num_q_heads=HEADS.hq)
    by_rows = plan.run(q, return_lse=True, **params)
    by_pages = plan.run(q, return_lse=True, **params | {"bias": attnlang.Paged(pages)})
    call.check(*(x.cpu() for x in by_rows))
    assert torch.equal(by_pages[0], by_rows[0])


@pytest.mark.parametrize("page", [1, 16])
@pytest.mark.parametrize("name", ["apart", pytest.param("rope_apart", marks=pytest.mark.slow)])
def test_products_of_keys_apart(name: str, page: int, device: str) -> None:
    call = call_of(name, device)
    ragged = call.call(return_lse=True)
    call.check(*ragged)
    pool = pool_of(call, page)
    out, lse = pool.run(pool.spread(call.k, hnd=True), pool.spread(call.v))
    assert torch.equal(out, ragged[0])
    assert torch.equal(lse, ragged[1])
    k_scale = torch.tensor([0.5, 1.75])
    want = as_stored(call, FP8[0], k_scale, None).call(return_lse=True)
    out, lse = pool.run(*(pool.spread(x, dtype=FP8[0]) for x in (call.k, call.v)), k_scale=k_scale)
    assert torch.equal(out, want[0])
    assert torch.equal(lse, want[1])


@pytest.mark.parametrize("name", ["documents", pytest.param("spans", marks=pytest.mark.slow)])
def test_tiles_that_tensors_hide_are_not_visited(name: str, device: str) -> None:
    """Values are NaN where no row of the tile's document looks: a visit would show in the sums."""
    lengths = ((5, 5), (768, 768), (1, 3), (2, 640))
    length = 384  # of a document: a multiple of every tile's rows and columns
    documents = torch.arange(768).expand(len(lengths), -1) // length
    g, heads = torch.Generator().manual_seed(0), Sizes(1, 2, 1, 0, 0, 48, 32)
    params: dict[str, object] = {"doc": documents.int()}
    call = pack(attnlang.loads(SPECS[name]), lengths, heads, torch.bfloat16, g, params)
    call = replace(call, device=device)
    ragged = call.call(return_lse=True)
    call.check(*ragged)
    v = call.v.clone()
    for b in (1, 3):  # the last request's rows are of its last document
        first = call.columns(b).start
        v[first : first + length] = torch.nan
    hidden, pool = replace(call, v=v), pool_of(call, 16)
    later = slice(call.rows(1).start + length, call.rows(1).stop)
    for out in (hidden.call(), pool.run(pool.spread(call.k), pool.spread(v))[0]):
        assert out[call.rows(1)][:length].isnan().any()
        for rows in (later, call.rows(3)):
            assert torch.equal(out[rows], ragged[0][rows])


def test_a_tensor_of_all_requests_is_as_long_as_the_longest(device: str) -> None:
    call = call_of("both", device)
    short = call.params["c"][:, :-1]
    shorter = replace(call, params=call.params | {"c": short})
    text = "`c`: expected shape .HQ = 8, KV >= 130, for the longest request"
    plan = call.variant.plan(call.q_indptr, pool_of(call, 16).cache(), num_q_heads=HEADS.hq)
    with pytest.raises(attnlang.CallError, match=text):
        plan.run(call.vectors()[0], **moved(shorter.packed_params(), device))
    with pytest.raises(attnlang.CallError, match=text):
        shorter.call()
