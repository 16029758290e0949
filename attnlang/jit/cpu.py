"""The CPU of this machine: what it can do, under the kernel's names for it.

Maps `/proc/cpuinfo` to a `Cpu`, and the compiler's target macros to the features that code built
with them needs. Invariant: both sides use the names of `/proc/cpuinfo`, so a needed feature is
there exactly when it is among the CPU's.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# The compiler's macro -> the feature that it promises. Only what compilers emit code for.
MACROS: Mapping[str, str] = {
    "__SSE3__": "pni",
    "__SSSE3__": "ssse3",
    "__SSE4_1__": "sse4_1",
    "__SSE4_2__": "sse4_2",
    "__SSE4A__": "sse4a",
    "__POPCNT__": "popcnt",
    "__MOVBE__": "movbe",
    "__LZCNT__": "abm",
    "__BMI__": "bmi1",
    "__BMI2__": "bmi2",
    "__AVX__": "avx",
    "__AVX2__": "avx2",
    "__FMA__": "fma",
    "__F16C__": "f16c",
    "__AVXVNNI__": "avx_vnni",
    "__AVX512F__": "avx512f",
    "__AVX512BW__": "avx512bw",
    "__AVX512CD__": "avx512cd",
    "__AVX512DQ__": "avx512dq",
    "__AVX512VL__": "avx512vl",
    "__AVX512IFMA__": "avx512ifma",
    "__AVX512VBMI__": "avx512vbmi",
    "__AVX512VBMI2__": "avx512_vbmi2",
    "__AVX512VNNI__": "avx512_vnni",
    "__AVX512BITALG__": "avx512_bitalg",
    "__AVX512VPOPCNTDQ__": "avx512_vpopcntdq",
    "__AVX512BF16__": "avx512_bf16",
    "__AVX512FP16__": "avx512_fp16",
    "__AMX_TILE__": "amx_tile",
    "__AMX_BF16__": "amx_bf16",
    "__AMX_INT8__": "amx_int8",
    "__GFNI__": "gfni",
    "__AES__": "aes",
    "__VAES__": "vaes",
    "__PCLMUL__": "pclmulqdq",
    "__SHA__": "sha_ni",
    "__ARM_NEON": "asimd",
    "__ARM_FEATURE_FP16_VECTOR_ARITHMETIC": "asimdhp",
    "__ARM_FEATURE_DOTPROD": "asimddp",
    "__ARM_FEATURE_BF16_VECTOR_ARITHMETIC": "bf16",
    "__ARM_FEATURE_MATMUL_INT8": "i8mm",
    "__ARM_FEATURE_SVE": "sve",
    "__ARM_FEATURE_SVE2": "sve2",
}

_AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
_AVX2 = frozenset({"avx2", "fma", "f16c"})
_IDENTITY = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU architecture", "CPU part")


@dataclass(frozen=True, slots=True)
class Cpu:
    """A CPU: the machine's name for its kind, the model, and the features that matter here."""

    machine: str
    name: str
    identity: str  # what `-march=native` depends on beside the features
    features: frozenset[str]

    def missing(self, needed: Iterable[str]) -> tuple[str, ...]:
        """Return the needed features that this CPU lacks."""
        return tuple(sorted(set(needed) - self.features))

    @property
    def vector_path(self) -> str:
        """The vector code that native kernels use here."""
        if self.features >= _AVX512:
            return "AVX-512"
        return "AVX2" if self.features >= _AVX2 else "portable"


def parse_cpuinfo(text: str, machine: str) -> Cpu:
    """Map the text of `/proc/cpuinfo` to the first CPU that it lists."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    listed = fields.get("flags", fields.get("Features", "")).split()
    return Cpu(
        machine=machine,
        name=fields.get("model name", machine),
        identity="/".join(fields.get(key, "") for key in _IDENTITY),
        features=frozenset(listed) & frozenset(MACROS.values()),
    )


@cache
def this_cpu() -> Cpu:
    """Return this machine's CPU; without `/proc/cpuinfo`, one without known features."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return parse_cpuinfo(text, platform.machine())
