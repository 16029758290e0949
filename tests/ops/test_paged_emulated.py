"""Pages by GPU kernels in the emulator: the packed op and plans, against the float64 reference.

Whatever no request uses holds NaN: spare pages, slots past a length.
"""

from __future__ import annotations

import pytest
import torch
from paged_inputs import Pool
from ragged_inputs import Packed, pack
from support import Sizes
from test_paged import SPECS

import attnlang

HEADS = Sizes(1, 8, 2, 0, 0, 48, 32)
LENGTHS = ((1, 40), (0, 7), (1, 0), (70, 130), (33, 33), (1, 1), (16, 90), (3, 2), (0, 0), (17, 65))


@pytest.fixture(autouse=True)
def _emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNLANG_EMULATE", "sm80")


def call_of(name: str, lengths=LENGTHS, dtype: torch.dtype = torch.bfloat16) -> Packed:
    g = torch.Generator().manual_seed(len(name))
    heads = HEADS if name != "shared" else Sizes(1, 8, 2, 0, 0, 48, 24)
    params: dict[str, object] = {}
    if name == "hidden":
        params["seen"] = torch.rand(len(lengths), max(kv for _, kv in lengths), generator=g) < 0.7
    return pack(attnlang.loads(SPECS[name]), lengths, heads, dtype, g, params)


def pool_of(call: Packed, page: int) -> Pool:
    return Pool(call, page, torch.Generator().manual_seed(page))


def run(call: Packed, page: int, *, hnd: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    pool = pool_of(call, page)
    v = None if call.v is None else pool.spread(call.v, hnd=hnd)
    out, lse = pool.run(pool.spread(call.k, hnd=hnd), v)
    assert lse is not None
    return out, lse


@pytest.mark.parametrize("page", [1, 3, 16, 64])
def test_pages_of_any_size_and_layout(page: int) -> None:
    call = call_of("causal")
    ragged = call.call(return_lse=True)
    for hnd in (False, True):
        out, lse = run(call, page, hnd=hnd)
        call.check(out, lse)
        assert torch.equal(out, ragged[0])
        assert torch.equal(lse, ragged[1])


@pytest.mark.slow
@pytest.mark.parametrize("page", [1, 16])
@pytest.mark.parametrize("target", ["sm80", "sm90"])
def test_transforms(page: int, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNLANG_EMULATE", target)
    call = call_of("rope", dtype=torch.float16)
    call.check(*run(call, page))


def test_long_requests_of_few_rows_are_cut_and_merged() -> None:
    call = call_of("causal", ((1, 2000), (2, 330), (16, 1100), (40, 300)))
    call.check(*run(call, 16))


def test_numbers_past_a_request_are_not_read() -> None:
    call = call_of("causal")
    pool = pool_of(call, 16)
    vectors = pool.spread(call.k), pool.spread(call.v)
    out, _ = pool.run(*vectors)
    pool.indices[-2:] = 2**40
    assert torch.equal(pool.run(*vectors)[0], out)


def cache_of(call: Packed, page: int) -> attnlang.PagedKV:
    pool = pool_of(call, page)
    last = pool.lens - (pool.indptr.diff() - 1).clamp(min=0) * page
    return attnlang.PagedKV(
        pool.spread(call.k), pool.spread(call.v), pool.indptr, pool.indices, last
    )


def test_a_plan_of_pages() -> None:
    call = call_of("causal")
    plan = call.variant.plan(call.q_indptr, cache_of(call, 16), num_q_heads=HEADS.hq)
    out, lse = plan.run(call.q, return_lse=True)
    call.check(out, lse)


def test_a_plan_of_ragged_keys() -> None:
    call = call_of("causal")
    plan = call.variant.plan(call.q_indptr, call.kv_indptr, num_q_heads=HEADS.hq)
    out, lse = plan.run(call.q, (call.k, call.v), return_lse=True)
    call.check(out, lse)


def test_shared_prefixes_are_merged() -> None:
    g = torch.Generator().manual_seed(3)
    pages = 4, 16
    k, v = (
        torch.randn(12, pages[1], HEADS.hkv, d, generator=g).bfloat16() for d in (HEADS.d, HEADS.dv)
    )
    indices = torch.tensor([0, 1, 2, 3, 0, 1, 2, 4, 5, 0, 1, 2, 6])
    cache = attnlang.PagedKV(k, v, torch.tensor([0, 4, 9, 13]), indices, torch.tensor([3, 16, 1]))
    q = torch.randn(3, HEADS.hq, HEADS.d, generator=g).bfloat16()
    variant = attnlang.loads(SPECS["causal"])
    found = []
    for share in (False, True):
        plan = variant.plan(torch.arange(4), cache, num_q_heads=HEADS.hq, share_prefixes=share)
        found.append(plan.run(q, return_lse=True))
    assert "shared" in repr(plan)
    torch.testing.assert_close(found[1][0], found[0][0], atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-3, rtol=1e-3)


def test_what_the_kernels_do_not_take_is_refused() -> None:
    call = call_of("causal")
    pool = pool_of(call, 16)
    stored = [pool.spread(x, dtype=torch.float8_e5m2) for x in (call.k, call.v)]
    with pytest.raises(RuntimeError, match="8-bit"):
        pool.run(*stored)
    cache = cache_of(call, 16)
    scaled = attnlang.PagedKV(
        cache.k_pages, cache.v_pages, cache.indptr, cache.indices, cache.last_page_len, k_scale=2.0
    )
    plan = call.variant.plan(call.q_indptr, scaled, num_q_heads=HEADS.hq)
    with pytest.raises(attnlang.CallError, match="`k_scale`: expected None, on a GPU"):
        plan.run(call.q)
    hidden = call_of("hidden")
    with pytest.raises(RuntimeError, match="over KV"):
        run(hidden, 16)
    plan = hidden.variant.plan(
        hidden.q_indptr, cache_of(hidden, 16), num_q_heads=HEADS.hq, **hidden.packed_params()
    )
    with pytest.raises(attnlang.CallError, match="over KV beside pages"):
        plan.run(hidden.q)


def test_a_product_of_keys_apart_runs_where_they_have_no_pages() -> None:
    spec = (
        "attention apart(w: float[HKV, D]):\n score = score + dot(k, w[h_kv, d])\n mask = causal\n"
    )
    g = torch.Generator().manual_seed(1)
    params = {"w": torch.randn(HEADS.hkv, HEADS.d, generator=g) / 6}
    call = pack(attnlang.loads(spec), LENGTHS, HEADS, torch.bfloat16, g, params)
    call.check(*call.call(return_lse=True))
    with pytest.raises(RuntimeError, match="reads k or v apart"):
        run(call, 16)
