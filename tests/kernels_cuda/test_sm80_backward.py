"""`codegen/kernels/sm80_backward.cuh` in the emulator, against float64 autograd.

Results and workspace start as NaN, keys that nobody sees hold NaN, shapes lie off every tile; each
call runs under several schedules, whose results must be the same bits.
"""

from __future__ import annotations

import pytest
import torch
from gradient_runs import Case, Kernel, Shape, wrong

SHAPES = [
    Shape(2, 4, 2, 45, 75, missing=(0, 30)),
    Shape(1, 2, 1, 70, 33),
    Shape(1, 1, 1, 1, 40),
    Shape(2, 2, 2, 33, 1, missing=(0, 1)),
]
KERNELS = [
    Kernel("Biased"),
    # Warps that share out the results, evenly and not.
    Kernel("Causal", 48, 80, keys=(32, 16, 2), queries=(16, 32, 2)),
    Kernel("Relu", dtype=torch.float16),
]
MORE = [
    Kernel("Causal"),
    Kernel("Plain", 16, 48),
    Kernel("Scattered", dtype=torch.float16),
    Kernel("Slopes"),
    Kernel("Factor"),
    Kernel("Causal", 64, 64, keys=(16, 16, 2), queries=(16, 16, 2)),
    Kernel("Biased", 48, 16, keys=(16, 32, 3), queries=(16, 16, 3)),
]
_RUNS = [*KERNELS, *(pytest.param(k, marks=pytest.mark.slow) for k in MORE)]


@pytest.mark.parametrize("kernel", _RUNS, ids=repr)
def test_gradients(kernel: Kernel) -> None:
    library = kernel.load()
    for shape in SHAPES:
        assert wrong(kernel, library, shape, seeds=3) == ""


def test_columns_that_nobody_sees() -> None:
    kernel = Kernel("Padded")
    library = kernel.load()
    for number in (0, 1, 37, 64):
        assert wrong(kernel, library, Shape(1, 2, 1, 40, 70, number=number), seeds=2) == ""


def test_strides_that_no_copy_takes() -> None:
    kernel = Kernel("Causal")
    shape = Shape(2, 4, 2, 45, 75, missing=(0, 30), layout="odd")
    assert wrong(kernel, kernel.load(), shape) == ""


def test_more_tiles_than_verdicts_at_once() -> None:
    """Long enough for the closed form of either side."""
    kernel = Kernel("Causal", 16, 16, keys=(16, 16, 1), queries=(16, 16, 1))
    library = kernel.load()
    assert wrong(kernel, library, Shape(1, 1, 1, 1100, 50)) == ""
    assert wrong(kernel, library, Shape(1, 1, 1, 50, 1100)) == ""


def test_what_is_not_wanted_is_not_computed() -> None:
    kernel = Kernel("Biased")
    library = kernel.load()
    for unwanted in ((0, 2), (3,), (0, 1, 2, 3, 4)):
        assert wrong(kernel, library, Shape(2, 2, 1, 40, 50, unwanted=unwanted)) == ""


def test_no_rows_and_no_keys() -> None:
    kernel = Kernel("Biased")
    library = kernel.load()
    for shape in (Shape(1, 2, 1, 0, 40), Shape(1, 2, 1, 5, 0), Shape(0, 2, 1, 5, 7)):
        assert wrong(kernel, library, shape) == ""


def test_no_heads() -> None:
    """Keys whose heads no query reads still get zeros."""
    kernel = Kernel("Biased")
    library = kernel.load()
    for shape in (Shape(1, 0, 0, 5, 7), Shape(2, 0, 1, 5, 70), Shape(0, 0, 0, 5, 7)):
        assert wrong(kernel, library, shape) == ""


def test_what_rounding_takes_of_a_gradient_is_multiplied_too() -> None:
    """An out expression's gradient is float32; biases of single elements would feel it rounded."""
    kernel = Kernel("Biased")
    case = Case(kernel, SHAPES[0], seed=0)
    case.out_grad = case.out_grad.float() * 1.003
    assert not torch.equal(
        case.out_grad.bfloat16().float().nan_to_num(), case.out_grad.nan_to_num()
    )
    out, lse, want = case.solve()
    for name, got in case.run(kernel.load(), 0, out, lse).items():
        if name[0] == "t":
            scale = max(1.0, want[name].abs().max().item())
            assert (got - want[name]).abs().max() <= 1e-4 * scale, name
