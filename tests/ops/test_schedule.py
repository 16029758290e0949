"""Schedules of packed calls: costs by tiles that the mask shows, results that nothing changes."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace

import pytest
import torch
from paged_inputs import Pool
from ragged_inputs import Packed, offsets, pack
from support import Sizes
from torch import Tensor

import attnlang
from attnlang.ops.schedules import Schedules

HEADS = Sizes(1, 4, 2, 0, 0, 40, 40)
LENGTHS = ((1, 5000), (200, 900), (1, 3), (0, 5), (70, 2100), (3, 0), (1, 0))
SPEC = "attention scheduled(window: int = 300):\n mask = sliding_window(window)\n"
HEADER = 8  # ints: kind, chunks, items, workers, slots, the largest load in tiles, the shape


def call_of(lengths=LENGTHS, dtype: torch.dtype = torch.float32) -> Packed:
    g = torch.Generator().manual_seed(0)
    return pack(attnlang.loads(SPEC), lengths, HEADS, dtype, g, {})


def scheduled(
    call: Packed, workers: int, split_tokens: int = 0, window: int = 300
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return a schedule, and what a call that follows it returns."""
    values = {"window": window}
    tables = {"q_indptr": call.q_indptr, "kv_indptr": call.kv_indptr}
    make, run = (call.variant.registered_op(values, kind) for kind in ("schedule", "packed"))
    schedule, workspace = make(
        call.q, call.k, call.v, window, **tables, workers=workers, split_tokens=split_tokens
    )
    assert workspace == 0  # a GPU's
    found = run(call.q, call.k, call.v, window, **tables, return_lse=True, schedule=schedule)
    return schedule, found[:2]


@pytest.mark.parametrize(("workers", "split"), [(1, 0), (5, 0), (64, 0), (3, 128), (300, 64)])
def test_a_scheduled_call_agrees_with_the_reference(workers: int, split: int) -> None:
    call = call_of()
    schedule, (out, lse) = scheduled(call, workers, split)
    call.check(out, lse)
    chunks = schedule[HEADER:].reshape(-1, 5)
    assert chunks.shape[0] == schedule[1]
    assert chunks[:, 3].max() < workers
    assert (chunks[:, 4] >= 0).sum() == schedule[4]


def test_costs_are_the_tiles_that_the_mask_shows() -> None:
    call = call_of(((200, 2000),))
    for window in (1, 300, 5000):
        schedule, _ = scheduled(call, 1, window=window)
        dense = (x[None].transpose(1, 2) for x in (call.q, call.k, call.v))
        tiles = call.variant.tiles(*dense, window=window)
        assert schedule[5] == tiles.full + tiles.partial


def test_work_is_spread_evenly() -> None:
    call = call_of(((1, 9000), *((1, 40),) * 6))
    schedule, _ = scheduled(call, 8, window=10_000)
    total = int(schedule[HEADER:].reshape(-1, 5)[:, 2].sum())
    assert int(schedule[5]) <= 1.3 * total / 8


def test_a_mask_that_shows_more_than_was_planned_loses_no_key() -> None:
    call = call_of()
    narrow, _ = scheduled(call, 40, window=100)
    wide = {"window": 3000}
    run = call.variant.registered_op(wide, "packed")
    out, lse, _ = run(
        call.q, call.k, call.v, 3000, q_indptr=call.q_indptr, kv_indptr=call.kv_indptr,
        return_lse=True, schedule=narrow,
    )  # fmt: skip
    replace(call, params=wide).check(out, lse)


def test_threads_change_nothing() -> None:
    call = call_of(dtype=torch.bfloat16)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(scheduled(call, 16)[1])
    finally:
        torch.set_num_threads(before)
    for out, lse in found[1:]:
        assert torch.equal(out, found[0][0])
        assert torch.equal(lse, found[0][1])


def test_fixed_splits_do_not_depend_on_the_batch() -> None:
    call = call_of(dtype=torch.bfloat16)
    _, (out, lse) = scheduled(call, 16, 256, window=10_000)
    for b, (q, kv) in enumerate(LENGTHS):
        alone = Packed(
            call.variant, ((q, kv),), call.q[call.rows(b)], call.k[call.columns(b)],
            None if call.v is None else call.v[call.columns(b)], {},
        )  # fmt: skip
        _, (own, own_lse) = scheduled(alone, 3, 256, window=10_000)
        assert torch.equal(own, out[call.rows(b)])
        assert torch.equal(own_lse, lse[call.rows(b)])


def test_pages_are_scheduled_too() -> None:
    call = call_of()
    pool = Pool(call, 16, torch.Generator().manual_seed(0))
    assert call.v is not None
    schedule, (out, lse) = scheduled(call, 12)
    again = pool.run(pool.spread(call.k), pool.spread(call.v), schedule=schedule)
    assert torch.equal(again[0], out)
    assert torch.equal(again[1], lse)


def test_no_request_has_a_schedule() -> None:
    call = call_of(())
    schedule, (out, _) = scheduled(call, 4)
    assert schedule[1] == 0
    assert out.shape[0] == 0


def _changed(schedule: Tensor, chunk: int, field: int, value: int) -> Tensor:
    schedule = schedule.clone()
    schedule[HEADER + 5 * chunk + field] = value
    return schedule


def test_what_is_no_schedule_of_the_call_is_refused() -> None:
    call = call_of()
    schedule, _ = scheduled(call, 40)
    run = call.variant.registered_op({"window": 300}, "packed")
    other = call_of(((1, 5000), (200, 901), *LENGTHS[2:]))
    slotted = int((schedule[HEADER:].reshape(-1, 5)[:, 4] >= 0).nonzero()[0])
    for wrong, text in (
        (scheduled(other, 40)[0], "made for other lengths"),
        (schedule[:-1].clone(), "what the schedule op returns"),
        (schedule.long(), "what the schedule op returns"),
        (torch.zeros(3, dtype=torch.int32), "what the schedule op returns"),
        (_changed(schedule, 0, 0, 10**6), "of another call"),
        (_changed(schedule, 0, 0, -1), "of another call"),
        (_changed(schedule, slotted, 1, 777), "of another call"),
        (_changed(schedule, slotted, 4, 10**6), "of another call"),
        (_changed(schedule, slotted, 4, -1), "of another call"),
    ):
        with pytest.raises(RuntimeError, match=text):
            run(
                call.q, call.k, call.v, 300, q_indptr=call.q_indptr, kv_indptr=call.kv_indptr,
                schedule=wrong,
            )  # fmt: skip
    make = call.variant.registered_op({"window": 300}, "schedule")
    tables = {"q_indptr": offsets([call.q.shape[0]]), "kv_indptr": offsets([call.k.shape[0]])}
    for workers, split in ((0, 0), (10**6, 0), (1, -1)):
        with pytest.raises(RuntimeError, match="expected"):
            make(call.q, call.k, call.v, 300, **tables, workers=workers, split_tokens=split)


def test_threads_that_run_one_plan_follow_one_schedule() -> None:
    schedules = Schedules(2, 0)
    made: list[Tensor] = []
    found: list[int] = []

    def make() -> tuple[Tensor, int]:
        made.append(torch.zeros(HEADER, dtype=torch.int32))
        return made[-1], 0

    first = schedules.find(("layer",), 64, make, lasts=True, keys=7)

    def run() -> None:
        calls = (schedules.find(("layer",), 64, make, lasts=True, keys=7) for _ in range(5000))
        found.append(sum(table is first for table in calls))

    threads = [threading.Thread(target=run) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert found == [5000] * 4
    assert len(made) == 1
