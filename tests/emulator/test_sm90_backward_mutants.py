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
KERNEL = Kernel("ScaledCausal", 64, 64, hopper=True, hopper_keys=(128, 64, 2))
# Without a softmax weights come after both products.
LATE = Kernel("Relu", 64, 64, dtype=torch.float16, hopper=True)
OF_LATE = ("weighed before the second product is there",)
# Without a mask, keys past the end are not hidden by being later than every query.
MASKLESS = Kernel("Scaled", 64, 64, hopper=True)
OF_MASKLESS = ("keys that are not there",)
SHAPES = [
    Shape(2, 4, 2, 70, 275, missing=(0, 130)),
    Shape(1, 2, 1, 450, 130),
    Shape(1, 1, 1, 330, 290),
]

_KERNEL, _LOADER = "sm90_backward.cuh", "sm90_backward_loader.cuh"
MUTANTS = {
    "rows are not awaited": Mutant(
        _KERNEL, "if (place_.rows > 0) mbarrier_wait(&layout_.control().rows_full, 0);", ""
    ),
    "the second tile is not awaited": Mutant(
        _KERNEL, "mbarrier_wait(&layout_.control().second_full[stage], stage_.full());", ""
    ),
    "the first tile is not awaited": Mutant(
        _KERNEL, "mbarrier_wait(&control.first_full[stage_.stage], stage_.full());", ""
    ),
    "weights of products in flight": Mutant(
        _KERNEL, "wgmma_wait<1>();\n      fence_registers(dots);", "fence_registers(dots);"
    ),
    "slopes of products in flight": Mutant(
        _KERNEL, "});\n      wgmma_wait<0>();\n      fence_registers(reached);", "});"
    ),
    "weighed before the second product is there": Mutant(
        _KERNEL,
        "} else {\n      wgmma_wait<0>();\n      fence_registers(reached);",
        "} else {",
    ),
    "a tile is released while it is multiplied": Mutant(
        _KERNEL, "if (multiplying) release_tile(before);", "release_tile(stage);"
    ),
    "the second tile is never released": Mutant(
        _KERNEL,
        "if constexpr (kOfKeys) release(&control.second_empty[stage]);",
        "",
    ),
    "terms of the other stage": Mutant(
        _KERNEL, "kOfKeys ? control.base[stage][other]", "kOfKeys ? control.base[stage ^ 1][other]"
    ),
    "weights for slopes": Mutant(
        _KERNEL, "pack_tile(reached, slopes);", "pack_tile(dots, slopes);"
    ),
    "keys that are not there": Mutant(
        _KERNEL,
        "const bool exists = there && row_of(i) < place_.rows;",
        "const bool exists = there;",
    ),
    "loads into a stage that is read": Mutant(
        _LOADER,
        "mbarrier_wait(&control.first_empty[stage], stage_.empty());\n    if constexpr",
        "if constexpr",
    ),
    "loads a second tile into a stage that is read": Mutant(
        _LOADER, "mbarrier_wait(&control.second_empty[stage], stage_.empty());", ""
    ),
    "hidden rows are read before they are zeros": Mutant(
        _LOADER, "uint64_t* landed = hides ? &control.landed : ", "uint64_t* landed = "
    ),
    "zeros that the tensor cores do not see": Mutant(
        _LOADER, "fence_async_shared();\n    __syncwarp();", "__syncwarp();"
    ),
    "rows of the head before": Mutant(
        _LOADER,
        "const int head = kOfKeys ? h :",
        "const int head = kOfKeys ? h - h % work_.problem.group() :",
    ),
    "tiles of other heads": Mutant(_LOADER, "some |= visited, all &= visited;", "some = 0;"),
    "masked tiles count as full": Mutant(
        _LOADER,
        "control.tiles.masked[word] = masked | (some & ~all);",
        "control.tiles.masked[word] = 0;",
    ),
}

SAMPLE = ("the second tile is not awaited", "loads into a stage that is read")


def test_every_mistake_has_its_place() -> None:
    for mutant in MUTANTS.values():
        path = ROOT / "codegen" / "kernels" / mutant.file
        assert mutant.text(path) != path.read_text()


@pytest.mark.parametrize(
    "kernel",
    [KERNEL, *(pytest.param(k, marks=pytest.mark.slow) for k in (LATE, MASKLESS))],
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
    kernel = LATE if name in OF_LATE else MASKLESS if name in OF_MASKLESS else KERNEL
    path, said = kernel.build(tmp_path)
    assert path is not None, said[-6000:]
    found = judge(kernel, path, SHAPES, SEEDS)
    path.unlink()
    assert found, f"nobody noticed: {name}"
    print(found)
