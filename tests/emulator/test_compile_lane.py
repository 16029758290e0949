"""The real device headers under nvcc: no warnings, and few CPU seconds."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest
from device_harness import NVCC_SM80, NVCC_SM90, compile_unit, has_nvcc
from device_wrappers import SOURCE

pytestmark = pytest.mark.skipif(not has_nvcc(), reason="no nvcc")

_SM80_CASES = SOURCE.read_text().partition("// --- only sm_90")[0]
_SM90_CASES = SOURCE.read_text().partition("WGMMA_WIDTH(80)")[0]


@pytest.fixture
def cpu_seconds() -> Iterator[list[float]]:
    """Filled with the CPU seconds of what the test compiles."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield (spent := [before.ru_utime + before.ru_stime])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - spent[0] < 10


@pytest.mark.parametrize(
    ("command", "text"),
    [(NVCC_SM80, _SM80_CASES), (NVCC_SM90, _SM80_CASES), (NVCC_SM90, _SM90_CASES)],
    ids=["sm80", "sm80-kernels-for-sm90", "sm90"],
)
@pytest.mark.usefixtures("cpu_seconds")
def test_headers_compile_without_a_warning(command: list[str], text: str) -> None:
    path, said = compile_unit(command, text)
    assert path is not None, said[-6000:]
    assert not said.strip(), said[-6000:]


@pytest.mark.slow
def test_all_wrappers_compile_without_a_warning() -> None:
    path, said = compile_unit(NVCC_SM90, SOURCE.read_text())
    assert path is not None, said[-6000:]
    assert not said.strip(), said[-6000:]
