"""Runs of a plan that are like one before: each has its own tensors, and wrong ones are refused."""

from __future__ import annotations

import gc
import weakref

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
