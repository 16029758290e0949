"""`codegen/kernels/sm90_backward.cuh` in the emulator, against float64 autograd.

As test_sm80_backward.py: results and workspace start as NaN, keys that nobody sees and rows that
see nothing hold NaN, shapes lie off every tile and beyond the rings; each call runs under several
schedules, whose results must be the same bits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from device_harness import ROOT
from gradient_runs import Kernel, Shape, judge, wrong

sys.path.insert(0, str(ROOT / "tests" / "emulator"))

from mutants import Mutant, copy_headers

SHAPES = [
    Shape(2, 4, 2, 45, 75, missing=(0, 30)),
    Shape(1, 2, 1, 150, 133),
    Shape(1, 1, 1, 1, 40),
    Shape(2, 2, 2, 33, 1, missing=(0, 1)),
    Shape(1, 1, 1, 333, 300),
]
KERNELS = [
    # Weights beside the second product, and after it; dimensions that fill no panel.
    Kernel("ScaledCausal", 64, 64, hopper=True),
    Kernel("Causal", 48, 80, hopper=True),
]
MORE = [
    Kernel("Scaled", 128, 128, hopper=True, hopper_keys=(128, 64, 3), hopper_queries=(128, 96, 3)),
    Kernel("Plain", 16, 48, hopper=True),
    Kernel("Scattered", 64, 64, dtype=torch.float16, hopper=True),
    Kernel("Slopes", 64, 64, hopper=True, hopper_keys=(128, 64, 3), hopper_queries=(128, 96, 4)),
    Kernel("Relu", 32, 32, dtype=torch.float16, hopper=True),
    Kernel("Factor", 32, 32, hopper=True),
]
_RUNS = [*KERNELS, *(pytest.param(k, marks=pytest.mark.slow) for k in MORE)]


@pytest.mark.parametrize("kernel", _RUNS, ids=repr)
def test_gradients(kernel: Kernel) -> None:
    library = kernel.load()
    for shape in SHAPES:
        assert wrong(kernel, library, shape, seeds=2) == ""


def test_columns_that_nobody_sees() -> None:
    kernel = Kernel("Padded", hopper=True)
    library = kernel.load()
    for number in (0, 1, 70, 99):
        assert wrong(kernel, library, Shape(1, 2, 1, 40, 130, number=number), seeds=2) == ""


def test_strides_that_no_copy_takes() -> None:
    kernel = Kernel("Causal", 48, 80, hopper=True)
    shape = Shape(2, 4, 2, 45, 75, missing=(0, 30), layout="odd")
    assert wrong(kernel, kernel.load(), shape) == ""


def test_long_calls_go_round_the_rings() -> None:
    kernel = KERNELS[0]
    library = kernel.load()
    assert wrong(kernel, library, Shape(1, 2, 1, 900, 70)) == ""
    assert wrong(kernel, library, Shape(1, 2, 1, 70, 900)) == ""


def test_more_tiles_than_words_hold(tmp_path: Path) -> None:
    """What lies beyond the words that say which tiles are visited is visited, and masked."""
    copy_headers(tmp_path)
    Mutant("sm90_backward_layout.cuh", "int kWords = 128;", "int kWords = 1;").plant(tmp_path)
    kernel = KERNELS[0]
    path, said = kernel.build(tmp_path)
    assert path is not None, said[-6000:]
    assert judge(kernel, path, [Shape(1, 1, 1, 2200, 70), Shape(1, 1, 1, 70, 2200)], 1) == ""
    path.unlink()


def test_parameters_are_added_up_by_the_other_skeleton() -> None:
    kernel = Kernel("Biased", hopper=True)
    library = kernel.load()
    for unwanted in ((), (0, 1, 2, 3), (0, 1, 2, 3, 4)):
        assert wrong(kernel, library, Shape(2, 2, 1, 40, 150, unwanted=unwanted)) == ""


def test_no_rows_and_no_keys() -> None:
    kernel = KERNELS[0]
    library = kernel.load()
    for shape in (Shape(1, 2, 1, 0, 40), Shape(1, 2, 1, 5, 0), Shape(0, 2, 1, 5, 7)):
        assert wrong(kernel, library, shape) == ""
