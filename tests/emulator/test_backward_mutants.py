"""Mistakes of the backward's pipeline, planted one at a time: the emulator finds each.

As `test_pipeline_mutants.py` for the forward: by a report, by numbers, or by bits that differ from
schedule to schedule, at lengths beyond the two stages and in several heads of a group.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from device_harness import ROOT
from mutants import Mutant, copy_headers

sys.path.insert(0, str(ROOT / "tests" / "kernels_cuda"))

from gradient_runs import Kernel, Shape, judge

SEEDS = 3
KERNEL = Kernel("Biased", keys=(32, 16, 2), queries=(32, 16, 2))
# Without a mask no ranges are found, whose barrier would hide a mistake, and keys past the end are
# not hidden by being later than every query.
MASKLESS = Kernel("Plain", keys=(32, 16, 2), queries=(32, 16, 2))
OF_MASKLESS = ("no barrier between heads", "keys that are not there")
SHAPES = [Shape(2, 4, 2, 70, 75, missing=(0, 30)), Shape(1, 2, 1, 45, 130)]

_FILE = "sm80_backward.cuh"
_BLOCK = "sm80_backward_block.cuh"
MUTANTS = {
    "a tile is not awaited": Mutant(
        _FILE,
        "cp_async_wait<0>();\n      __syncthreads();  // the tile",
        "__syncthreads();  // the tile",
    ),
    "no barrier in the loop": Mutant(_FILE, "__syncthreads();  // the tile is there", "// there"),
    "loads into the stage that is read": Mutant(
        _FILE, "load_tile(request, h, next, s ^ 1);", "load_tile(request, h, next, s);"
    ),
    "the stages do not alternate": Mutant(_FILE, "next.valid(); s ^= 1)", "next.valid();)"),
    "no barrier between heads": Mutant(
        _FILE, "if (kOfKeys && h % work_.problem.group() != 0) __syncthreads();", ""
    ),
    "terms of the other stage": Mutant(
        _FILE, "kTerms ? terms(s)[other] : 0.0f", "kTerms ? terms(s ^ 1)[other] : 0.0f"
    ),
    "deltas for bases": Mutant(_FILE, "terms(s)[kTile + other]", "terms(s)[other]"),
    "keys that are not there": Mutant(
        _FILE, "row_of(i) < rows_ && q0 + other < others_", "q0 + other < others_"
    ),
    "rows of the key before": Mutant(_FILE, "load_rows(h);\n", "load_rows(h + 1);\n"),
    "one warp's part twice": Mutant(
        _FILE, "const int first = part_ * kMine;", "const int first = 0;"
    ),
    "every part adds its sums": Mutant(
        _FILE, "dot, e, part_ == 0, work_.sums", "dot, e, true, work_.sums"
    ),
    "weights for slopes": Mutant(
        _FILE,
        "pack_a<Element>(a[0], reached[0], step);\n      accumulate<kD>",
        "pack_a<Element>(a[0], dots[0], step);\n      accumulate<kD>",
    ),
    "rows that see nothing are read": Mutant(
        _BLOCK, "return base[r] != -kInfinity; });", "return base[r] != kInfinity; });"
    ),
    "ranges are read before they are there": Mutant(
        _FILE, "find(request);\n      __syncthreads();", "find(request);"
    ),
    "keys take a delta that is not exact": Mutant(
        _BLOCK, "kSums ? work_.terms.exact : work_.terms.delta", "work_.terms.delta"
    ),
    "sums over rows are not mended": Mutant(
        "cuda_gradients.cuh", "return value - lack * shares_[kIndex][i];", "return value;"
    ),
    "keys go before queries": Mutant(
        "sm80_backward_sides.cuh",
        "const char* wrong = run_queries<kSums>(call, gradients, work);\n"
        "    return wrong == nullptr ? run_keys<kSums>(call, work) : wrong;",
        "const char* wrong = run_keys<kSums>(call, work);\n"
        "    return wrong == nullptr ? run_queries<kSums>(call, gradients, work) : wrong;",
    ),
    "a digit too far": Mutant("cuda_gradient_sums.cuh", "atomicAdd(word + 1,", "atomicAdd(word,"),
}


def test_every_mistake_has_its_place() -> None:
    for mutant in MUTANTS.values():
        path = ROOT / "codegen" / "kernels" / mutant.file
        assert mutant.text(path) != path.read_text()


@pytest.mark.parametrize("kernel", [KERNEL, pytest.param(MASKLESS, marks=pytest.mark.slow)])
def test_kernels_without_a_mistake(kernel: Kernel) -> None:
    path, said = kernel.build()
    assert path is not None, said[-6000:]
    assert judge(kernel, path, SHAPES, SEEDS) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_is_found(name: str, tmp_path: Path) -> None:
    copy_headers(tmp_path)
    MUTANTS[name].plant(tmp_path)
    kernel = MASKLESS if name in OF_MASKLESS else KERNEL
    path, said = kernel.build(tmp_path)
    assert path is not None, said[-6000:]
    found = judge(kernel, path, SHAPES, SEEDS)
    path.unlink()
    assert found, f"nobody noticed: {name}"
    print(found)
