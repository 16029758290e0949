"""Every wrapper of the device headers in the emulator, against plain arithmetic."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from device_harness import EMULATOR, build
from device_wrappers import SOURCE, Case, cases

CASES = cases()
_SEED = """
extern "C" __attribute__((visibility("default"))) void set_emulator_seed(uint64_t seed) {
  emulator::set_seed(seed);
}
"""


@pytest.fixture(scope="module")
def unit() -> ctypes.CDLL:
    return build(EMULATOR, SOURCE.read_text() + _SEED)


def run(unit: ctypes.CDLL, name: str, case: Case) -> np.ndarray:
    function = getattr(unit, f"case_{name}")
    function.restype = ctypes.c_char_p
    function.argtypes = [ctypes.c_void_p] * 3
    # TMA wants its tensors 16-byte aligned.
    given = _aligned(np.ascontiguousarray(case.given))
    out = _aligned(case.output)
    report = function(given.ctypes.data, out.ctypes.data, None)
    assert report is None, report.decode()
    return out


def _aligned(x: np.ndarray) -> np.ndarray:
    memory = np.empty(x.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("name", CASES)
def test_wrapper(unit: ctypes.CDLL, name: str, seed: int) -> None:
    unit.set_emulator_seed(ctypes.c_uint64(seed))
    CASES[name].check(run(unit, name, CASES[name]))
