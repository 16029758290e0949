"""Mistakes of a pipeline, planted one at a time in a copy of the kernels: the emulator finds each.

A mistake is found by wrong numbers, by a report or by a deadlock's, under one of a few schedules.
Lengths go beyond what the rings hold, CTAs have several items, and keys that are not there hold
NaN. A text that is not found any more means that a kernel has changed: move the mistake with it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from attention_runs import Kernel, Shape, judge
from device_harness import ROOT
from mutants import Mutant, copy_headers
from support import sample

SEEDS = 3
KERNELS = {
    "sm80": Kernel(
        "sm80", 64, "kQueryTile = 32, kKeyTile = 32, kStages = 3, kWarps = 2, kBlocks = 1"
    ),
    "sm90": Kernel("sm90", 64, "kQueryTile = 128, kKeyTile = 64, kStages = 2"),
    "packed": Kernel("sm90", 64, "kQueryTile = 128, kKeyTile = 64, kStages = 2", packed=True),
}
SHAPES = {
    "sm80": [
        Shape(1, 2, 1, 70, 453),
        Shape(1, 2, 1, 70, 300, missing=45),
        Shape(2, 8, 2, 1, 900),  # few rows: the decoding kernel
    ],
    "sm90": [
        Shape(2, 3, 1, 300, 517),
        Shape(1, 2, 1, 200, 500, missing=45),
        Shape(1, 2, 1, 200, 500, odd="q"),
        Shape(1, 2, 1, 200, 500, odd="kv", missing=45),
    ],
    "packed": [
        Shape(3, 4, 2, 70, 260, page=0),
        Shape(3, 4, 2, 70, 272, page=16, missing=5),
        Shape(3, 2, 1, 70, 270, page=3, missing=1),
    ],
}

_SCORES_ARE_THERE = (
    "    wgmma_wait<1>();\n    fence_registers(s);\n    leave_queries(last);\n"
    "    float rescale[2] = {};\n"
)
_WEIGH = "    weigh<kMasked>(rows, k0, kv_len, weights, plain, s, rescale, [&](float weight) {\n"
_WAIT_V = "mbarrier_wait(&control.v_empty[place.stage], place.empty());"
_WAIT_K = "mbarrier_wait(&control.k_empty[place.stage], place.empty());"
_SAYS = "    if (leads()) control.message[place.stage] = message;"
SM80 = {
    "a wait for one group too few": Mutant(
        "sm80_forward.cuh", "cp_async_wait<kStages - 2>();", "cp_async_wait<kStages - 1>();"
    ),
    "no barrier in the loop": Mutant("sm80_forward.cuh", "wait_for_loaders();  //", "//"),
    "no commit in the loop": Mutant(
        "sm80_forward.cuh", "cp_async_commit();\n      stage =", "stage ="
    ),
    "loads into the stage that is next": Mutant(
        "sm80_forward.cuh",
        "load_tile(request, next, slot, stage);",
        "load_tile(request, next, slot, (stage + 1) % kStages);",
    ),
    "skips a stage": Mutant(
        "sm80_forward.cuh",
        "stage + 1 == kStages ? 0 : stage + 1;",
        "stage + 1 == kStages ? 1 : stage + 1;",
    ),
    "computes another stage": Mutant(
        "sm80_forward.cuh",
        "compute<false>(rows, ahead[0].k0, stage,",
        "compute<false>(rows, ahead[0].k0, (stage + 1) % kStages,",
    ),
    "decoding: no barrier for the queries": Mutant(
        "sm80_forward.cuh", "if constexpr (kAlone) __syncthreads();"
    ),
    "decoding: no barrier for the states": Mutant(
        "sm80_forward.cuh", "__syncthreads();\n    const auto anchor =", "const auto anchor ="
    ),
    "rows over stages that are read": Mutant(
        "sm80_forward.cuh", "__syncthreads();  // what the stages held is read"
    ),
}
SM90 = {
    "scores are read in flight": Mutant(
        "sm90_forward.cuh",
        "wgmma_wait<1>();\n    fence_registers(s);",
        "wgmma_wait<2>();\n    fence_registers(s);",
    ),
    "an item's sums are read in flight": Mutant(
        "sm90_forward.cuh",
        "wgmma_wait<1>();\n      fence_registers(o);",
        "wgmma_wait<2>();\n      fence_registers(o);",
    ),
    "sums are scaled in flight": Mutant(
        "sm90_forward.cuh",
        "release_keys(weight);\n      wgmma_wait<0>();",
        "release_keys(weight);\n      wgmma_wait<1>();",
    ),
    "values are not awaited": Mutant(
        "sm90_forward.cuh",
        "issue_scores(s);\n    await_values();\n    issue_sums(",
        "issue_scores(s);\n    issue_sums(",
    ),
    "keys are not awaited": Mutant(
        "sm90_forward.cuh",
        "mbarrier_wait(&layout_.control().k_full[keys_.stage], keys_.full());",
    ),
    "keys are released in flight": Mutant(
        "sm90_forward.cuh",
        f"{_SCORES_ARE_THERE}{_WEIGH}      release_keys(weight);\n",
        f"    release_keys(0.0f);\n{_SCORES_ARE_THERE}{_WEIGH}",
    ),
    "queries are released before rows have passed through their room": Mutant(
        "sm90_forward.cuh",
        "    if constexpr (!kStoresRows) {\n      __syncwarp();",
        "    {\n      __syncwarp();",
    ),
    "rows' room is left before they are read": Mutant(
        "sm90_forward.cuh", "tma_store_wait_read<0>();"
    ),
    "rows leave unfenced": Mutant(
        "sm90_epilogue.cuh", "fence_async_shared();\n  __syncwarp();", "__syncwarp();"
    ),
    "a run has a tile too many": Mutant(
        "sm90_producer.cuh",
        "i + 1 < masked ? 0 : count - 1 - i;",
        "i + 1 < masked ? 0 : count - i;",
    ),
    "the queries' parity stays": Mutant("sm90_forward.cuh", "if (last) queries_.advance();"),
    "no wgmma_fence": Mutant(
        "sm90_forward.cuh", "fence_registers(o);\n    wgmma_fence();", "fence_registers(o);"
    ),
    "a descriptor's offset": Mutant(
        "sm90_forward.cuh", "moved(v, i * 16 * kPanelRowBytes)", "moved(v, i * 8 * kPanelRowBytes)"
    ),
    "nobody has the first turn": Mutant(
        "sm90_forward.cuh", "if (group_ == L::kConsumers - 1) pass_turn();"
    ),
    "a warp too few empties a stage": Mutant(
        "sm90_layout.cuh",
        "mbarrier_init(&control.k_empty[stage], kConsumerWarps);",
        "mbarrier_init(&control.k_empty[stage], kConsumerWarps - 1);",
    ),
    "an arrival too many fills a stage": Mutant(
        "sm90_layout.cuh",
        "mbarrier_init(&control.v_full[stage], arrivals);",
        "mbarrier_init(&control.v_full[stage], arrivals + 1);",
    ),
    "barriers are used before they are there": Mutant(
        "sm90_layout.cuh", "    mbarrier_init_fence();\n  }\n  __syncthreads();", "  }"
    ),
    "parity of full": Mutant(
        "sm90_layout.cuh", "full() const { return round; }", "full() const { return round ^ 1; }"
    ),
    "parity of empty": Mutant(
        "sm90_layout.cuh", "empty() const { return round ^ 1; }", "empty() const { return round; }"
    ),
    "half of the keys' bytes": Mutant(
        "sm90_loaders.cuh",
        "mbarrier_expect(barrier, kColumns / kPanelColumns * L::kKeyPanel);",
        "mbarrier_expect(barrier, kColumns / kPanelColumns * L::kKeyPanel / 2);",
    ),
    "values go to the other stage": Mutant(
        "sm90_loaders.cuh",
        "copy<L::kDV>(layout_.values(place.stage), &",
        "copy<L::kDV>(layout_.values(place.stage ^ 1), &",
    ),
    "TMA fills a stage in use": Mutant(
        "sm90_loaders.cuh",
        f"{_WAIT_K}\n{_SAYS}\n    if (message.empty())",
        f"{_SAYS}\n    if (message.empty())",
    ),
    "TMA fills values in use": Mutant("sm90_loaders.cuh", f"{_WAIT_V}\n    copy<", "copy<"),
    "cleared values are not fenced": Mutant(
        "sm90_loaders.cuh",
        "fence_async_shared();\n    __syncwarp();\n    if (leads())",
        "__syncwarp();\n    if (leads())",
    ),
    "the gather does not fence": Mutant(
        "sm90_gather.cuh", "fence_async_shared();\n    mbarrier_arrive", "mbarrier_arrive"
    ),
    "the gather announces what is under way": Mutant(
        "sm90_gather.cuh", "cp_async_wait<kPending>();", "cp_async_wait<kPending + 1>();"
    ),
    "the loader forgets a stage": Mutant(
        "sm90_producer.cuh",
        "keys.advance();\n          if (first && i == 0",
        "if (first && i == 0",
    ),
}
PACKED = {
    "a request's keys begin where the first one's do": Mutant(
        "sm90_packed.cuh", "own.first_key = rows.keys.begin;"
    ),
    "a call is overwritten while it is read": Mutant(
        "sm90_packed.cuh", "mbarrier_wait(&ring_.empty[place_.stage], place_.empty());"
    ),
    "the call of another request": Mutant("sm90_packed.cuh", "own.b != rows.b", "own.b < 0"),
    "keys of the next request are not cleared": Mutant(
        "sm90_packed.cuh",
        "bool has_rows_past(int) const { return true; }",
        "bool has_rows_past(int) const { return false; }",
    ),
    "a page's rows go where another's do": Mutant(
        "sm90_loaders.cuh",
        "to += first * kPanelRowBytes;",
        "to += (first ^ source.box) * kPanelRowBytes;",
    ),
    "pages of the tile before": Mutant(
        "sm90_pages.cuh", "k0 == loaded_ ? now_[i] : before_[i]", "now_[i]"
    ),
    "rows of another lane": Mutant(
        "sm90_gather.cuh",
        "__shfl_sync(~0u, offset, kTogether * (turn + i) + lane_ / kEntries)",
        "__shfl_sync(~0u, offset, kTogether * (turn + i))",
    ),
}
MUTANTS = {
    (door, name): m
    for door, all_of_it in (("sm80", SM80), ("sm90", SM90), ("packed", PACKED))
    for name, m in all_of_it.items()
}
# What every run of the tests looks at; the others are slow.
SAMPLE = (("sm90", "the gather does not fence"),)


def test_every_mistake_has_its_place() -> None:
    for mutant in MUTANTS.values():
        path = ROOT / "codegen" / "kernels" / mutant.file
        assert mutant.text(path) != path.read_text()


@pytest.mark.parametrize("door", sample(KERNELS, "sm90"))
def test_kernels_without_a_mistake(door: str) -> None:
    path, said = KERNELS[door].build()
    assert path is not None, said[-6000:]
    assert judge(path, KERNELS[door].d, SHAPES[door], SEEDS) == ""


@pytest.mark.parametrize(
    ("door", "name"),
    [pytest.param(*key, marks=() if key in SAMPLE else pytest.mark.slow) for key in MUTANTS],
)
def test_a_mistake_is_found(door: str, name: str, tmp_path: Path) -> None:
    copy_headers(tmp_path)
    MUTANTS[door, name].plant(tmp_path)
    path, said = KERNELS[door].build(tmp_path)
    assert path is not None, said[-6000:]
    found = judge(path, KERNELS[door].d, SHAPES[door], SEEDS)
    path.unlink()
    assert found, f"nobody noticed: {name}"
    print(found)
