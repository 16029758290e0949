"""Small kernels in the emulator: many bodies a unit, arrays in, arrays out, or a report."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
from device_harness import EMULATOR, build

_TYPES = {
    "float32": "float", "int32": "int", "uint32": "uint32_t", "uint16": "uint16_t",
    "uint8": "uint8_t", "int64": "int64_t", "uint64": "uint64_t",
}  # fmt: skip
_HEAD = """
#include "attnlang/device/launch.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/device/tma.cuh"
#include "attnlang/device/turns.cuh"
#include "attnlang/device/wgmma.cuh"
using namespace attnlang;
using namespace attnlang::cuda;
"""


class Report(Exception):
    """What the emulator says of a kernel."""


class Unit:
    """Kernels that are compiled together, when the first of them runs."""

    def __init__(self, helpers: str = "") -> None:
        self._text = [_HEAD, helpers]
        self._launches: list[str] = []
        self._built: Callable[..., bytes | None] | None = None
        self._failed = False

    def kernel(self, body: str, *types: str, host: str = "") -> Callable[..., None]:
        """Add a kernel over arrays `x0`, `x1` ... of these types, which it may change in place.

        `host` are statements that define `TensorMap map` from the arrays, for a kernel that reads
        `map`; they may return a text to refuse.
        """
        number = len(self._launches)
        signature = [f"[[maybe_unused]] {_TYPES[t]}* x{i}" for i, t in enumerate(types)]
        values = [f"x{i}" for i in range(len(types))]
        if host:
            signature.append("const __grid_constant__ TensorMap map")
            values.append("map")
        self._text.append(
            f"__global__ void kernel_{number}({', '.join(signature)}) {{\n{body}\n}}\n"
        )
        casts = "".join(
            f"auto* x{i} = static_cast<{_TYPES[t]}*>(p[{i}]);\n" for i, t in enumerate(types)
        )
        self._launches.append(
            f"case {number}: {{\n{casts}{host}\nreturn launch(kernel_{number}, dim3(grid), block,"
            f" shared_bytes, nullptr{''.join(', ' + v for v in values)});\n}}\n"
        )

        def run(
            *arrays: np.ndarray, grid: int = 1, block: int = 32, shared: int = 1024, seed: int = 0
        ) -> None:
            assert [str(a.dtype) for a in arrays] == list(types)
            pointers = (ctypes.c_void_p * max(1, len(arrays)))(*(a.ctypes.data for a in arrays))
            report = self._function()(number, grid, block, shared, seed, pointers)
            if report is not None:
                raise Report(report.decode())

        return run

    def _function(self) -> Callable[..., bytes | None]:
        if self._built is None:
            assert not self._failed, "the unit does not compile"
            self._failed = True
            text = "".join(self._text) + (
                'extern "C" __attribute__((visibility("default"))) const char* run(\n'
                "    int which, int grid, int block, size_t shared_bytes, uint64_t seed,\n"
                "    [[maybe_unused]] void** p) {\n"
                "  emulator::set_seed(seed);\n"
                f"  switch (which) {{\n{''.join(self._launches)}}}\n"
                '  return "no such kernel";\n}\n'
            )
            self._built = build(EMULATOR, text).run
            self._failed = False
            self._built.restype = ctypes.c_char_p
            self._built.argtypes = [
                ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint64,
                ctypes.POINTER(ctypes.c_void_p),
            ]  # fmt: skip
        return self._built
