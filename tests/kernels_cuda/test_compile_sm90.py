"""The Hopper kernels under nvcc: products stay in flight, plain loops in registers.

ptxas says where it gives either up (C75xx), or cannot place the registers that warpgroups hand over
(C7600): a function that is called at run time is enough for that, so specs whose verdicts divide or
read tensors are looked at too.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from device_harness import ROOT, compile_unit, functions_of, has_nvcc, tool

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
struct Tiles {{
  static constexpr int kQueryTile = {rows}, kKeyTile = {keys}, kStages = {stages};
}};
auto* kernel() {{ return &sm90::forward<{functor}, Bf16, {d}, {d}, Tiles>; }}
}}
"""


# The functor, head dimension, tile and stages; bytes that are spilled around the loop: what the
# first product of an item is described with, numbers of barriers and, of masked tiles, ranges.
CASES = [
    ("Scaled<Plain>", 128, (128, 176, 2), 0),
    pytest.param("Scaled<Plain>", 64, (192, 128, 4), 96, marks=pytest.mark.slow),
    pytest.param("Scaled<Plain>", 256, (128, 80, 2), 0, marks=pytest.mark.slow),
    pytest.param("Scaled<Causal>", 128, (128, 128, 3), 128, marks=pytest.mark.slow),
    pytest.param("Scaled<Causal>", 256, (128, 80, 2), 128, marks=pytest.mark.slow),
]


def _compile(functor: str, d: int, tiles: tuple[int, int, int]) -> tuple[Path, str]:
    rows, keys, stages = tiles
    text = _UNIT.format(functor=functor, d=d, rows=rows, keys=keys, stages=stages)
    path, said = compile_unit(NVCC, text, f"-I{HERE}")
    assert path is not None, said[-6000:]
    assert "sm907forward" in said
    return path, said


@pytest.mark.parametrize(("functor", "d", "tiles", "spilled"), CASES)
def test_registers_are_spilled_around_loops_alone(
    functor: str, d: int, tiles: tuple[int, int, int], spilled: int
) -> None:
    _, said = _compile(functor, d, tiles)
    assert not re.search(r"\(C7\d+\)", said), said[-6000:]
    assert max(map(int, re.findall(r"(\d+) bytes spill", said))) <= spilled, said[-6000:]


@pytest.mark.skipif(tool("nvdisasm") is None, reason="no nvdisasm")
@pytest.mark.parametrize(("functor", "d", "tiles", "spilled"), CASES)
def test_full_tiles_move_nothing(
    functor: str, d: int, tiles: tuple[int, int, int], spilled: int
) -> None:
    del spilled
    path, _ = _compile(functor, d, tiles)
    (function,) = functions_of(path, "sm907forward")
    loops = [f for f in _loops(function) if "HGMMA" in f]
    inner = min(loops, key=len)
    products = d // 16 + tiles[1] // 16
    assert len(re.findall(r"\bHGMMA\b", inner)) == products
    found = re.findall(r"\b(LDL|STL|R2UR)\b", inner)
    assert not found, f"local memory, or descriptors outside uniform registers: {found}"


def _loops(function: str) -> list[str]:
    """Return the instructions of each backward branch's target up to the branch."""
    places = {m[1]: m.start() for m in re.finditer(r"^(\.L_x_\d+):", function, re.MULTILINE)}
    branches = re.finditer(r"\bBRA\b.*?`\((\.L_x_\d+)\)", function)
    return [
        function[places[m[1]] : m.end()] for m in branches if places.get(m[1], m.end()) < m.start()
    ]


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
