"""Mistakes of the Hopper backward's pipeline, planted one at a time: the emulator finds each.

As `test_backward_mutants.py`, for warpgroups, rings of barriers and the copy engine.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from device_harness import ROOT
from mutants import Mutant, copy_headers

sys.path.insert(0, str(ROOT / "tests" / "kernels_cuda"))

from gradient_runs import Kernel, Shape, judge

SEEDS = 3
KERNEL = Kernel("ScaledCausal", 64, 64, hopper=True, hopper_block=(128, 64, 2))
# Without a softmax weights come after both products.
LATE = Kernel("Relu", 64, 64, dtype=torch.float16, hopper=True)
OF_LATE = ("weighed before the second product is there",)
# Without a mask, keys past the end are not hidden by being later than every query.
MASKLESS = Kernel("Scaled", 64, 64, hopper=True)
OF_MASKLESS = ("keys that are not there", "rows are not awaited")
# Heads of one key that see more and more of it.
HEADS = Kernel("HeadPadded", 64, 64, hopper=True, hopper_block=(128, 64, 2))
OF_HEADS = (
    "tiles of other heads",
    "keys that the head before does not see",
    "keys are loaded while they are multiplied",
)
# Later rows do not see the first keys.
WINDOW = Kernel("Window", 64, 64, hopper=True)
OF_WINDOW = ("turns count blocks that skip the tile",)
# What blocks that run side by side show: those before a block are not always done.
SIDE_BY_SIDE = ("sums over sums that are being read",)
SHAPES = [
    Shape(2, 4, 2, 70, 275, missing=(0, 130), number=70),
    Shape(1, 2, 1, 450, 130, number=70),
    Shape(1, 1, 1, 330, 290, number=200),
]

_CONSUMER, _LOADER = "sm90_backward_consumer.cuh", "sm90_backward_loader.cuh"
_LAYOUT, _QUERIES = "sm90_backward_layout.cuh", "sm90_backward_queries.cuh"
_FENCE, _RELEASE = "fence_async_shared();\n    ", "release(&layout_.control()."
MUTANTS = {
    "rows are not awaited": Mutant(
        _CONSUMER, "if (place_.rows > 0) mbarrier_wait(&layout_.control().rows_full, 0);", ""
    ),
    "the second tile is not awaited": Mutant(
        _CONSUMER, "mbarrier_wait(&layout_.control().second_full[stage], stage_.full());", ""
    ),
    "the first tile is not awaited": Mutant(
        _CONSUMER, "mbarrier_wait(&control.first_full[stage_.stage], stage_.full());", ""
    ),
    "weights of products in flight": Mutant(
        _CONSUMER, "wgmma_wait<1>();\n        fence_registers(dots);", "fence_registers(dots);"
    ),
    "slopes of products in flight": Mutant(
        _CONSUMER,
        "issue_values(stage, dots, weights, second);\n        wgmma_wait<1>();",
        "issue_values(stage, dots, weights, second);",
    ),
    "weighed before the second product is there": Mutant(
        _CONSUMER, "} else {\n        wgmma_wait<0>();", "} else {"
    ),
    "a tile is released while it is multiplied": Mutant(
        _CONSUMER,
        "wgmma_wait<1>();\n      fence_registers(first);",
        "wgmma_wait<2>();\n      fence_registers(first);",
    ),
    "a tile is never released": Mutant(
        _CONSUMER, "release(&layout_.control().empty[before]);\n        give", "give"
    ),
    "terms of the other stage": Mutant(
        _CONSUMER,
        "layout_.control().base[stage][other]",
        "layout_.control().base[stage ^ 1][other]",
    ),
    "values of the stage before": Mutant(
        _CONSUMER,
        "issue_values(stage, dots, weights, second);\n        wgmma_wait",
        "issue_values(before, dots, weights, second);\n        wgmma_wait",
    ),
    "weights for slopes": Mutant(
        _CONSUMER, "pack_tile(reached, slopes);", "pack_tile(dots, slopes);"
    ),
    "keys that are not there": Mutant(
        _CONSUMER,
        "const bool exists = there && row_of(i) < place_.rows;",
        "const bool exists = there;",
    ),
    "keys that are not there meet slopes of 0": Mutant(
        _CONSUMER,
        "if (Variant::kColumnMask || place_.rows < L::kRows) clear_keys(message.head);",
        "",
    ),
    "keys are zeros that the tensor cores do not see": Mutant(
        _CONSUMER, "fence_async_shared();\n    named_barrier_sync", "named_barrier_sync"
    ),
    "keys are loaded while they are multiplied": Mutant(
        _LOADER, "mbarrier_wait(&layout_.control().rows_empty, renewed & 1);", ""
    ),
    "keys that the head before does not see": Mutant(
        _LOADER, "const bool renews = kRenews && h != rows_head;", "const bool renews = false;"
    ),
    "slopes that the tensor cores do not see": Mutant(
        _CONSUMER,
        "fence_async_shared();\n    release(&layout_.control().slopes_full",
        "release(&layout_.control().slopes_full",
    ),
    "slopes of another warpgroup are not awaited": Mutant(
        _CONSUMER, "mbarrier_wait(&control.slopes_full[tile_ & 1], tile_ >> 1 & 1);", ""
    ),
    "slopes of two tiles in one place": Mutant(
        _LAYOUT, "base + kSlopes + buffer * kSlopeBytes", "base + kSlopes + 0 * buffer"
    ),
    "slopes of keys across": Mutant(_CONSUMER, "(chunk ^ query % 8) * 16", "chunk * 16"),
    "sums of products in flight": Mutant(
        _CONSUMER, "wgmma_wait<0>();\n    fence_registers(sums);", "fence_registers(sums);"
    ),
    "sums over sums that are being read": Mutant(
        _CONSUMER, "mbarrier_wait(&control.sums_empty[group_], ~tile_ & 1);", ""
    ),
    "sums that the copy engine does not see": Mutant(
        _CONSUMER,
        "fence_async_shared();\n    release(&layout_.control().sums_full",
        "release(&layout_.control().sums_full",
    ),
    "the last sums stay": Mutant(_CONSUMER, "give_queries(none);", ""),
    "sums are not awaited": Mutant(_LOADER, "mbarrier_wait(&control.sums_full[piece], round);", ""),
    "the turn goes on before the sums are there": Mutant(_LOADER, "tma_store_wait<0>();", ""),
    "the first block adds, too": Mutant(_LOADER, "if (entry.turn() == 0)", "if (false)"),
    "every block stores": Mutant(_LOADER, "if (entry.turn() == 0)", "if (true)"),
    "turns count blocks that skip the tile": Mutant(
        _QUERIES, "before + __popc(visited & ((1u << lane) - 1))", "n"
    ),
    "sums of the other piece": Mutant(
        _QUERIES, "return (head * tiles + tile) * pieces + piece;", "return head * tiles + tile;"
    ),
    "loads into a stage that is read": Mutant(
        _LOADER, "mbarrier_wait(&control.empty[stage], stage_.empty());", ""
    ),
    "hidden rows are read before they are zeros": Mutant(
        _LOADER, "uint64_t* landed = hides ? &control.landed : ", "uint64_t* landed = "
    ),
    "zeros that the tensor cores do not see": Mutant(
        _LOADER, "fence_async_shared();\n    __syncwarp();", "__syncwarp();"
    ),
    "rows of the head before": Mutant(
        _LOADER,
        "maps_.queries, landed, first, h)",
        "maps_.queries, landed, first, h - h % work_.problem.group())",
    ),
    "tiles of other heads": Mutant(_QUERIES, "some ? TileEntry::of", "some && all ? TileEntry::of"),
    "masked tiles count as full": Mutant(
        _QUERIES, "TileEntry::of(turn, masked || !all)", "TileEntry::of(turn, false)"
    ),
}

SPECIAL = ((LATE, OF_LATE), (MASKLESS, OF_MASKLESS), (HEADS, OF_HEADS), (WINDOW, OF_WINDOW))
SAMPLE = ("the turn goes on before the sums are there",)


def test_every_mistake_has_its_place() -> None:
    for mutant in MUTANTS.values():
        path = ROOT / "codegen" / "kernels" / mutant.file
        assert mutant.text(path) != path.read_text()


@pytest.mark.parametrize(
    "kernel",
    [KERNEL, *(pytest.param(k, marks=pytest.mark.slow) for k, _ in SPECIAL)],
    ids=repr,
)
def test_kernels_without_a_mistake(kernel: Kernel) -> None:
    path, said = kernel.build()
    assert path is not None, said[-6000:]
    assert judge(kernel, path, SHAPES, SEEDS) == ""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in SAMPLE else pytest.mark.slow) for n in MUTANTS]
)
def test_a_mistake_is_found(name: str, tmp_path: Path) -> None:
    copy_headers(tmp_path)
    MUTANTS[name].plant(tmp_path)
    kernel = next((k for k, names in SPECIAL if name in names), KERNEL)
    path, said = kernel.build(tmp_path)
    assert path is not None, said[-6000:]
    found = judge(kernel, path, SHAPES, SEEDS, threads=4 if name in SIDE_BY_SIDE else 1)
    path.unlink()
    assert found, f"nobody noticed: {name}"
    print(found)
