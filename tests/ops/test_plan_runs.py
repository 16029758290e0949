"""Runs of a plan that are like one before: each has its own tensors, and wrong ones are refused."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor

import attnlang
from attnlang import Paged, PagedKV, Part
from attnlang.ops import run_check
from attnlang.ops.serving_plan import Plan

SPEC = """
attention runs(gain: float, first: int[B], w: float[B], bias: float[B, KV], cap: float = 9.0):
    score = soft_cap(gain * score, cap) + w[b] + bias[b, kv_col]
    mask = causal and kv_idx >= first[b]
"""
PARTED = """
attention parted(gain: float, w: float[HQ], cap: float = 9.0):
    score = soft_cap(gain * score, cap) + w[h]
    mask = causal
"""
HQ, HKV, D, PAGE = 4, 2, 16, 4
LENS, ROWS = [9, 4, 17], [2, 1, 3]


def starts(lens: list[int]) -> Tensor:
    return torch.tensor([0, *lens]).cumsum(0)


def cache_of(layout: str) -> PagedKV:
    counts = [-(-n // PAGE) for n in LENS]
    last = torch.tensor([n - (c - 1) * PAGE for n, c in zip(LENS, counts, strict=True)])
    return PagedKV(*pools_of(layout), starts(counts), torch.randperm(sum(counts)), last, layout)


def pools_of(layout: str) -> tuple[Tensor, Tensor]:
    k, v = torch.randn(2, 10, PAGE, HKV, D)
    return (k, v) if layout == "NHD" else (k.transpose(1, 2), v.transpose(1, 2))


def brought() -> dict[str, object]:
    """What a layer brings."""
    return {
        "gain": float(torch.rand(())), "w": torch.randn(3), "cap": 5 + float(torch.rand(())),
        "bias": Paged(torch.randn(10, PAGE)), "scale": torch.rand(()),
    }  # fmt: skip


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """How often a run was checked in full."""
    ran: list[object] = []
    original = run_check.check_run

    def counted(*args: object) -> None:
        ran.append(args)
        original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("attnlang.ops.serving_plan.check_run", counted)
    return ran


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("limits", [{}, {"max_requests": 5, "max_q_tokens": 6, "max_pages": 12}])
def test_each_run_has_its_own_tensors(
    layout: str, limits: dict[str, int], checks: list[object]
) -> None:
    torch.manual_seed(0)
    variant, cache, first = attnlang.loads(SPEC), cache_of(layout), torch.tensor([0, 2, 1])

    def plan() -> Plan:
        return variant.plan(starts(ROWS), cache, num_q_heads=HQ, first=first, **limits)

    held = plan()
    for step in range(2):
        for layer in range(3):
            q, pools, own = torch.randn(sum(ROWS), HQ, D), pools_of(layout), brought()
            before = len(checks)
            found = held.run(q, pools, return_lse=True, **own)  # type: ignore[arg-type]
            assert len(checks) == before + (layer == 0)
            wanted = plan().run(q, pools, return_lse=True, **own)  # type: ignore[arg-type]
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)
        first[1] = step  # a frozen tensor's entries are read in each run
        held.update(starts(ROWS), cache)


def test_runs_of_parts_have_their_own_tensors() -> None:
    torch.manual_seed(1)
    variant = attnlang.loads(PARTED)
    prompt, own = starts([8]), starts([3, 5])
    rows = starts([1, 2])
    parts = [Part(prompt, torch.tensor([0, 3])), own]
    held = variant.plan(rows, parts, num_q_heads=HQ)
    for _ in range(3):
        q = torch.randn(3, HQ, D)
        pairs = [tuple(torch.randn(2, n, HKV, D)) for n in (8, 8)]
        params = {"gain": float(torch.rand(())), "w": torch.randn(HQ)}
        wanted = variant.plan(rows, parts, num_q_heads=HQ).run(q, pairs, **params)
        torch.testing.assert_close(held.run(q, pairs, **params), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("limits", [{}, {"max_requests": 5, "max_q_tokens": 6, "max_pages": 12}])
def test_copies_and_pickles_of_a_plan_are_plans_of_their_own(limits: dict[str, int]) -> None:
    variant, cache, first = attnlang.loads(SPEC), cache_of("NHD"), torch.tensor([0, 2, 1])
    plan = variant.plan(starts(ROWS), cache, num_q_heads=HQ, first=first, **limits)
    q, own = torch.randn(sum(ROWS), HQ, D), brought()
    wanted = plan.run(q, **own)  # type: ignore[arg-type]
    for twin in (copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):
        assert torch.equal(twin.run(q, **own), wanted)
        twin.update(starts([1, 0, 5]), cache)
        assert torch.equal(plan.run(q, **own), wanted)  # type: ignore[arg-type]


def test_what_a_run_brought_is_let_go() -> None:
    variant, cache = attnlang.loads(SPEC), cache_of("NHD")
    plan = variant.plan(
        starts(ROWS), cache, num_q_heads=HQ, first=torch.zeros(3, dtype=torch.int64)
    )
    gc.disable()
    try:
        refs = []
        for _ in range(2):
            q, own = torch.randn(sum(ROWS), HQ, D), brought()
            refs += [weakref.ref(q), weakref.ref(own["w"]), weakref.ref(own["scale"])]
            plan.run(q, **own)  # type: ignore[arg-type]
        del q, own
        assert all(ref() is None for ref in refs)
        gone = weakref.ref(plan)
        del plan
        assert gone() is None
    finally:
        gc.enable()


WRONG = {
    "q rows": lambda q, own: ((q[:-1],), own),
    "q heads": lambda q, own: ((q[:, :-1],), own),
    "q dtype": lambda q, own: ((q.bfloat16(),), own),
    "w": lambda q, own: ((q,), own | {"w": torch.randn(2)}),
    "gain": lambda q, own: ((q,), own | {"gain": True}),
    "frozen": lambda q, own: ((q,), own | {"first": torch.zeros(3, dtype=torch.int64)}),
    "unknown": lambda q, own: ((q,), own | {"gains": 1.0}),
    "pools": lambda q, own: ((q, torch.randn(2, 9, PAGE, HKV, D).unbind()), own),
    "seed": lambda q, own: ((q,), own | {"seed": 1.5}),
    "scale": lambda q, own: ((q,), own | {"scale": torch.rand(2)}),
    "grad": lambda q, own: ((q.clone().requires_grad_(),), own),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_run_is_refused_after_a_good_one(wrong: object) -> None:
    variant, cache = attnlang.loads(SPEC), cache_of("NHD")
    plan = variant.plan(
        starts(ROWS), cache, num_q_heads=HQ, first=torch.zeros(3, dtype=torch.int64)
    )
    q, own = torch.randn(sum(ROWS), HQ, D), brought()
    plan.run(q, **own)  # type: ignore[arg-type]
    plan.run(q, **own)  # type: ignore[arg-type]
    args, params = wrong(q, own)  # type: ignore[operator]
    for _ in range(2):
        with pytest.raises(attnlang.CallError):
            plan.run(*args, **params)


def test_a_list_of_two_tensors_is_no_pair() -> None:
    """What it is like says how its pools are arranged: a list has a pair for each part."""
    rows, (k, v) = starts([1, 2]), torch.randn(2, 8, HKV, D).unbind()
    plan = attnlang.loads(PARTED).plan(rows, starts([3, 5]), num_q_heads=HQ)
    q, params = torch.randn(3, HQ, D), {"gain": 1.0, "w": torch.randn(HQ)}
    wanted = plan.run(q, (k, v), **params)
    torch.testing.assert_close(plan.run(q, [(k, v)], **params), wanted, rtol=0, atol=0)
    for _ in range(2):
        with pytest.raises(attnlang.CallError, match="`kv`: expected one pair"):
            plan.run(q, [k, v], **params)  # type: ignore[list-item]


def test_a_repeated_parameter_is_checked_once(checks: list[object]) -> None:
    variant, cache = attnlang.loads(SPEC), cache_of("NHD")
    first = torch.zeros(3, dtype=torch.int64)
    plan = variant.plan(starts(ROWS), cache, num_q_heads=HQ, first=first)
    q, own = torch.randn(sum(ROWS), HQ, D), brought()
    wanted = plan.run(q, **own)  # type: ignore[arg-type]
    for _ in range(2):
        found = plan.run(q, first=first, **own)  # type: ignore[arg-type]
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert len(checks) == 2
    for _ in range(2):
        with pytest.raises(attnlang.CallError, match="`first`: expected the plan's value"):
            plan.run(q, first=first.clone(), **own)  # type: ignore[arg-type]


WINDOWED = "attention windowed(window: int):\n    mask = sliding_window(window)\n"
MAXIMA = {"max_requests": 5, "max_q_tokens": 6, "max_pages": 12}
HEADER = 9  # of a GPU's schedule: what follows is written as far as there are pieces
LIKE_NONE = {"plain": {}, "repeated": {"window": 9}, "numpy": {"scale": np.float64(0.25)}}


@pytest.mark.parametrize("given", LIKE_NONE.values(), ids=LIKE_NONE)
@pytest.mark.parametrize("inference", [False, True])
def test_layers_share_a_schedule_that_updates_make_again(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, object], inference: bool
) -> None:
    """As a captured call needs it: in its place, whatever else its run was passed."""
    monkeypatch.setenv("ATTNLANG_EMULATE", "sm80")
    torch.manual_seed(2)
    variant = attnlang.loads(WINDOWED)
    with torch.inference_mode(inference):
        cache = cache_of("NHD")
        pools = (cache.k_pages.bfloat16(), cache.v_pages.bfloat16())
        q = torch.randn(6, HQ, D).bfloat16()
        cache = PagedKV(*pools, cache.indptr, cache.indices, cache.last_page_len)
        held = variant.plan(starts(ROWS), cache, num_q_heads=HQ, window=9, **MAXIMA)
        outs = [held.run(q, **given) for _ in range(3)]  # type: ignore[arg-type]
    (kept,) = held._step.schedules._kept.values()
    first = kept.table[:HEADER].clone()

    pages = torch.tensor([1, 2, 5])
    other = PagedKV(*pools, torch.tensor([0, 1, 3]), pages, torch.tensor([2, 3]))
    held.update(starts([1, 4]), other)  # outside inference mode
    (again,) = held._step.schedules._kept.values()
    assert again.table is kept.table
    fresh = variant.plan(starts([1, 4]), other, num_q_heads=HQ, window=9, **MAXIMA)
    wanted = fresh.run(q, **given)  # type: ignore[arg-type]
    (made,) = fresh._step.schedules._kept.values()
    assert torch.equal(again.table[:HEADER], made.table[:HEADER])
    assert not torch.equal(again.table[:HEADER], first)
    torch.testing.assert_close(held.run(q, **given)[:5], wanted[:5], rtol=0, atol=0)  # type: ignore[arg-type]
    assert len(held._step.schedules._kept) == 1
    assert all(torch.equal(out, outs[0]) for out in outs)
