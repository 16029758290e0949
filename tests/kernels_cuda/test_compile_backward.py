"""The backward skeletons under nvcc: registers without spills, no local memory in the main loops.

The Hopper skeleton's products must not be serialised either, of which ptxas tells (C75xx).
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from device_harness import compile_unit, functions_of, has_nvcc, tool
from gradient_runs import Kernel

from attnlang.jit.units import Target
from attnlang.plan.cuda_backward_tiles import choose_backward_tiles
from attnlang.plan.widths import Widths

pytestmark = pytest.mark.skipif(not has_nvcc(), reason="no nvcc")

HERE = Path(__file__).resolve().parent
NVCC = ["nvcc", "-std=c++20", "-O3", "--expt-relaxed-constexpr", "-cubin", "-Xptxas=-v"]
_KERNEL = re.compile(
    r"Compiling entry function '(\w*Sm80Backward\w*)'.*?(\d+) bytes spill stores, "
    r"(\d+) bytes spill loads.*?Used (\d+) registers",
    re.DOTALL,
)
# The functor, its head dimension and the architecture.
CASES = [
    ("Causal", 128, "sm_80"),
    pytest.param(("Causal", 64, "sm_80"), marks=pytest.mark.slow),
    pytest.param(("Causal", 128, "sm_90a"), marks=pytest.mark.slow),
    pytest.param(("Causal", 256, "sm_80"), marks=pytest.mark.slow),
    pytest.param(("Factor", 32, "sm_80"), marks=pytest.mark.slow),
    pytest.param(("Biased", 64, "sm_80"), marks=pytest.mark.slow),
]


@cache
def _compile(functor: str, d: int, arch: str) -> tuple[Path, str]:
    tiles = choose_backward_tiles(Target.SM80, Widths(d, d, d, d, d), reads=functor == "Biased")
    kernel = Kernel(
        functor, d, d,
        keys=(tiles.keys.rows, tiles.keys.tile, tiles.keys.split),
        queries=(tiles.queries.rows, tiles.queries.tile, tiles.queries.split),
    )  # fmt: skip
    path, said = compile_unit([*NVCC, f"-arch={arch}"], kernel.text, f"-I{HERE}")
    assert path is not None, said[-6000:]
    return path, said


@pytest.mark.parametrize("case", CASES)
def test_no_register_is_spilled(case: tuple[str, int, str]) -> None:
    _, said = _compile(*case)
    kernels = _KERNEL.findall(said)
    assert len(kernels) == (4 if case[0] == "Biased" else 2), said
    for name, stores, loads, registers in kernels:
        assert (stores, loads) == ("0", "0"), f"{name} spills"
        assert int(registers) <= 255


HOPPER_KERNEL = re.compile(
    r"Compiling entry function '(\w*14BackwardKernel\w*)'.*?(\d+) bytes spill stores, "
    r"(\d+) bytes spill loads",
    re.DOTALL,
)
HOPPER_CASES = [
    ("ScaledCausal", 128, 128),
    pytest.param(("ScaledCausal", 64, 64), marks=pytest.mark.slow),
    pytest.param(("Scaled", 128, 128), marks=pytest.mark.slow),
    pytest.param(("Padded", 64, 128), marks=pytest.mark.slow),
    pytest.param(("Slopes", 128, 128), marks=pytest.mark.slow),
    pytest.param(("Factor", 64, 64), marks=pytest.mark.slow),
]


@cache
def _compile_hopper(functor: str, d: int, dv: int) -> tuple[Path, str]:
    block = choose_backward_tiles(Target.SM90, Widths(d, dv, d, dv, dv)).hopper
    assert block is not None
    kernel = Kernel(
        functor, d, dv, hopper=True, hopper_block=(block.rows, block.tile, block.stages)
    )
    path, said = compile_unit([*NVCC, "-arch=sm_90a"], kernel.text, f"-I{HERE}")
    assert path is not None, said[-6000:]
    return path, said


@pytest.mark.parametrize("case", HOPPER_CASES)
def test_products_on_hopper_are_not_serialised(case: tuple[str, int, int]) -> None:
    _, said = _compile_hopper(*case)
    assert not re.search(r"\(C7\d\d\d\)", said), said
    kernels = HOPPER_KERNEL.findall(said)
    assert len(kernels) == 1, said
    assert all((stores, loads) == ("0", "0") for _, stores, loads in kernels), said


@pytest.mark.skipif(tool("nvdisasm") is None, reason="no nvdisasm")
@pytest.mark.parametrize("case", HOPPER_CASES)
def test_hopper_loops_stay_in_registers(case: tuple[str, int, int]) -> None:
    path, _ = _compile_hopper(*case)
    functions = functions_of(path, "BackwardKernel")
    assert len(functions) == 1
    for function in functions:
        products = [m.start() for m in re.finditer(r"\bHGMMA\b", function)]
        assert products, "no product of a warpgroup"
        assert not re.search(r"\b(LDL|STL)\b", function[products[0] : products[-1]])
        assert "UTMALDG" in function, "the copy engine brings nothing"
        assert "UBLKRED" in function, "the copy engine adds nothing"
        assert "USETMAXREG" in function, "registers are not handed over"


@pytest.mark.skipif(tool("nvdisasm") is None, reason="no nvdisasm")
@pytest.mark.parametrize("case", CASES)
def test_main_loops_stay_in_registers(case: tuple[str, int, str]) -> None:
    path, _ = _compile(*case)
    functions = functions_of(path, "Sm80Backward")
    assert functions
    for function in functions:
        products = [m.start() for m in re.finditer(r"\bHMMA\.16816\.F32", function)]
        assert products, "no matrix product"
        loop = function[products[0] : products[-1]]
        assert not re.search(r"\b(LDL|STL)\b", loop), "a main loop keeps something in local memory"
        assert "LDGSTS.E.BYPASS.128" in function, "no asynchronous copy"
