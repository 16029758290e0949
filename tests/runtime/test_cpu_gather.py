"""`attnlang/host/tensor_view.h`, `cpu/gather.h`, `cpu/element.h`: reads, and float16/bfloat16."""

from __future__ import annotations

import ctypes
import math
import mmap

import pytest
import torch
from cpu_harness import CTensor, build, tensor

TYPES = {
    torch.float32: "float", torch.float64: "double", torch.float16: "Half",
    torch.bfloat16: "Bf16", torch.int8: "int8_t", torch.int16: "int16_t", torch.int32: "int32_t",
    torch.int64: "int64_t", torch.uint8: "uint8_t", torch.bool: "bool",
}  # fmt: skip

_SOURCE = r"""
#include "attnlang/cpu/element.h"
#include "attnlang/cpu/gather.h"
#include "attnlang/cpu/reduce.h"
using namespace attnlang;
using namespace attnlang::cpu;
inline void put(void* out, int k, F x) { store(static_cast<float*>(out) + k, x); }
inline void put(void* out, int k, L x) { store(static_cast<int64_t*>(out) + k, x); }
inline void put(void* out, int k, I x) { put(out, k, to_long(x)); }
// t[i, j] for vectors of indices, by each form of index; the results as float or int64.
#define READ(T) \
  extern "C" void read_##T(const Tensor* t, const int32_t* i, const int64_t* j, void* out, int n, \
                           int form) { \
    const View<T, 2> v = view<T, 2>(*t); \
    for (int k = 0; k < n; k += kLanes) { \
      const I narrow_i = load_i(i + k); \
      const L wide_j = load_l(j + k); \
      const auto r = form == 0   ? load(v, narrow_i, wide_j) \
                     : form == 1 ? load(v, narrow_i, to_int(wide_j)) \
                     : form == 2 ? load(v, int64_t{i[0]}, to_int(wide_j)) \
                     : form == 3 ? load(v, to_long(narrow_i), int32_t(j[0])) \
                     : form == 4 ? load(v, inside(within(narrow_i, v.size[0])), to_int(wide_j)) \
                     : form == 5 ? load(v, inside(int64_t{0}), inside(to_long(within( \
                                                                  to_int(wide_j), v.size[1])))) \
                                 : load(v, narrow_i, inside(int64_t{0})); \
      put(out, k, r); \
    } \
  } \
  extern "C" double scalar_##T(const Tensor* t, int64_t i, int32_t j) { \
    return load(view<T, 2>(*t), i, j); \
  }
extern "C" void round_trip(const float* x, uint16_t* bf16, uint16_t* half, float* a, float* b,
                           int n) {
  for (int i = 0; i < n; ++i) {
    bf16[i] = to_bf16(x[i]).bits;
    half[i] = to_half(x[i]).bits;
  }
  row_to_float(a, reinterpret_cast<const Bf16*>(bf16), 1, n);
  row_to_float(b, reinterpret_cast<const Half*>(half), 1, n);
}
extern "C" void scalar_half(const uint16_t* bits, float* x, int n) {
  for (int i = 0; i < n; ++i) x[i] = to_float32(Half{bits[i]});
}
extern "C" int sums(const float* x, float* y) {
  F rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = load_f(x + i * kLanes);
  store(y, sum_each(rows));
  return kLanes;
}
"""
_SOURCE += "".join(f"READ({name})\n" for name in TYPES.values())


@pytest.fixture(scope="module")
def lib() -> ctypes.CDLL:
    return build(_SOURCE)


def _pointer(t: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(t.data_ptr())


def _tensors(dtype: torch.dtype) -> list[torch.Tensor]:
    base = torch.randint(0, 2 if dtype == torch.bool else 100, (24, 30)).to(dtype)
    if dtype.is_floating_point:
        base = torch.randn(24, 30).to(dtype)
    row = base[3:4, ::3]
    return [base, base.T, base[::2, 5:11], row.expand(7, -1), base[:, :1].expand(24, 9)]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_reads_clamp_each_index(lib, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    i = torch.randint(-5, 40, (64,), dtype=torch.int32)
    j = torch.randint(-5, 40, (64,), dtype=torch.int64)
    i[:2], j[:2] = torch.tensor([-(2**31), 2**31 - 1]), torch.tensor([2**31 - 1, -(2**31)])
    i[32], j[32] = 3, 4
    result_type = torch.float32 if dtype.is_floating_point else torch.int64
    for t in _tensors(dtype):
        rows, columns = i.long().clamp(0, t.shape[0] - 1), j.clamp(0, t.shape[1] - 1)
        first_row, first_column = rows[:1].expand(64), columns[:1].expand(64)
        for form, (a, b) in enumerate(
            [
                (rows, columns),
                (rows, columns),
                (first_row, columns),
                (rows, first_column),
                (rows, columns),  # and those that are inside as they are
                (torch.zeros_like(rows), columns),
                (rows, torch.zeros_like(rows)),
            ]
        ):
            out = torch.empty(64, dtype=result_type)
            read = getattr(lib, f"read_{TYPES[dtype]}")
            read(ctypes.byref(tensor(t)), _pointer(i), _pointer(j), _pointer(out), 64, form)
            wanted = t[a, b].to(result_type)
            # A mask is -1 where true.
            assert torch.equal(out, -wanted if dtype == torch.bool else wanted)
        scalar = getattr(lib, f"scalar_{TYPES[dtype]}")
        scalar.restype = ctypes.c_double
        for a, b in ((-3, 2), (4, 99), (1, 1)):
            wanted = t[min(max(a, 0), t.shape[0] - 1), min(max(b, 0), t.shape[1] - 1)]
            got = scalar(ctypes.byref(tensor(t)), ctypes.c_int64(a), b)
            assert got == float(wanted.to(result_type))


def test_absent_and_empty_tensors_read_as_zero(lib) -> None:
    i, j = torch.zeros(64, dtype=torch.int32), torch.zeros(64, dtype=torch.int64)
    for t in (CTensor(), tensor(torch.empty(0, 4)), tensor(torch.empty(4, 0))):
        for form in range(7):
            out = torch.full((64,), math.nan)
            lib.read_float(ctypes.byref(t), _pointer(i), _pointer(j), _pointer(out), 64, form)
            assert (out == 0).all()


def test_offsets_beyond_32_bits(lib) -> None:
    # 3 rows that lie 2^32 bytes apart in a sparse mapping.
    length = 2 * 2**32 + 4096
    no_reserve = 0x4000  # MAP_NORESERVE, which Python 3.11 does not name
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    t = torch.frombuffer(memory, dtype=torch.int8, count=length).as_strided((3, 8), (2**32, 1))
    t[0, 1], t[1, 2], t[2, 3] = 5, 6, 7
    i = torch.tensor([0, 1, 2, 0] * 16, dtype=torch.int32)
    j = torch.tensor([1, 2, 3, 0] * 16)
    out = torch.empty(64, dtype=torch.int64)
    lib.read_int8_t(ctypes.byref(tensor(t)), _pointer(i), _pointer(j), _pointer(out), 64, 1)
    assert out.tolist() == [5, 6, 7, 0] * 16


def test_half_formats_round_as_torch_does(lib) -> None:
    torch.manual_seed(0)
    edges = [0.0, -0.0, math.inf, -math.inf, math.nan, 65504.0, 65519.9, 65520.0, 65536.0, 1e38,
             3.4e38, 6e-8, 2.9e-8, 3e-8, 5.96e-8, 6.1e-5, 6.097e-5, 1e-45, -1e-40, 1.00048828125,
             1.0014648, 2.0**-14, 2.0**-15 * 1.9999]  # fmt: skip
    x = torch.cat(
        [torch.tensor(edges), torch.randn(4000) * 10.0 ** torch.empty(4000).uniform_(-9, 6)]
    )
    n = len(x)
    bf16, half = torch.empty(n, dtype=torch.int16), torch.empty(n, dtype=torch.int16)
    a, b = torch.empty(n), torch.empty(n)
    lib.round_trip(*map(_pointer, (x, bf16, half, a, b)), n)
    for bits, values, dtype in ((bf16, a, torch.bfloat16), (half, b, torch.float16)):
        wanted = x.to(dtype)
        number = ~x.isnan()
        assert torch.equal(bits[number], wanted.view(torch.int16)[number])
        assert torch.equal(values[number], wanted.float()[number])
        assert values[~number].isnan().all()
    every = torch.arange(-(2**15), 2**15).to(torch.int16)
    decoded = torch.empty(2**16)
    lib.scalar_half(_pointer(every), _pointer(decoded), 2**16)
    wanted = every.view(torch.float16).float()
    assert torch.equal(decoded.nan_to_num(nan=1e9), wanted.nan_to_num(nan=1e9))


def test_sum_each(lib) -> None:
    x, y = torch.randn(16 * 16), torch.empty(16)
    lanes = lib.sums(_pointer(x), _pointer(y))
    wanted = x[: lanes * lanes].view(lanes, lanes).sum(1)
    torch.testing.assert_close(y[:lanes], wanted, rtol=1e-5, atol=1e-5)
