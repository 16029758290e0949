"""Offsets of packed calls as a GPU finds them: unchecked, in its own memory, in the emulator."""

from __future__ import annotations

import ctypes
import math
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from device_harness import EMULATOR, build

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "runtime"))

from cpu_harness import Call, per_request  # noqa: E402
from cuda_harness import Kernel  # noqa: E402
from packed_call import CPacked, CPackedAxis  # noqa: E402

_UNIT = """
#include HEADER
#include "packed_variants.cuh"
using namespace attnlang;
using namespace attnlang::cuda;
struct Tiles {
  static constexpr int kQueryTile = 64, kKeyTile = 64, kStages = 2, kWarps = 4, kBlocks = 1;
  static constexpr bool kLargeShared = LARGE_SHARED;
};
#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT int attnlang_run(const Call* call, char* error) {
  return RUN<FUNCTOR, Bf16, 32, 32, Tiles, Bf16>(*call, error);
}
EXPORT int64_t attnlang_workspace(const Call* call) {
  return WORKSPACE<FUNCTOR, Bf16, 32, 32, Tiles, Bf16>(*call);
}
EXPORT void set_seed(uint64_t seed) { emulator::set_seed(seed); }
"""
HEADS, KV_HEADS, ROWS, COLUMNS, DIM = 4, 2, 150, 260, 32
DOORS = ("sm80", "sm90")


@cache
def _kernel(door: str, functor: str = "OfRequests") -> Kernel:
    names = {
        "FUNCTOR": f"{functor}<Causal>",
        "HEADER": f'"kernels/{door}_packed.cuh"',
        "LARGE_SHARED": "true" if door == "sm90" else "false",
        "RUN": f"{door}_packed_run",
        "WORKSPACE": f"{door}_packed_workspace",
    }
    defined = [f"-D{name}={value}" for name, value in names.items()]
    library = build(EMULATOR, _UNIT, f"-I{HERE}", *defined)
    library.attnlang_workspace.restype = ctypes.c_int64
    library.set_seed.argtypes = [ctypes.c_uint64]
    return Kernel(library)


def _run(door: str, q_indptr: list[int], kv_indptr: list[int], seed: int) -> Call:
    """Run a call of these offsets; its results start as NaN."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(rows, heads, DIM, generator=g).bfloat16().transpose(0, 1)[None]
        for rows, heads in ((ROWS, HEADS), (COLUMNS, KV_HEADS), (COLUMNS, KV_HEADS))
    )
    call = Call(q, k, v)
    for name in ("q", "k", "v", "out", "lse"):
        getattr(call.c, name).stride[0] = 0
    offsets = [torch.tensor(x, dtype=torch.int32) for x in (q_indptr, kv_indptr)]
    packed = CPacked(len(q_indptr) - 1, *map(per_request, offsets))
    call.c.packed = ctypes.addressof(packed)
    _kernel(door).run(call, seed)
    return call


def _expected(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention of one request, in float64: [heads, rows, DIM]."""
    k, v = (x.double().repeat_interleave(HEADS // KV_HEADS, 0) for x in (k, v))
    scores = q.double() @ k.mT * DIM**-0.5
    n, m = scores.shape[1:]
    keep = torch.arange(m) <= torch.arange(n)[:, None] + m - n
    weights = scores.masked_fill(~keep, -math.inf).softmax(-1).nan_to_num(0)
    return weights @ v


# Requests of other rows than the tensors have: each takes those that are there.
CASES = {
    "in order": ([0, 1, 20, 20, 150], [0, 90, 130, 135, 260]),
    "ends early": ([0, 17, 33], [0, 60, 61]),
    "begins late": ([5, 20, 140], [100, 200, 230]),
    "too long": ([0, 100, 900], [0, 200, 5000]),
    "beyond": ([0, 400, 500], [0, 400, 500]),
    "negative": ([-50, 30, 150], [-7, 44, 260]),
    "back and forth": ([0, 120, 40, 150], [0, 200, 100, 260]),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", CASES)
def test_a_request_has_the_rows_that_are_there(name: str, door: str) -> None:
    q_indptr, kv_indptr = CASES[name]
    rising = q_indptr == sorted(q_indptr)
    for seed in range(2):
        call = _run(door, q_indptr, kv_indptr, seed)
        q, k, v, out = (x[0].float() for x in (call.q, call.k, call.v, call.out))
        written = torch.zeros(ROWS, dtype=torch.bool)
        for b in range(len(q_indptr) - 1):
            first, last = (min(max(x, 0), ROWS) for x in q_indptr[b : b + 2])
            begin, end = (min(max(x, 0), COLUMNS) for x in kv_indptr[b : b + 2])
            written[first:last] = True
            if rising:
                own = q[:, first:last], k[:, begin:end], v[:, begin:end]
                torch.testing.assert_close(
                    out[:, first:last], _expected(*own).float(), atol=2e-2, rtol=2e-2
                )
        assert out[:, ~written].isnan().all()


PAGES, PAGE = 9, 16
# q_indptr, page_indptr, page numbers and lengths; a wild number stands for the nearest page.
TABLES = {
    "in order": ([0, 3, 40, 41], [0, 2, 4, 5], [8, 0, 3, 3, 1], [20, 32, 1]),
    "wild numbers": ([0, 3, 40, 41], [0, 2, 4, 5], [-4, 900, 2**31 - 1, 7, 9], [32, 31, 16]),
    "wild lengths": ([0, 3, 40, 41], [0, 2, 4, 5], [8, 0, 3, 6, 1], [99, -3, 17]),
    "back and forth": ([0, 3, 40, 41], [0, 5, 0, 5], [8, 0, 3, 6, 1], [80, 80, 80]),
    "wild offsets": ([0, 3, 40, 41], [-2, 2, 70, 90], [8, 0, 3, 6, 1], [25, 25, 25]),
}


@pytest.mark.parametrize("functor", ["OfRequests", "KeyTensor"])
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("door", DOORS)
def test_pages_are_those_that_are_there(name: str, functor: str, door: str) -> None:
    q_indptr, page_indptr, numbers, lengths = TABLES[name]
    g = torch.Generator().manual_seed(0)
    q = torch.randn(1, HEADS, q_indptr[-1], DIM, generator=g).bfloat16()
    k, v = (torch.randn(PAGES, KV_HEADS, PAGE, DIM, generator=g).bfloat16() for _ in range(2))
    tables = [torch.tensor(x, dtype=torch.int32) for x in (q_indptr, page_indptr, numbers, lengths)]
    beside = torch.zeros(PAGES, PAGE, 4)
    call = Call(q, k, v, out=torch.full_like(q, math.nan), kv_lens=tables[3], tensors=(beside[0],))
    call.c.q.stride[0] = call.c.out.stride[0] = call.c.lse.stride[0] = 0
    starts, first, pages, _ = map(per_request, tables)
    packed = CPacked(len(q_indptr) - 1, starts, per_request(0), first, pages, len(numbers), PAGE)
    axis = CPackedAxis(3, 0, beside.stride(0))
    packed.tensors, packed.tensor_count = ctypes.addressof(axis), 1
    call.c.packed = ctypes.addressof(packed)
    _kernel(door, functor).run(call, 0)
    count = len(numbers)
    for b, length in enumerate(lengths):
        begin, end = (min(max(x, 0), count) for x in page_indptr[b : b + 2])
        own = [min(max(x, 0), PAGES - 1) for x in numbers[begin:end]]
        rows = slice(q_indptr[b], q_indptr[b + 1])
        keys = [
            x[own].transpose(0, 1).reshape(KV_HEADS, -1, DIM)[:, : max(length, 0)] for x in (k, v)
        ]
        want = _expected(q[0, :, rows].float(), *(x.float() for x in keys))
        torch.testing.assert_close(call.out[0, :, rows].double(), want, atol=2e-2, rtol=2e-2)
