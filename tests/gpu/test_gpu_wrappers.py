"""Every wrapper on a GPU: device_wrappers.cu built by nvcc, against plain arithmetic.

The same text runs in the emulator (tests/emulator/test_wrappers.py); here the two are compared too,
where g++ is. What this proves is what the emulator cannot: the PTX.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from device_harness import EMULATOR, NVCC_SM80, NVCC_SM90, build, has_nvcc
from device_wrappers import SOURCE, Case, cases

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(not has_nvcc(), reason="no nvcc"),
]

CASES = cases()


def on_hopper() -> bool:
    return torch.cuda.get_device_capability() == (9, 0)


@pytest.fixture(scope="module")
def device_unit() -> ctypes.CDLL:
    if on_hopper():
        return build(NVCC_SM90, SOURCE.read_text())
    # Without the cases of Hopper, which no other card can load.
    text = SOURCE.read_text()
    return build(NVCC_SM80, text[: text.index("// --- only sm_90")])


@pytest.fixture(scope="module")
def emulated_unit() -> ctypes.CDLL:
    return build(EMULATOR, SOURCE.read_text())


def call(unit: ctypes.CDLL, name: str, given: int, out: int, stream: int | None) -> None:
    function = getattr(unit, f"case_{name}")
    function.restype = ctypes.c_char_p
    function.argtypes = [ctypes.c_void_p] * 3
    report = function(given, out, stream)
    assert report is None, report.decode()


def bytes_of(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x).view(np.uint8).reshape(-1).copy())


def on_device(unit: ctypes.CDLL, name: str, case: Case) -> np.ndarray:
    given, out = bytes_of(case.given).cuda(), bytes_of(case.output).cuda()
    stream = torch.cuda.current_stream().cuda_stream
    call(unit, name, given.data_ptr(), out.data_ptr(), stream)
    torch.cuda.synchronize()
    return out.cpu().numpy().view(case.output.dtype).reshape(case.output.shape)


def emulated(unit: ctypes.CDLL, name: str, case: Case) -> np.ndarray:
    given, out = bytes_of(case.given), bytes_of(case.output)
    call(unit, name, given.data_ptr(), out.data_ptr(), None)
    return out.numpy().view(case.output.dtype).reshape(case.output.shape)


@pytest.mark.parametrize("name", CASES)
def test_wrapper_on_the_device(
    device_unit: ctypes.CDLL, emulated_unit: ctypes.CDLL, name: str
) -> None:
    case = CASES[name]
    if case.needs_sm90 and not on_hopper():
        pytest.skip("needs a card of compute capability 9.0")
    got = on_device(device_unit, name, case)
    case.check(got)
    twin = emulated(emulated_unit, name, case)
    if case.bound or case.relative:
        np.testing.assert_allclose(got, twin, rtol=2 * case.relative, atol=2 * case.bound)
    else:
        np.testing.assert_array_equal(got, twin)
