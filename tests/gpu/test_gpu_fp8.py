"""Pages of 8-bit floats and scales by GPU kernels, on a GPU and in the emulator."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from paged_inputs import FP8
from ragged_inputs import Packed
from support import moved, moved_tensor, sample
from test_gpu_packed import HEADS, call_of, pool_of

import attnlang


def as_stored(call: Packed, dtype: torch.dtype, k_scale: object, v_scale: object) -> Packed:
    """Return the call whose keys and values are what converted pages hold."""

    def read(x: torch.Tensor, scale: object) -> torch.Tensor:
        per_head = torch.as_tensor(1.0 if scale is None else scale).float()
        return (x.to(dtype).float() * per_head.reshape(-1, 1)).to(x.dtype)

    return replace(
        call, k=read(call.k, k_scale), v=None if call.v is None else read(call.v, v_scale)
    )


def assert_near(
    found: tuple[torch.Tensor, torch.Tensor], want: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Products with 8-bit floats sum in another order; a scale multiplies what they give."""
    eps = torch.finfo(want[0].dtype).eps
    torch.testing.assert_close(found[0], want[0], rtol=2 * eps, atol=eps)
    torch.testing.assert_close(found[1], want[1], rtol=1e-6, atol=1e-5)


E4M3, E5M2 = FP8


@pytest.mark.parametrize(
    "case",
    sample([(d, page) for d in FP8 for page in (1, 16)], (E4M3, 16), (E5M2, 1)),
    ids=lambda c: f"{c[0]}-{c[1]}",
)
def test_pages_of_one_byte_are_converted(case: tuple[torch.dtype, int], device: str) -> None:
    dtype, page = case
    call = call_of("causal", device, dtype=(torch.bfloat16, torch.float16)[page == 1])
    pool = pool_of(call, page)
    k_scale, v_scale = torch.tensor([0.5, 1.75]), torch.tensor(3.0)
    want = as_stored(call, dtype, k_scale, v_scale).call(return_lse=True)
    for hnd in (False, True):
        k, v = (pool.spread(x, dtype=dtype, hnd=hnd) for x in (call.k, call.v))
        out, lse = pool.run(k, v, k_scale=k_scale, v_scale=v_scale)
        assert_near((out, lse), want)
    as_stored(call, dtype, k_scale, v_scale).check(out, lse)


def test_scales_of_plain_pages(device: str) -> None:
    call = call_of("causal", device)
    pool = pool_of(call, 16)
    want = as_stored(call, torch.bfloat16, 0.3, None).call(return_lse=True)
    out, lse = pool.run(pool.spread(call.k), pool.spread(call.v), k_scale=torch.tensor(0.3))
    assert torch.equal(out, want[0])
    assert torch.equal(lse, want[1])


@pytest.mark.parametrize("name", sample(["rope", "within", "slice"], "within"))
def test_transforms_of_pages_of_one_byte(name: str, device: str) -> None:
    call = call_of(name, device, ((1, 40), (33, 33), (0, 9), (3, 70)))
    dtype, scale = torch.float8_e4m3fn, torch.tensor([2.0, 0.75])  # products are exact
    want = as_stored(call, dtype, scale, scale).call(return_lse=True)
    pool = pool_of(call, 16)
    v = None if call.v is None else pool.spread(call.v, dtype=dtype)
    scales = {"k_scale": scale} if v is None else {"k_scale": scale, "v_scale": scale}
    out, lse = pool.run(pool.spread(call.k, dtype=dtype), v, **scales)
    assert_near((out, lse), want)


BYTES = [(element, dtype) for element in (torch.bfloat16, torch.float16) for dtype in FP8]


@pytest.mark.parametrize("case", sample(BYTES, BYTES[0], BYTES[-1]), ids=lambda c: f"{c[0]}-{c[1]}")
def test_every_byte_reads_as_torch_reads_it(
    case: tuple[torch.dtype, torch.dtype], device: str
) -> None:
    """Every code at every place of a row, side by side or apart; a scale near float32's end."""
    element, dtype = case
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
    q, k, each = (x.to(device) for x in (q, k, each))
    variant.ragged(q, q, q, each, each)  # builds the kernel
    for stored, scale in ((codes, 1.0), (apart, 1.0), (codes, -1.7), (codes, 1e37)):
        tables = {
            "q_indptr": each, "page_indptr": each, "page_indices": each[:256],
            "kv_lens": torch.ones(256, dtype=torch.int32, device=device),
            "v_scale": torch.tensor(scale, device=device),
        }  # fmt: skip
        out = op(q, k, moved_tensor(stored, device), **tables)[0].cpu()
        want = (codes[:, 0].float() * torch.tensor(scale)).to(element)
        assert torch.equal(out.isnan(), want.isnan())
        finite = dict(nan=0.0, posinf=3e38, neginf=-3e38)
        assert torch.equal(out.float().nan_to_num(**finite), want.float().nan_to_num(**finite))


def test_queries_of_any_size_meet_keys_of_one_byte(device: str) -> None:
    """Products with keys of 8 bits take a row of queries times a power of two, as halves."""
    call = call_of("causal", device, ((1, 70), (2, 40), (3, 90)))
    rows = torch.tensor([1.0, 2.0**-110, 2.0**60, 0.0, 2.0**15, 2.0**-14])
    entries = torch.where(torch.arange(HEADS.d) % 5 == 0, 1.0, 2.0**-20)
    call = replace(call, q=(call.q.float() * rows.reshape(-1, 1, 1) * entries).bfloat16())
    dtype, scale = torch.float8_e4m3fn, torch.tensor([0.5, 3.0])
    want = as_stored(call, dtype, scale, None).call(return_lse=True)
    pool = pool_of(call, 16)
    k, v = (pool.spread(x, dtype=dtype) for x in (call.k, call.v))
    assert_near(pool.run(k, v, k_scale=scale), want)


def test_many_small_weights_beside_a_large_one(device: str) -> None:
    """Weights near 2^-29 of the largest, which a half cannot hold, decide what out is."""
    call = call_of("causal", device, ((1, 500),))
    q, k = torch.zeros_like(call.q), torch.zeros_like(call.k)
    q[..., 0], k[..., 0] = HEADS.d**0.5, -12.0
    k[7, :, 0] = 8.0
    v = torch.full_like(call.v, 448.0)
    v[7] = 0.0
    call = replace(call, q=q, k=k, v=v)
    want = call.call(return_lse=True)
    pool = pool_of(call, 16)
    for dtype in FP8:
        got = pool.run(*(pool.spread(x, dtype=dtype) for x in (k, v)))
        torch.testing.assert_close(got[0], want[0], rtol=2e-2, atol=0)
        assert (got[0] > 0).all()


def test_a_plan_of_pages_of_one_byte(device: str) -> None:
    call = call_of("causal", device)
    (q, *_) = call.vectors()
    cache = pool_of(call, 16).cache()
    scales = {"k_scale": 0.5, "v_scale": torch.tensor([2.0, 0.25])}
    dtype = torch.float8_e5m2
    pools = cache.k_pages.to(dtype), cache.v_pages.to(dtype)
    stored = attnlang.PagedKV(
        *pools, cache.indptr, cache.indices, cache.last_page_len, **moved(scales, device)
    )
    plan = call.variant.plan(call.q_indptr, stored, num_q_heads=HEADS.hq)
    out, lse = plan.run(q, return_lse=True)
    as_stored(call, dtype, **scales).check(out.cpu(), lse.cpu())
