"""What the machine can do at most, measured beside the attention: products and reading.

Maps `codegen/bench/rates.cpp`, built like a kernel, and torch's matrix product to works that tell
how much they do. Invariant: a rate is of the same run, threads and clock as what it is compared to.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from attnlang.assets import asset
from attnlang.bench.clock import Work
from attnlang.jit.build import build
from attnlang.jit.loader import load
from attnlang.jit.units import Sources, Target, Unit

_ENTRY_POINTS = ("attnlang_rate_fma", "attnlang_rate_dot16", "attnlang_rate_read")
_ITERATIONS = 3_000_000  # about 10 ms on a core
_SIDE = 1024


@dataclass(frozen=True, slots=True)
class Rated:
    """A work, and how many operations or bytes it is."""

    work: Work
    amount: float


@cache
def _library() -> ctypes.CDLL:
    text = asset("codegen", "bench", "rates.cpp").read_text(encoding="utf-8")
    # Standard C++ alone does not let a product and a sum become one instruction.
    unit = Unit("rates.cpp", text, flags=("-ffp-contract=fast",))
    library = load(build(Sources("rates", Target.CPU, (unit,), _ENTRY_POINTS)))
    library.attnlang_rate_fma.argtypes = (ctypes.c_int64,)
    library.attnlang_rate_dot16.argtypes = (ctypes.c_int64,)
    library.attnlang_rate_read.argtypes = (ctypes.c_void_p, ctypes.c_int64)
    for name in _ENTRY_POINTS:
        getattr(library, name).restype = ctypes.c_double
    return library


def peak(dtype: torch.dtype) -> Rated | None:
    """Return multiply-adds in registers; in bfloat16 None where the CPU has no such dot product."""
    name = "attnlang_rate_dot16" if dtype == torch.bfloat16 else "attnlang_rate_fma"
    function: Callable[[int], float] = getattr(_library(), name)
    amount = function(1) * _ITERATIONS
    return Rated(lambda: function(_ITERATIONS), amount) if amount else None


def matrix_product(dtype: torch.dtype) -> Rated:
    """Return torch's product of two matrices that fit the caches."""
    left, right = (torch.randn(_SIDE, _SIDE).to(dtype) for _ in range(2))
    result = torch.empty(_SIDE, _SIDE, dtype=dtype)
    return Rated(lambda: torch.mm(left, right, out=result), 2.0 * _SIDE**3)


def reading(tensors: tuple[Tensor, ...]) -> Rated:
    """Return one pass over the memory of contiguous tensors."""
    if not all(t.is_contiguous() for t in tensors):
        raise ValueError("only contiguous tensors are read as memory")
    read: Callable[[int, int], float] = _library().attnlang_rate_read
    spans = [(t.data_ptr(), t.nbytes) for t in tensors]
    return Rated(lambda: [read(*s) for s in spans], float(sum(size for _, size in spans)))
