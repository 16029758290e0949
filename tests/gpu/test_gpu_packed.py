"""Pages by GPU kernels, on a GPU and in the emulator: the packed op and plans.

Whatever no request uses holds NaN: spare pages, slots past a length.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import replace

import pytest
import torch
from gpu_places import ON_GPU, capture
from paged_inputs import Pool
from ragged_inputs import Lengths, Packed, pack
from support import Sizes, moved, moved_tensor

import attnlang
from attnlang.ops.serving_plan import Plan

HEADS = Sizes(1, 8, 2, 0, 0, 48, 32)
LENGTHS = ((1, 40), (0, 7), (1, 0), (70, 130), (33, 33), (1, 1), (16, 90), (3, 2), (0, 0), (17, 65))


SPECS = {
    "causal": "attention paged_causal:\n mask = causal\n",
    "rope": "attention paged_rope:\n q = rope(q, q_idx)\n k = rope(k, kv_idx)\n mask = causal\n",
    "shared": "attention paged_shared:\n v = k[0:32]\n mask = causal\n",
    "window": (
        "attention paged_window(window_size: int = 21, cap: float = 5.0):\n"
        " score = cap * tanh(score / cap)\n"
        " mask = kv_idx <= q_idx and q_idx - kv_idx < window_size\n"
    ),
    "heads": "attention paged_heads(gain: float[HQ]):\n score = score * gain[h]\n mask = causal\n",
    "sink": (
        "attention paged_sink(sink: float[HQ]):\n"
        " mask = causal\n weights = softmax(score, sink=sink[h])\n"
    ),
    "offsets": (  # what a row may see begins where a tensor says
        "attention paged_offsets(first: int[B, Q], gain: float[B]):\n"
        " score = gain[b] * score\n mask = kv_idx >= first[b, q_row] and causal\n"
    ),
    "slice": "attention paged_slice:\n v = k[4:20]\n mask = causal\n",
    "within": "attention paged_within:\n v = k[16:48]\n mask = causal\n",
    "weights": "attention paged_weights:\n weights = sigmoid(score - 1)\n mask = causal\n",
    "hidden": "attention paged_hidden(seen: bool[B, KV]):\n mask = causal and seen[b, kv_col]\n",
}


def call_of(
    name: str, device: str, lengths: Lengths = LENGTHS, dtype: torch.dtype = torch.bfloat16
) -> Packed:
    g = torch.Generator().manual_seed(len(name))
    b, q, kv = len(lengths), max(q for q, _ in lengths), max(kv for _, kv in lengths)
    params: dict[str, object] = {
        "hidden": {"seen": torch.rand(b, kv, generator=g) < 0.7},
        "sink": {"sink": torch.randn(HEADS.hq, generator=g)},
        "heads": {"gain": torch.rand(HEADS.hq, generator=g)},
        "offsets": {
            "first": torch.randint(0, 9, (b, q), generator=g), "gain": torch.rand(b, generator=g)
        },
    }.get(name, {})  # fmt: skip
    call = pack(attnlang.loads(SPECS[name]), lengths, HEADS, dtype, g, params)
    return replace(call, device=device)


def pool_of(call: Packed, page: int) -> Pool:
    return Pool(call, page, torch.Generator().manual_seed(page))


def run(call: Packed, page: int, *, hnd: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
    pool = pool_of(call, page)
    v = None if call.v is None else pool.spread(call.v, hnd=hnd)
    return pool.run(pool.spread(call.k, hnd=hnd), v)


@pytest.mark.parametrize("page", [1, 3, 16, 64])
def test_pages_of_any_size_and_layout(page: int, device: str) -> None:
    call = call_of("causal", device)
    ragged = call.call(return_lse=True)
    for hnd in (False, True):
        out, lse = run(call, page, hnd=hnd)
        call.check(out, lse)
        assert torch.equal(out, ragged[0])
        assert torch.equal(lse, ragged[1])


@pytest.mark.parametrize(
    "name", ["rope", *(pytest.param(n, marks=pytest.mark.slow) for n in SPECS if n != "rope")]
)
def test_each_request_agrees_with_the_reference(name: str, device: str) -> None:
    for page, dtype in ((1, torch.float16), (16, torch.bfloat16)):
        call = call_of(name, device, dtype=dtype)
        call.check(*run(call, page))


def test_long_requests_of_few_rows_are_cut_and_merged(device: str) -> None:
    call = call_of("causal", device, ((1, 2000), (2, 330), (16, 1100), (40, 300)))
    call.check(*run(call, 16))


def test_numbers_past_a_request_are_not_read(device: str) -> None:
    call = call_of("causal", device)
    pool = pool_of(call, 16)
    vectors = pool.spread(call.k), pool.spread(call.v)
    out, _ = pool.run(*vectors)
    pool.indices[-2:] = 2**40
    assert torch.equal(pool.run(*vectors)[0], out)


def plan_of(call: Packed, page: int, **options: object) -> Plan:
    frozen = {}
    if call.variant.ir.name in ("paged_offsets", "paged_hidden"):
        frozen = {n: x for n, x in moved(call.packed_params(), call.device).items() if n != "gain"}
    cache = pool_of(call, page).cache(layout="HND" if page == 16 else "NHD")
    return call.variant.plan(call.q_indptr, cache, num_q_heads=HEADS.hq, **frozen, **options)


def later_params(call: Packed) -> dict[str, object]:
    """Return the parameters that belong to a plan's run."""
    params = moved(call.packed_params(), call.device)
    return {n: x for n, x in params.items() if n not in ("first", "seen")}


@pytest.mark.parametrize(
    "name", ["causal", *(pytest.param(n, marks=pytest.mark.slow) for n in ("offsets", "sink"))]
)
@pytest.mark.parametrize("page", [1, 16])
def test_a_plan_of_pages(name: str, page: int, device: str) -> None:
    call = call_of(name, device)
    (q, *_), params = call.vectors(), later_params(call)
    plan = plan_of(call, page)
    out, lse = plan.run(q, return_lse=True, **params)
    assert out.device == q.device
    call.check(out.cpu(), lse.cpu())
    again = plan.run(q, **params)
    assert torch.equal(again, out)


def test_a_plan_of_ragged_keys(device: str) -> None:
    call = call_of("causal", device)
    q, k, v = call.vectors()
    plan = call.variant.plan(call.q_indptr, call.kv_indptr, num_q_heads=HEADS.hq)
    out, lse = plan.run(q, (k, v), return_lse=True)
    call.check(out.cpu(), lse.cpu())
    plan.update(call.q_indptr, call.kv_indptr)
    assert torch.equal(plan.run(q, (k, v)), out)
    with pytest.raises(attnlang.CallError, match="`q`"):
        plan.run(q.to("meta"), (k, v))


def test_a_plan_of_ragged_keys_is_updated_to_more_or_fewer(device: str) -> None:
    """With maxima its schedules last from step to step; those of other sums of keys do not."""
    steps = [call_of("causal", device, lengths) for lengths in (LENGTHS[:4], LENGTHS[2:5])]
    rows = max(step.vectors()[0].shape[0] for step in steps)
    plan = steps[0].variant.plan(
        steps[0].q_indptr, steps[0].kv_indptr, num_q_heads=HEADS.hq, max_requests=5,
        max_q_tokens=rows,
    )  # fmt: skip
    for step in (*steps, steps[0], steps[1]):
        q, k, v = step.vectors()
        plan.update(step.q_indptr, step.kv_indptr)
        spare = torch.full((rows - q.shape[0], *q.shape[1:]), torch.nan).to(q)
        out, lse = plan.run(torch.cat([q, spare]), (k, v), return_lse=True)
        step.check(out[: q.shape[0]].cpu(), lse[: q.shape[0]].cpu())
        assert len(plan.balance) <= 2


def test_an_update_plans_another_step(device: str) -> None:
    steps = [call_of("causal", device, lengths) for lengths in (LENGTHS[:4], LENGTHS[3:])]
    limits = {"max_requests": 10, "max_q_tokens": 200, "max_pages": 64}
    plan = plan_of(steps[0], 16, **limits)
    for step in (*steps, steps[0]):
        cache = pool_of(step, 16).cache()
        plan.update(step.q_indptr, cache)
        (q, *_) = step.vectors()
        out, lse = plan.run(q, (cache.k_pages, cache.v_pages), return_lse=True)
        step.check(out.cpu(), lse.cpu())
    with pytest.raises(attnlang.CallError, match="`max_pages`: expected 177 or more"):
        plan.update(steps[0].q_indptr, pool_of(steps[0], 1).cache())


def test_a_spec_may_read_how_many_requests_there_are(device: str) -> None:
    """Maxima do not change what `B` is."""
    variant = attnlang.loads("attention counted:\n score = score * B / 4\n mask = causal\n")
    g = torch.Generator().manual_seed(0)
    call = replace(pack(variant, LENGTHS[3:7], HEADS, torch.bfloat16, g, {}), device=device)
    plan = plan_of(call, 16, max_requests=9, max_pages=40)
    (q, *_) = call.vectors()
    out, lse = plan.run(q, return_lse=True)
    call.check(out.cpu(), lse.cpu())


def test_append_writes_where_the_pages_are(device: str) -> None:
    call = call_of("causal", device)
    _, k, v = call.vectors()
    cache = pool_of(call, 16).cache()
    cache.k_pages.fill_(math.nan)
    cache.v_pages.fill_(math.nan)
    positions = torch.cat([torch.arange(kv) for _, kv in LENGTHS])
    cache.append(k, v, positions, call.kv_indptr)
    plan = call.variant.plan(call.q_indptr, cache, num_q_heads=HEADS.hq)
    (q, *_) = call.vectors()
    out, lse = plan.run(q, return_lse=True)
    call.check(out.cpu(), lse.cpu())


@pytest.mark.parametrize("name", ["causal", pytest.param("sink", marks=pytest.mark.slow)])
def test_a_captured_plan_sees_later_keys(name: str, device: str) -> None:
    call = call_of(name, device)
    (q, *_), params = call.vectors(), later_params(call)
    pool = pool_of(call, 16)
    cache = pool.cache()
    plan = call.variant.plan(call.q_indptr, cache, num_q_heads=HEADS.hq)
    out, replay = capture(device, lambda: plan.run(q, **params))
    g = torch.Generator().manual_seed(1)
    for _ in range(2):
        q_rows, k, v = (
            torch.randn(x.shape, generator=g).to(x.dtype) for x in (call.q, call.k, call.v)
        )
        later = replace(call, q=q_rows, k=k, v=v)
        q.copy_(q_rows)
        cache.k_pages.copy_(pool.spread(k))
        cache.v_pages.copy_(pool.spread(v))
        out.fill_(math.nan)
        replay()
        later.check(out.cpu(), later.call(return_lse=True)[1])


# Skewed: one request has most of the keys, of few rows and of many.
SKEWED = ((1, 2000), (1, 40), (0, 9), (16, 1100), (70, 1300), (1, 1), (3, 0))


@pytest.mark.parametrize(
    "name",
    [
        "causal",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("window", "offsets", "weights")),
    ],
)
def test_a_plan_spreads_the_work(name: str, device: str) -> None:
    """What is cut is merged; no block has much more to do than the mean, or the least piece."""
    call = call_of(name, device, SKEWED)
    (q, *_), params = call.vectors(), later_params(call)
    plan = plan_of(call, 16)
    softmax = name != "weights"
    found = plan.run(q, return_lse=softmax, **params)
    out, lse = found if softmax else (found, None)
    call.check(out.cpu(), None if lse is None else lse.cpu())
    assert torch.equal(plan.run(q, **params), out)
    for balance, least in zip(
        plan.balance, (8, 4), strict=True
    ):  # tiles of a piece: few rows, many
        assert balance.chunks > balance.items or name == "window"
        assert balance.largest <= max(balance.mean + 2 * least + 1, 3 * least + 1)
    assert plan.workspace_bytes > 2 * 132 * 16 * HEADS.dv * 4


@pytest.mark.parametrize(
    "device",
    [pytest.param("sm90", marks=pytest.mark.slow), pytest.param("cuda", marks=ON_GPU)],
    indirect=True,
)
def test_what_is_cut_follows_the_rows_that_there_are(device: str) -> None:
    """One long prompt is cut, whatever rows q has to spare; as many as fill a GPU are not."""
    rows = 70 * 128
    prompts = ((128, 128),) * 70
    for lengths, is_cut in ((((150, 2000),), True), (prompts, False)):
        call = call_of("causal", device, lengths)
        plan = plan_of(call, 16, max_q_tokens=rows, max_requests=70)
        q = torch.full((rows, HEADS.hq, HEADS.d), math.nan, dtype=torch.bfloat16)
        q[: call.q.shape[0]] = call.q
        out, lse = plan.run(moved_tensor(q, device), return_lse=True)
        few, *many = plan.balance
        assert few.items == 0
        assert [balance.chunks > balance.items for balance in many] == [True] * is_cut
        used = slice(0, call.q.shape[0])
        if is_cut:
            call.check(out[used].cpu(), lse[used].cpu())
        else:
            assert torch.equal(out[used].cpu(), run(call, 16)[0])


def test_a_captured_plan_sees_an_update(device: str) -> None:
    """Another number of requests, other lengths, more pages, up to the maxima."""
    steps = [
        call_of("offsets", device, lengths)
        for lengths in (
            ((1, 40), (1, 90)),
            ((1, 1), (20, 1000), (1, 390), (0, 0)),
            ((1, 5), (9, 9)),
        )
    ]
    limits = {"max_requests": 5, "max_q_tokens": 30, "max_pages": 100}
    q = torch.zeros(30, HEADS.hq, HEADS.d, dtype=torch.bfloat16, device=device)
    first = torch.zeros(30, dtype=torch.int64, device=device)
    gain = torch.zeros(5, device=device)
    k, v = (
        torch.full((103, 16, HEADS.hkv, d), math.nan, dtype=q.dtype, device=device)
        for d in (HEADS.d, HEADS.dv)
    )

    def cache_of(step: Packed) -> attnlang.PagedKV:
        own = pool_of(step, 16).cache()
        for memory, pages in ((k, own.k_pages), (v, own.v_pages)):
            memory[: pages.shape[0]].copy_(pages)
        return replace(own, k_pages=k, v_pages=v)

    variant = steps[0].variant
    plan = variant.plan(
        steps[0].q_indptr, cache_of(steps[0]), num_q_heads=HEADS.hq, first=first, **limits
    )
    out, replay = capture(device, lambda: plan.run(q, gain=gain))
    for step in (*steps, steps[0]):
        rows = step.q.shape[0]
        params = moved(step.packed_params(), device)
        q[:rows].copy_(step.q)
        first[:rows].copy_(params["first"])
        gain[: len(step.lengths)].copy_(params["gain"])
        plan.update(step.q_indptr, cache_of(step))
        out.fill_(math.nan)
        replay()
        lse = step.call(return_lse=True)[1]
        step.check(out[:rows].cpu(), lse)
    with pytest.raises(attnlang.CallError, match="`max_requests`: expected 10 or more"):
        plan.update(
            call_of("offsets", device).q_indptr, pool_of(call_of("offsets", device), 16).cache()
        )
    with pytest.raises(attnlang.CallError, match=r"`q`: .*sum Q = 2 to 30"):
        plan.run(q[:1], gain=gain)


def _decoding(spec: str, device: str, **planned: object) -> tuple[Plan, attnlang.PagedKV]:
    """Return a plan of two requests, of 3 and 1000 keys, that has room for a third."""
    k = torch.zeros(70, 16, HEADS.hkv, HEADS.d, dtype=torch.bfloat16, device=device)
    cache = attnlang.PagedKV(
        k, k, torch.tensor([0, 1, 64]), torch.arange(64), torch.tensor([3, 8])
    )  # fmt: skip
    limits = {"max_requests": 3, "max_q_tokens": 2, "max_pages": 64}
    variant = attnlang.loads(spec)
    starts = torch.tensor([0, 1, 2])
    return variant.plan(starts, cache, num_q_heads=HEADS.hq, **limits, **planned), cache


def test_a_schedule_serves_every_run_and_holds_only_the_latest(device: str) -> None:
    """What no mask reads changes no schedule, be it another number or tensor in every step."""
    plan, cache = _decoding(
        "attention paged_steps(step: int, w: float[B]):\n"
        " score = score + step * w[b]\n mask = causal\n",
        device,
    )
    held = []
    for step in range(4):
        for entries in (2, 3):
            w = torch.ones(entries, device=device)
            q = torch.zeros(2, HEADS.hq, HEADS.d, dtype=torch.bfloat16, device=device)
            held += [weakref.ref(w), weakref.ref(q)]
            plan.run(q, step=step, w=w, scale=step + 0.5)
        plan.update(torch.tensor([0, 1, 2]), cache)
    del q, w
    assert len(plan.balance) == 1
    assert sum(ref() is not None for ref in held) <= 2


def test_an_update_sees_what_the_mask_reads_of_fewer_requests_than_the_maximum(
    device: str,
) -> None:
    spec = "attention paged_firsts(first: int[B]):\n mask = kv_idx >= first[b] and causal\n"
    first = torch.zeros(2, dtype=torch.int64, device=device)
    plan, cache = _decoding(spec, device, first=first)
    q = torch.zeros(2, HEADS.hq, HEADS.d, dtype=torch.bfloat16, device=device)
    plan.run(q)
    before = plan.balance
    first.fill_(900)
    plan.update(torch.tensor([0, 1, 2]), cache)
    other, _ = _decoding(spec, device, first=first)
    other.run(q)
    assert plan.balance == other.balance
    assert plan.balance != before


@pytest.mark.parametrize(
    ("name", "stacked"),
    [
        ("causal", HEADS.hq // HEADS.hkv),
        pytest.param("sink", HEADS.hq // HEADS.hkv, marks=pytest.mark.slow),
        pytest.param("heads", 1, marks=pytest.mark.slow),
    ],
)
def test_shared_prefixes_are_merged(name: str, stacked: int, device: str) -> None:
    g = torch.Generator().manual_seed(3)
    k, v = (
        torch.randn(12, 16, HEADS.hkv, d, generator=g).bfloat16().to(device)
        for d in (HEADS.d, HEADS.dv)
    )
    indices = torch.tensor([0, 1, 2, 3, 0, 1, 2, 4, 5, 0, 1, 2, 6])
    cache = attnlang.PagedKV(k, v, torch.tensor([0, 4, 9, 13]), indices, torch.tensor([3, 16, 1]))
    q = torch.randn(3, HEADS.hq, HEADS.d, generator=g).bfloat16().to(device)
    variant = attnlang.loads(SPECS[name])
    values = {"sink": torch.linspace(-1, 1, HEADS.hq), "heads": torch.linspace(0, 2, HEADS.hq)}
    params = {p.name: values[name].to(device) for p in variant.ir.params}
    plans = [
        variant.plan(torch.arange(4), cache, num_q_heads=HEADS.hq, share_prefixes=share)
        for share in (False, True)
    ]
    assert "shared" in repr(plans[1])
    assert [level.stacked for level in plans[1]._step.levels] == [stacked, 1]
    one, many = (plan.run(q, return_lse=True, **params) for plan in plans)
    torch.testing.assert_close(many[0], one[0], atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(many[1], one[1], atol=1e-3, rtol=1e-3)
    out, replay = capture(device, lambda: plans[1].run(q, **params))
    q.copy_(torch.randn(3, HEADS.hq, HEADS.d, generator=g))
    out.fill_(math.nan)
    replay()
    torch.testing.assert_close(out, plans[0].run(q, **params), atol=2e-2, rtol=2e-2)


def test_gradients_are_refused(device: str) -> None:
    call = call_of("causal", device)
    (q, *_) = call.vectors()
    with pytest.raises(attnlang.CallError, match=r"`q`.*a planned call"):
        plan_of(call, 16).run(q.requires_grad_())
