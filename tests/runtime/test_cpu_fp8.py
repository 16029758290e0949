"""Rows of 8-bit floats, on every instruction set of the kernels: as torch reads them."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from cpu_harness import build

WIDTH = 40  # registers, and a rest
KINDS = {torch.float8_e4m3fn: "f8e4m3", torch.float8_e5m2: "f8e5m2"}
ELEMENTS = {torch.float32: "float", torch.bfloat16: "Bf16", torch.float16: "Half"}

_SOURCE = """
#include "attnlang/cpu/fp8.h"
using namespace attnlang;
#define READER(kind, element)                                                                  \\
  extern "C" void kind##_##element(element* to, const uint8_t* rows, int count, float scale) { \\
    const cpu::Fp8Reader<DType::kind, element> reader(scale);                                  \\
    for (int i = 0; i < count; ++i) reader.template read<40>(to + i * 40, rows + i * 40);      \\
  }
""" + "\n".join(
    f"READER({kind}, {element})" for kind in KINDS.values() for element in ELEMENTS.values()
)


@pytest.fixture(scope="module", params=["native", "x86-64-v3", "x86-64"])
def lib(request: pytest.FixtureRequest) -> ctypes.CDLL:
    if request.param == "x86-64-v3" and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("no AVX2")
    return build(_SOURCE, f"-march={request.param}")


@pytest.mark.parametrize("scale", [1.0, -1.7, 1e37, 1e-30])
@pytest.mark.parametrize("element", ELEMENTS, ids=str)
@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_every_code(
    lib: ctypes.CDLL, dtype: torch.dtype, element: torch.dtype, scale: float
) -> None:
    """Every code at every place of a row; scales whose product with 256 is beyond float32 too."""
    codes = ((torch.arange(256).unsqueeze(1) + torch.arange(WIDTH)) % 256).to(torch.uint8)
    got = torch.full((256, WIDTH), torch.nan, dtype=element)
    read = getattr(lib, f"{KINDS[dtype]}_{ELEMENTS[element]}")
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (got, codes)]
    read(*pointers, 256, ctypes.c_float(scale))
    want = (codes.view(dtype).float() * torch.tensor(scale)).to(element)
    assert torch.equal(got.isnan(), want.isnan())
    finite = ~want.isnan()
    assert torch.equal(got[finite], want[finite])
