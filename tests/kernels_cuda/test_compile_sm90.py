"""The Hopper kernels under nvcc: products stay in flight, plain loops in registers.

ptxas says where it gives either up (C75xx), or cannot place the registers that warpgroups hand over
(C7600): a function that is called at run time is enough for that, so specs whose verdicts divide or
read tensors are looked at too.
"""

from __future__ import annotations

import re

import pytest
from device_harness import ROOT, compile_unit, has_nvcc

from attnlang.cli.commands import run_command

pytestmark = pytest.mark.skipif(not has_nvcc(), reason="no nvcc")

HERE = ROOT / "tests" / "kernels_cuda"
NVCC = [
    "nvcc", "-std=c++20", "-O3", "--expt-relaxed-constexpr", "-prec-div=false", "-prec-sqrt=false",
    "-gencode=arch=compute_90a,code=sm_90a", "-cubin", "-Xptxas=-v",
]  # fmt: skip
_UNIT = """
#include "kernels/sm90_attention.cuh"
#include "variants.cuh"
namespace attnlang::cuda {{
struct Tiles {{ static constexpr int kQueryTile = {rows}, kKeyTile = {keys}, kStages = 2; }};
auto* kernel() {{ return &sm90::forward<{functor}, Bf16, {d}, {d}, Tiles>; }}
}}
"""


@pytest.mark.parametrize(
    ("functor", "d", "rows", "keys", "spilled"),
    [
        ("Scaled<Plain>", 128, 128, 176, 0),
        # What the first product of an item is described with, and numbers of barriers.
        pytest.param("Scaled<Plain>", 64, 192, 128, 128, marks=pytest.mark.slow),
        pytest.param("Scaled<Plain>", 256, 128, 80, 96, marks=pytest.mark.slow),
    ],
)
def test_plain_tiles_spill_no_register(
    functor: str, d: int, rows: int, keys: int, spilled: int
) -> None:
    text = _UNIT.format(functor=functor, d=d, rows=rows, keys=keys)
    path, said = compile_unit(NVCC, text, f"-I{HERE}")
    assert path is not None, said[-6000:]
    assert "sm907forward" in said
    assert not re.search(r"\(C7\d+\)", said), said[-6000:]
    assert max(map(int, re.findall(r"(\d+) bytes spill", said))) <= spilled, said[-6000:]


@pytest.mark.parametrize(
    "name",
    ["tree", *(pytest.param(n, marks=pytest.mark.slow) for n in ("chunked", "bigbird", "axial"))],
)
def test_no_function_is_called_at_run_time(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    spec = str(ROOT / "examples" / f"{name}.attn")
    assert (
        run_command(["show", spec, "--stage", "source", "--target", "sm90", "--head-dim", "64"])
        == 0
    )
    path, said = compile_unit(NVCC, capsys.readouterr().out)
    assert path is not None, said[-6000:]
    assert "sm907forward" in said
    assert not re.search(r"\(C7\d+\)", said), said[-6000:]
