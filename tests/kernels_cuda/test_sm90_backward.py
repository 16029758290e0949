"""`codegen/kernels/sm90_backward*.cuh` in the emulator, against float64 autograd.

As test_sm80_backward.py: results and workspace start as NaN, keys that nobody sees and rows that
see nothing hold NaN, shapes lie off every tile and beyond the rings; each call runs under several
schedules, whose results must be the same bits.
"""

from __future__ import annotations

import pytest
import torch
from gradient_runs import Kernel, Shape, wrong

SHAPES = [
    Shape(2, 4, 2, 45, 75, missing=(0, 30)),
    Shape(1, 2, 1, 150, 133),
    Shape(1, 1, 1, 1, 40),
    Shape(2, 2, 2, 33, 1, missing=(0, 1)),
    Shape(1, 1, 1, 333, 300),
]
KERNELS = [
    # The blocks of the planner. Weights beside the second product, and after it; dimensions that
    # fill no panel.
    Kernel("ScaledCausal", 64, 64, hopper=True, hopper_block=(128, 128, 2)),
    Kernel("Causal", 48, 80, hopper=True, hopper_block=(128, 64, 2)),
    Kernel("Relu", 32, 32, dtype=torch.float16, hopper=True),
]
MORE = [
    Kernel("Scaled", 128, 128, hopper=True, hopper_block=(128, 64, 2)),
    Kernel("Plain", 16, 48, hopper=True, hopper_block=(128, 128, 2)),
    Kernel("Scattered", 64, 64, dtype=torch.float16, hopper=True, hopper_block=(64, 64, 3)),
    Kernel("Slopes", 64, 128, hopper=True, hopper_block=(128, 64, 2)),
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


def test_columns_that_some_heads_see() -> None:
    """Keys that one head's products take as zeros come back for the next head."""
    kernel = Kernel("HeadPadded", hopper=True, hopper_block=(128, 64, 2))
    library = kernel.load()
    for number in (0, 3, 20, 60):
        shape = Shape(2, 6, 2, 140, 400, missing=(0, 200), number=number)
        assert wrong(kernel, library, shape, seeds=2) == ""


def test_strides_that_no_copy_takes() -> None:
    kernel = Kernel("Causal", 48, 80, hopper=True)
    shape = Shape(2, 4, 2, 45, 75, missing=(0, 30), layout="odd")
    assert wrong(kernel, kernel.load(), shape) == ""


def test_long_calls_go_round_the_rings() -> None:
    kernel = KERNELS[0]
    library = kernel.load()
    assert wrong(kernel, library, Shape(1, 2, 1, 900, 70)) == ""
    assert wrong(kernel, library, Shape(1, 2, 1, 70, 900)) == ""


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


def test_no_heads() -> None:
    """Keys whose heads no query reads still get zeros."""
    kernel = KERNELS[0]
    library = kernel.load()
    for shape in (Shape(1, 0, 0, 5, 7), Shape(2, 0, 1, 5, 70), Shape(0, 0, 0, 5, 7)):
        assert wrong(kernel, library, shape) == ""
