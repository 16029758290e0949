"""Pages by GPU kernels in the emulator: the packed op and plans, against the float64 reference.

Whatever no request uses holds NaN: spare pages, slots past a length.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from paged_inputs import FP8, Pool
from ragged_inputs import Packed, pack
from support import Sizes
from test_paged import SPECS as CPU_SPECS

import attnlang

SPECS = CPU_SPECS | {"within": "attention paged_within:\n v = k[16:48]\n mask = causal\n"}
HEADS = Sizes(1, 8, 2, 0, 0, 48, 32)
LENGTHS = ((1, 40), (0, 7), (1, 0), (70, 130), (33, 33), (1, 1), (16, 90), (3, 2), (0, 0), (17, 65))


@pytest.fixture(autouse=True)
def _emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNLANG_EMULATE", "sm80")


def call_of(name: str, lengths=LENGTHS, dtype: torch.dtype = torch.bfloat16) -> Packed:
    g = torch.Generator().manual_seed(len(name))
    params: dict[str, object] = {}
    if name == "hidden":
        params["seen"] = torch.rand(len(lengths), max(kv for _, kv in lengths), generator=g) < 0.7
    return pack(attnlang.loads(SPECS[name]), lengths, HEADS, dtype, g, params)


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


def as_stored(call: Packed, dtype: torch.dtype, k_scale: object, v_scale: object) -> Packed:
    """Return the call whose keys and values are what converted pages hold."""

    def read(x: torch.Tensor, scale: object) -> torch.Tensor:
        per_head = torch.as_tensor(1.0 if scale is None else scale).float()
        return (x.to(dtype).float() * per_head.reshape(-1, 1)).to(x.dtype)

    return replace(
        call, k=read(call.k, k_scale), v=None if call.v is None else read(call.v, v_scale)
    )


@pytest.mark.parametrize("page", [1, 16])
@pytest.mark.parametrize("dtype", FP8, ids=str)
def test_pages_of_one_byte_are_converted(dtype: torch.dtype, page: int) -> None:
    call = call_of("causal", dtype=(torch.bfloat16, torch.float16)[page == 1])
    pool = pool_of(call, page)
    k_scale, v_scale = torch.tensor([0.5, 1.75]), torch.tensor(3.0)
    want = as_stored(call, dtype, k_scale, v_scale).call(return_lse=True)
    for hnd in (False, True):
        k, v = (pool.spread(x, dtype=dtype, hnd=hnd) for x in (call.k, call.v))
        out, lse = pool.run(k, v, k_scale=k_scale, v_scale=v_scale)
        assert torch.equal(out, want[0])
        assert torch.equal(lse, want[1])
    as_stored(call, dtype, k_scale, v_scale).check(out, lse)


def test_scales_of_plain_pages() -> None:
    call = call_of("causal")
    pool = pool_of(call, 16)
    want = as_stored(call, torch.bfloat16, 0.3, None).call(return_lse=True)
    out, lse = pool.run(pool.spread(call.k), pool.spread(call.v), k_scale=torch.tensor(0.3))
    assert torch.equal(out, want[0])
    assert torch.equal(lse, want[1])


@pytest.mark.parametrize("name", ["rope", "within"])
def test_transforms_of_pages_of_one_byte(name: str) -> None:
    call = call_of(name, ((1, 40), (33, 33), (0, 9), (3, 70)))
    dtype, scale = torch.float8_e4m3fn, torch.tensor([2.0, 0.7])
    want = as_stored(call, dtype, scale, scale).call(return_lse=True)
    pool = pool_of(call, 16)
    v = None if call.v is None else pool.spread(call.v, dtype=dtype)
    scales = {"k_scale": scale} if v is None else {"k_scale": scale, "v_scale": scale}
    out, lse = pool.run(pool.spread(call.k, dtype=dtype), v, **scales)
    assert torch.equal(out, want[0])
    assert torch.equal(lse, want[1])


@pytest.mark.parametrize("dtype", FP8, ids=str)
@pytest.mark.parametrize("element", [torch.bfloat16, torch.float16], ids=str)
def test_every_byte_reads_as_torch_reads_it(element: torch.dtype, dtype: torch.dtype) -> None:
    """Every code at every place of a row, side by side or apart; a scale near float32's end."""
    width = 48
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
    for v, scale in ((codes, 1.0), (apart, 1.0), (codes, -1.7), (codes, 1e37)):
        out, _, _ = op(
            q, k, v, q_indptr=each, page_indptr=each, page_indices=each[:256],
            kv_lens=torch.ones(256, dtype=torch.int32), v_scale=torch.tensor(scale),
        )  # fmt: skip
        want = (codes[:, 0].float() * torch.tensor(scale)).to(element)
        assert torch.equal(out.isnan(), want.isnan())
        finite = dict(nan=0.0, posinf=3e38, neginf=-3e38)
        assert torch.equal(out.float().nan_to_num(**finite), want.float().nan_to_num(**finite))


def test_a_plan_of_pages_of_one_byte() -> None:
    call = call_of("causal")
    cache = cache_of(call, 16)
    scales = {"k_scale": 0.5, "v_scale": torch.tensor([2.0, 0.25])}
    dtype = torch.float8_e5m2
    pools = cache.k_pages.to(dtype), cache.v_pages.to(dtype)
    stored = attnlang.PagedKV(*pools, cache.indptr, cache.indices, cache.last_page_len, **scales)
    plan = call.variant.plan(call.q_indptr, stored, num_q_heads=HEADS.hq)
    out, lse = plan.run(call.q, return_lse=True)
    as_stored(call, dtype, **scales).check(out, lse)


def test_what_the_kernels_do_not_take_is_refused() -> None:
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
