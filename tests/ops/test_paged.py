"""Paged calls against the float64 reference of each request: any page size, any layout, fp8."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from paged_inputs import FP8, Pool
from ragged_inputs import Packed, pack
from support import Sizes
from torch import Tensor

import attnlang

HEADS = Sizes(1, 4, 2, 0, 0, 40, 24)
LENGTHS = ((1, 40), (0, 7), (1, 0), (70, 300), (33, 33), (1, 1), (1, 517), (3, 2), (0, 0), (9, 64))
PAGES = (1, 3, 16, 64)
SPECS = {
    "causal": "attention paged_causal:\n mask = causal\n",
    "hidden": "attention paged_hidden(seen: bool[B, KV]):\n mask = causal and seen[b, kv_col]\n",
    "rope": "attention paged_rope:\n q = rope(q, q_idx)\n k = rope(k, kv_idx)\n mask = causal\n",
    "shared": "attention paged_shared:\n v = k[0:24]\n mask = causal\n",
    "gated": (
        "attention paged_gated(w: float[HKV, D], bias: float[B, HQ, KV]):\n"
        " score = score + dot(k, w[h_kv, d]) * sigmoid(bias[b, h, kv_col])\n mask = causal\n"
    ),
}


def call_of(name: str, dtype: torch.dtype, lengths=LENGTHS) -> Packed:
    g = torch.Generator().manual_seed(len(name))
    b, kv = len(lengths), max(kv for _, kv in lengths)
    params: dict[str, object] = {
        "hidden": {"seen": torch.rand(b, kv, generator=g) < 0.7},
        "gated": {
            "w": torch.randn(HEADS.hkv, HEADS.d, generator=g) / 6,
            "bias": torch.randn(b, HEADS.hq, kv, generator=g),
        },
    }.get(name, {})
    return pack(attnlang.loads(SPECS[name]), lengths, HEADS, dtype, g, params)


def pool_of(call: Packed, page: int) -> Pool:
    return Pool(call, page, torch.Generator().manual_seed(page))


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_pages_of_any_size_and_layout(dtype: torch.dtype, page: int) -> None:
    call = call_of("causal", dtype)
    pool = pool_of(call, page)
    assert call.v is not None
    ragged = call.call(return_lse=True)
    for hnd in (False, True):
        out, lse = pool.run(pool.spread(call.k, hnd=hnd), pool.spread(call.v, hnd=hnd))
        call.check(out, lse)
        assert torch.equal(out, ragged[0])
        assert torch.equal(lse, ragged[1])


@pytest.mark.parametrize("page", [1, 16])
@pytest.mark.parametrize("name", sorted(SPECS))
def test_transforms_and_parameters(name: str, page: int) -> None:
    call = call_of(name, torch.bfloat16)
    pool = pool_of(call, page)
    k, v = pool.spread(call.k), None if call.v is None else pool.spread(call.v)
    out, lse = pool.run(k, v)
    call.check(out, lse)
    paged = {"hidden": ("seen",), "gated": ("bias",)}.get(name, ())
    if paged:
        again, again_lse = pool.run(k, v, paged=paged)
        assert torch.equal(again, out)
        assert torch.equal(again_lse, lse)


def test_a_hidden_slot_may_hold_nan() -> None:
    call = call_of("hidden", torch.float32)
    pool = pool_of(call, 3)
    assert call.v is not None
    want = pool.run(pool.spread(call.k), pool.spread(call.v))
    seen = call.packed_params()["seen"]
    assert isinstance(seen, Tensor)
    k, v = call.k.clone(), call.v.clone()
    k[~seen], v[~seen] = torch.nan, torch.nan
    got = pool.run(pool.spread(k), pool.spread(v))
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("page", [1, 16])
@pytest.mark.parametrize("dtype", FP8, ids=str)
@pytest.mark.parametrize("element", [torch.float32, torch.bfloat16], ids=str)
def test_pages_of_one_byte_are_converted(
    element: torch.dtype, dtype: torch.dtype, page: int
) -> None:
    call = call_of("causal", element)
    assert call.v is not None
    pool = pool_of(call, page)
    k, v = pool.spread(call.k, dtype=dtype), pool.spread(call.v, dtype=dtype)
    k_scale, v_scale = torch.tensor([0.5, 1.75]), torch.tensor(3.0)
    stored = replace(
        call,
        k=(call.k.float().to(dtype).float() * k_scale[:, None]).to(element),
        v=(call.v.float().to(dtype).float() * v_scale).to(element),
    )
    out, lse = pool.run(k, v, k_scale=k_scale, v_scale=v_scale)
    if element == torch.float32:
        stored.check(out, lse)
    want, want_lse = stored.call(return_lse=True)
    assert torch.equal(out, want)
    assert torch.equal(lse, want_lse)


@pytest.mark.parametrize("dtype", FP8, ids=str)
@pytest.mark.parametrize("element", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_byte_reads_as_torch_reads_it(element: torch.dtype, dtype: torch.dtype) -> None:
    """Every code at every place of a row, whole registers or not, side by side or apart."""
    width = 40
    places = torch.arange(256).unsqueeze(1) + torch.arange(width)
    codes = (places % 256).to(torch.uint8).view(dtype).reshape(256, 1, 1, width)
    apart = torch.zeros(256, 1, 1, width, 2, dtype=torch.uint8).view(dtype)[..., 0]
    apart.copy_(codes)
    variant = attnlang.loads("attention one_key:\n score = score\n")
    op = variant.registered_op({}, "packed")
    each = torch.arange(257, dtype=torch.int32)
    q = torch.zeros(256, 1, width, dtype=element)
    k = torch.zeros(256, 1, 1, width).to(dtype)
    variant.ragged(q, q, q, each, each)  # builds the kernel
    for v, scale in ((codes, 1.0), (apart, 1.0), (codes, -1.7)):
        out, _, _ = op(
            q, k, v, q_indptr=each, page_indptr=each, page_indices=each[:256],
            kv_lens=torch.ones(256, dtype=torch.int32), v_scale=torch.tensor(scale),
        )  # fmt: skip
        want = (codes[:, 0].float() * torch.tensor(scale)).to(element)
        assert torch.equal(out.isnan(), want.isnan())
        finite = dict(nan=0.0, posinf=3e38, neginf=-3e38)
        assert torch.equal(out.float().nan_to_num(**finite), want.float().nan_to_num(**finite))


def test_scales_of_plain_pages() -> None:
    call = call_of("causal", torch.float32)
    assert call.v is not None
    pool = pool_of(call, 16)
    scale = torch.tensor([2.0, 0.25])
    stored = replace(call, k=call.k * scale[:, None], v=call.v * 0.5)
    out, lse = pool.run(
        pool.spread(call.k), pool.spread(call.v), k_scale=scale, v_scale=torch.tensor(0.5)
    )
    want, want_lse = stored.call(return_lse=True)
    assert torch.equal(out, want)
    assert torch.equal(lse, want_lse)


def test_threads_change_nothing() -> None:
    call = call_of("rope", torch.bfloat16, ((1, 5000), (80, 700), (1, 3)))
    pool = pool_of(call, 16)
    assert call.v is not None
    k, v = pool.spread(call.k), pool.spread(call.v)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(pool.run(k, v))
    finally:
        torch.set_num_threads(before)
    for out, lse in found[1:]:
        assert torch.equal(out, found[0][0])
        assert torch.equal(lse, found[0][1])


def test_the_part_of_the_keys_is_a_value_of_the_call() -> None:
    spec = "attention parts:\n score = score + 2 * part * kv_col\n mask = kv_idx % 3 != part\n"
    variant = attnlang.loads(spec)
    same = attnlang.loads(spec.replace("part *", "2 *").replace("!= part", "!= 2"))
    g = torch.Generator().manual_seed(0)
    lengths = ((1, 40), (70, 90))
    call = pack(variant, lengths, HEADS, torch.float32, g, {})
    assert call.v is not None
    pool = pool_of(call, 16)
    call.call()
    out, lse = pool.run(pool.spread(call.k), pool.spread(call.v), part=2)
    replace(call, variant=same).check(out, lse)


WRONG = {
    "page": ({"page_indices": torch.tensor([0, 9])}, "`page_indices`: page 9 of request 1, of 4"),
    "negative page": ({"page_indices": torch.tensor([-1, 0])}, "page -1 of request 0"),
    "few": ({"page_indices": torch.tensor([0])}, "not within the 1 numbers of request 1"),
    "long": ({"kv_lens": torch.tensor([9, 3])}, "9 of request 0, whose pages have 8 slots"),
    "negative": ({"kv_lens": torch.tensor([-1, 3])}, "`kv_lens`: -1 of request 0"),
    "no lengths": ({"kv_lens": None}, "expected the requests' lengths"),
    "lengths": ({"kv_lens": torch.tensor([3])}, "one integer, or one a request"),
    "count": ({"page_indptr": torch.tensor([0, 1])}, "`page_indptr`: expected as many"),
    "both": ({"kv_indptr": torch.tensor([0, 3, 9])}, "`kv_indptr`: expected it, or page_indptr"),
    "half": ({"page_indptr": None}, "`kv_indptr`: expected it, or page_indptr"),
    "scale": ({"k_scale": torch.ones(3)}, "`k_scale`: expected float32, one number or"),
    "mixed": ({"v": torch.zeros(4, 8, 2, 24).to(FP8[0])}, "`v`: expected the dtype of k"),
    "rank": ({"k": torch.zeros(4, 2, 40)}, r"4 dimensions \[pages, page, heads, head dim\]"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_the_op_refuses_a_wrong_table(case: str) -> None:
    change, text = WRONG[case]
    variant = attnlang.loads(SPECS["causal"])
    op = variant.registered_op({}, "packed")
    call = {
        "q": torch.zeros(3, 4, 40), "k": torch.zeros(4, 8, 2, 40), "v": torch.zeros(4, 8, 2, 24),
        "q_indptr": torch.tensor([0, 1, 3]), "page_indptr": torch.tensor([0, 1, 2]),
        "page_indices": torch.tensor([2, 0]), "kv_lens": torch.tensor([5, 3]),
    }  # fmt: skip
    op(**call)
    with pytest.raises(RuntimeError, match=text):
        op(**(call | change))
