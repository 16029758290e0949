"""compute-sanitizer over a small call of every skeleton: no access outside memory, no race.

memcheck and racecheck see the kernels themselves, which the emulator takes the place of. A call
runs once without the tool, which builds its kernel and compares its result.

racecheck takes an arrival at an mbarrier to release what its own thread wrote, not what the other
lanes of the warp wrote before a __syncwarp, which the memory model of PTX orders too. The Hopper
skeletons hand on their stages so, one arrival a warp: of them it would report races that are none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from sanitized import CASES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TOOLS = ("memcheck", "racecheck")
_FOUND = 99  # what the tool exits with where it has found something

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(not shutil.which("compute-sanitizer"), reason="no compute-sanitizer"),
]


def run(case: str, *tool: str) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(paths), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return subprocess.run(
        [*tool, sys.executable, str(HERE / "sanitized.py"), case],
        env=os.environ | own, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def checked(tool: str, case: str) -> subprocess.CompletedProcess[str]:
    return run(
        case, "compute-sanitizer", "--tool", tool, "--error-exitcode", str(_FOUND),
        "--target-processes", "application-only", "--print-limit", "5",
    )  # fmt: skip


def said(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stdout + done.stderr)[-3000:]


@cache
def trouble(tool: str) -> str:
    """Return why a tool does not work here; nothing if it does."""
    done = checked(tool, "nothing")
    return "" if done.returncode == 0 else said(done)


# Of several launches, one is of a Hopper skeleton on such a card.
_ARRIVES_BY_WARPS = ("forward", "forward_gather", "transforms", "lines", "backward", "ragged")


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("case", [case for case in CASES if case != "nothing"])
def test_nothing_is_found(case: str, tool: str) -> None:
    on_hopper = torch.cuda.get_device_capability() == (9, 0)
    if tool == "racecheck" and case in _ARRIVES_BY_WARPS and on_hopper:
        pytest.skip("racecheck does not know an mbarrier's arrival for a warp")
    if reason := trouble(tool):
        pytest.skip(f"compute-sanitizer does not work here: {reason}")
    built = run(case)
    assert built.returncode == 0, said(built)
    done = checked(tool, case)
    assert done.returncode == 0, said(done)
