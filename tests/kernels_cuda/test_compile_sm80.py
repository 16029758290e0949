"""The mma.sync kernels under nvcc: registers without spills, and what their main loops consist of.

What is read of a kernel is ptxas's own account; with `nvdisasm` (PyPI has it as
nvidia-cuda-nvdisasm) also the instructions between its first and its last matrix product.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from device_harness import compile_unit, functions_of, has_nvcc, tool

pytestmark = pytest.mark.skipif(not has_nvcc(), reason="no nvcc")

HERE = Path(__file__).resolve().parent
NVCC = [
    "nvcc", "-std=c++20", "-O3", "--expt-relaxed-constexpr", "-arch=sm_80", "-cubin", "-Xptxas=-v",
]  # fmt: skip
_UNIT = """
#include "kernels/sm80_attention.cuh"
#include "variants.cuh"
namespace attnlang::cuda {{
struct Tiles {{
  static constexpr int kQueryTile = {rows}, kKeyTile = {keys}, kStages = 2, kWarps = {warps},
                       kBlocks = 1;
}};
int run(const Call* call, char* error) {{
  return sm80_run<{functor}, Bf16, {d}, {dv}, Tiles>(*call, error);
}}
}}
"""
_KERNEL = re.compile(
    r"Compiling entry function '(\w*Sm80Forward\w*)'.*?(\d+) bytes spill stores, "
    r"(\d+) bytes spill loads.*?Used (\d+) registers",
    re.DOTALL,
)
# The functor, dimensions and tiles: what the plan gives for them.
CASES = [
    ("Causal", 128, 128, 128, 64, 8),
    pytest.param(("SoftCap", 64, 64, 128, 64, 8), marks=pytest.mark.slow),
    pytest.param(("Factor", 32, 32, 128, 64, 8), marks=pytest.mark.slow),
    pytest.param(("Causal", 256, 256, 128, 32, 8), marks=pytest.mark.slow),
    pytest.param(("ValueOfKey", 576, 512, 32, 16, 4), marks=pytest.mark.slow),
]


@cache
def _compile(functor: str, d: int, dv: int, rows: int, keys: int, warps: int) -> tuple[Path, str]:
    """Compile for many rows and for few; compiled once for all tests."""
    text = _UNIT.format(functor=functor, d=d, dv=dv, rows=rows, keys=keys, warps=warps)
    path, said = compile_unit(NVCC, text, f"-I{HERE}")
    assert path is not None, said[-6000:]
    return path, said


@pytest.mark.parametrize("case", CASES)
def test_no_register_is_spilled(case: tuple[str, int, int, int, int, int]) -> None:
    _, said = _compile(*case)
    kernels = _KERNEL.findall(said)
    assert len(kernels) == 2, said
    for name, stores, loads, registers in kernels:
        assert (stores, loads) == ("0", "0"), f"{name} spills"
        assert int(registers) <= 255


@pytest.mark.skipif(tool("nvdisasm") is None, reason="no nvdisasm")
@pytest.mark.parametrize("case", CASES)
def test_main_loops_stay_in_registers(case: tuple[str, int, int, int, int, int]) -> None:
    path, _ = _compile(*case)
    functions = functions_of(path, "Sm80Forward")
    assert len(functions) == 2
    for function in functions:
        products = [m.start() for m in re.finditer(r"\bHMMA\.16816\.F32", function)]
        assert products, "no matrix product"
        loop = function[products[0] : products[-1]]
        assert not re.search(r"\b(LDL|STL)\b", loop), "a main loop keeps something in local memory"
        assert "LDGSTS.E.BYPASS.128" in function, "no asynchronous copy"
