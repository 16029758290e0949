"""`attnlang/cpu/math.h` and `integer_math.h`: lanes and scalars against float64 and Python ints."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest
from cpu_harness import build

UNARY = [
    "abs", "sign", "floor", "ceil", "round", "sqrt", "rsqrt", "exp", "exp2", "exp2_below_one",
    "weight_of_8_bits", "log", "log2", "log1p", "sin", "cos", "tanh", "sigmoid", "softplus", "relu",
    "gelu", "silu", "erf", "cube", "inverse_square",
]  # fmt: skip
BINARY = ["min", "max", "pow", "floordiv", "floormod"]
INT_BINARY = ["floordiv", "floormod", "min", "max", "bit"]
INT_UNARY = ["abs", "sign", "fifth"]

_SOURCE = r"""
#include "attnlang/cpu/math.h"
using namespace attnlang::cpu;
namespace attnlang::cpu {
template <Real T> T cube(T x) { return powi(x, 3); }
template <Real T> T inverse_square(T x) { return powi(x, -2); }
template <Integer T> T fifth(T x) { return ipow(x, 5); }
inline float exp2_below_one(float x) { return exp2_below_one(splat_f(x))[0]; }
#if defined(__AVX512DQ__)
inline F weight_of_8_bits(F x) { exp2_below_one<1, 4>(&x); return x; }
#else
inline F weight_of_8_bits(F x) { return exp2_below_one(x); }
#endif
inline float weight_of_8_bits(float x) { return weight_of_8_bits(splat_f(x))[0]; }
template <class T> T flag(T x) { return x; }
inline int64_t flag(bool x) { return -int64_t{x}; }
inline L wide(L x) { return x; }
inline L wide(I x) { return to_long(x); }
}
extern "C" int lanes() { return kLanes; }
#define UNARY(name) \
  extern "C" void f_##name(const float* x, float* y, int64_t n) { \
    for (int64_t i = 0; i < n; i += kLanes) store(y + i, attnlang::cpu::name(load_f(x + i))); } \
  extern "C" void s_##name(const float* x, float* y, int64_t n) { \
    for (int64_t i = 0; i < n; ++i) y[i] = attnlang::cpu::name(x[i]); }
#define BINARY(name) \
  extern "C" void f_##name(const float* x, const float* z, float* y, int64_t n) { \
    for (int64_t i = 0; i < n; i += kLanes) \
      store(y + i, attnlang::cpu::name(load_f(x + i), load_f(z + i))); } \
  extern "C" void s_##name(const float* x, const float* z, float* y, int64_t n) { \
    for (int64_t i = 0; i < n; ++i) y[i] = attnlang::cpu::name(x[i], z[i]); }
#define INT_BINARY(name) \
  extern "C" void i_##name(const int32_t* x, const int32_t* z, int32_t* y, int64_t n) { \
    for (int64_t i = 0; i < n; i += kLanes) \
      store(y + i, attnlang::cpu::name(load_i(x + i), load_i(z + i))); } \
  extern "C" void l_##name(const int64_t* x, const int64_t* z, int64_t* y, int64_t n) { \
    for (int64_t i = 0; i < n; i += kLanes) \
      store(y + i, wide(attnlang::cpu::name(load_l(x + i), load_l(z + i)))); } \
  extern "C" void si_##name(const int32_t* x, const int32_t* z, int32_t* y, int64_t n) { \
    for (int64_t i = 0; i < n; ++i) y[i] = flag(attnlang::cpu::name(x[i], z[i])); } \
  extern "C" void sl_##name(const int64_t* x, const int64_t* z, int64_t* y, int64_t n) { \
    for (int64_t i = 0; i < n; ++i) y[i] = flag(attnlang::cpu::name(x[i], z[i])); }
#define INT_UNARY(name) \
  extern "C" void i_##name(const int32_t* x, int32_t* y, int64_t n) { \
    for (int64_t i = 0; i < n; i += kLanes) store(y + i, attnlang::cpu::name(load_i(x + i))); } \
  extern "C" void l_##name(const int64_t* x, int64_t* y, int64_t n) { \
    for (int64_t i = 0; i < n; i += kLanes) store(y + i, attnlang::cpu::name(load_l(x + i))); } \
  extern "C" void si_##name(const int32_t* x, int32_t* y, int64_t n) { \
    for (int64_t i = 0; i < n; ++i) y[i] = attnlang::cpu::name(x[i]); } \
  extern "C" void sl_##name(const int64_t* x, int64_t* y, int64_t n) { \
    for (int64_t i = 0; i < n; ++i) y[i] = attnlang::cpu::name(x[i]); }
extern "C" void v_truncate(const float* x, int64_t* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(y + i, truncate(load_f(x + i))); }
extern "C" void v_conversions(const int64_t* x, float* f, int32_t* narrowed, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const L v = load_l(x + i);
    store(f + i, to_float(v));
    store(narrowed + i, select(narrow(v > 5), to_int(v), splat_i(-7)));
  } }
extern "C" int v_any_all(const int32_t* x) {
  const M m = load_i(x) != 0; return any(m) | all(m) << 1; }
"""
_SOURCE += "".join(f"UNARY({name})\n" for name in UNARY)
_SOURCE += "".join(f"BINARY({name})\n" for name in BINARY)
_SOURCE += "".join(f"INT_BINARY({name})\n" for name in INT_BINARY)
_SOURCE += "".join(f"INT_UNARY({name})\n" for name in INT_UNARY)


@pytest.fixture(scope="module")
def lib() -> ctypes.CDLL:
    return build(_SOURCE)


def _call(function, *inputs: np.ndarray, out: np.dtype | None = None) -> np.ndarray:
    result = np.empty_like(inputs[0], dtype=out)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*inputs, result)]
    function(*pointers, ctypes.c_int64(len(result)))
    return result


EDGES = [
    0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 1.1e-38, 3.4e38, -3.4e38, 1.0, -1.0,
    0.5, -0.5, 1.5, 2.5, -1.5, -2.5, 126.5, 127.0, 127.9, 128.0, -126.0, -126.5, -127.0, -149.0,
    -150.5, 88.7, 88.8, -87.5, -103.5, -104.5, 8388608.5, 8388607.5, 2147483648.0, 1e10, -1e10,
]  # fmt: skip


def _samples() -> np.ndarray:
    rng = np.random.default_rng(0)
    parts = [
        np.array(EDGES),
        np.linspace(-140, 140, 20001),
        np.linspace(-6, 6, 20001),
        np.linspace(0.4, 2.2, 20001),
        rng.uniform(-1e-3, 1e-3, 5000),
        rng.standard_normal(5000) * 10.0 ** rng.uniform(-30, 30, 5000),
    ]
    x = np.concatenate(parts).astype(np.float32)
    return np.resize(x, (len(x) + 15) // 16 * 16)


def _erf(x: np.ndarray) -> np.ndarray:
    return np.array([math.erf(v) for v in x])


def _gelu(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) if v > -1e30 else v * 0 for v in x])


ORACLES = {
    "abs": np.abs, "floor": np.floor, "ceil": np.ceil, "round": np.rint, "sqrt": np.sqrt,
    "sign": lambda x: np.where(np.isnan(x), 0, np.sign(x)), "rsqrt": lambda x: 1 / np.sqrt(x),
    "weight_of_8_bits": np.exp2,
    "exp": np.exp, "exp2": np.exp2, "exp2_below_one": np.exp2, "log": np.log, "log2": np.log2,
    "log1p": np.log1p, "sin": np.sin, "cos": np.cos, "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "softplus": lambda x: np.logaddexp(0, x),
    "relu": lambda x: np.maximum(x, 0), "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": _gelu, "erf": _erf, "cube": lambda x: x**3, "inverse_square": lambda x: 1 / (x * x),
}  # fmt: skip

# Relative error allowed, in units of 2^-24, beside an absolute one: sigmoid ends where exp(-x)
# overflows.
ACCURACY = {
    "exp2": (4, 1e-44), "exp2_below_one": (4, 2.0**-126),
    "weight_of_8_bits": (52, 2.0**-126),
    "exp": (6, 1e-44), "log": (3, 1.2e-7),
    "log2": (4, 1.2e-7), "log1p": (6, 1e-44), "tanh": (4, 0), "sigmoid": (8, 1e-38),
    "softplus": (8, 1e-44), "silu": (10, 4e-37), "gelu": (8, 4e-7), "erf": (4, 0),
    "sin": (4, 0), "cos": (4, 0), "rsqrt": (4, 0), "cube": (4, 1e-44),
    "inverse_square": (8, 1e-44),
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_float_functions(lib, name: str) -> None:
    x = _samples()
    if name in ("sin", "cos"):
        x = x[np.abs(np.nan_to_num(x)) < 1e4]
        x = np.resize(x, (len(x) + 15) // 16 * 16)
    if name in ("exp2_below_one", "weight_of_8_bits"):
        x = np.minimum(x, np.float32(0))
    if name in ("cube", "inverse_square"):  # these square first: no overflow in between
        x = np.where(np.abs(x) < 1e-12, np.float32(1), np.clip(x, -1e12, 1e12)).astype(np.float32)
    lanes = _call(getattr(lib, f"f_{name}"), x)
    with np.errstate(all="ignore"):
        wanted = ORACLES[name](x.astype(np.float64))
        rounded = wanted.astype(np.float32)
    ulps, absolute = ACCURACY.get(name, (1, 0))
    special = ~np.isfinite(rounded)
    same = (lanes == rounded) | (np.isnan(lanes) & np.isnan(rounded))
    # Just below the overflow threshold, either side of it is right.
    near = special & (np.abs(lanes) > 3.4e38) & (np.abs(wanted) < 3.41e38)
    assert (same | near)[special].all(), (x[special & ~same][:5], lanes[special & ~same][:5])
    fine = ~special
    with np.errstate(all="ignore"):
        error = np.abs(lanes.astype(np.float64) - wanted)
        allowed = absolute + ulps * 2.0**-24 * np.abs(wanted) + 1.5e-45
    bad = fine & ~(error <= allowed)
    bad &= ~((np.abs(wanted) > 3.402e38) & np.isinf(lanes))
    assert not bad.any(), (x[bad][:5], lanes[bad][:5], wanted[bad][:5])
    scalar = _call(getattr(lib, f"s_{name}"), x)
    close = np.isclose(scalar, lanes, rtol=4e-7, atol=4e-7 if name == "gelu" else 1e-40)
    assert (close | (np.isnan(scalar) & np.isnan(lanes))).all()


def test_exactness(lib) -> None:
    x = np.array([0.0, 1, -1, 3, -126, 127, -np.inf, 10] * 2, dtype=np.float32)
    powers = np.array([math.ldexp(1, int(e)) if math.isfinite(e) else 0.0 for e in x], np.float32)
    assert _call(lib.f_exp2, x).tolist() == powers.tolist()
    whole = np.isfinite(x)
    assert (_call(lib.f_log2, powers)[whole] == x[whole]).all()
    for below_one in (lib.f_exp2_below_one, lib.f_weight_of_8_bits):
        assert _call(below_one, np.zeros(16, np.float32)).tolist() == [1.0] * 16


def _floordiv(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.where(z == 0, 0, np.floor(x / z))


def _floormod(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.where(z == 0, 0, x - z * np.floor(x / z))


@pytest.mark.parametrize("name", BINARY)
def test_float_pairs(lib, name: str) -> None:
    values = [0.0, -0.0, 1.0, -1.0, 2.5, -3.0, math.inf, -math.inf, math.nan, 1e-3, 7.0, -2.0]
    x, z = (a.ravel().astype(np.float32) for a in np.meshgrid(values, values))
    assert len(x) % 16 == 0
    with np.errstate(all="ignore"):
        oracle = {"min": np.minimum, "max": np.maximum, "pow": np.power,
                  "floordiv": _floordiv, "floormod": _floormod}[name]  # fmt: skip
        wanted = oracle(x.astype(np.float64), z.astype(np.float64))
    for prefix in "fs":
        got = _call(getattr(lib, f"{prefix}_{name}"), x, z)
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def _int_oracle(name: str, a: int, b: int, bits: int) -> int:
    match name:
        case "floordiv":
            r = a // b if b else 0
        case "floormod":
            r = a % b if b else 0
        case "bit":
            return -1 if a >> min(max(b, 0), 63) & 1 else 0
        case "min" | "max":
            r = min(a, b) if name == "min" else max(a, b)
    return (r + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", INT_BINARY)
def test_int_pairs(lib, name: str, bits: int) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    rng = np.random.default_rng(1)
    special = [low, low + 1, -7, -2, -1, 0, 1, 2, 7, 31, 32, 63, 64, high - 1, high]
    pairs = [(a, b) for a in special for b in special]
    pairs += zip(rng.integers(low, high, 999).tolist(), rng.integers(-50, 50, 999).tolist(),
                 strict=True)  # fmt: skip
    pairs += zip(rng.integers(low, high, 999).tolist(), rng.integers(low, high, 999).tolist(),
                 strict=True)  # fmt: skip
    pairs += [(0, 1)] * (-len(pairs) % 16)
    near = 1 << 53 if bits == 64 else 1 << 30  # where doubles stop being exact
    for a in range(near - 8, near + 8):  # 16 lanes that fit, or do not
        pairs += [(s * (a - t), b) for s in (1, -1) for b in (3, -7, a, -a) for t in (0, 8)]
    dtype = np.int32 if bits == 32 else np.int64
    x, z = (np.array(c, dtype=dtype) for c in zip(*pairs, strict=True))
    wanted = np.array([_int_oracle(name, a, b, bits) for a, b in pairs], dtype=dtype)
    for prefix in ("i", "si") if bits == 32 else ("l", "sl"):
        got = _call(getattr(lib, f"{prefix}_{name}"), x, z)
        bad = got != wanted
        assert not bad.any(), (prefix, x[bad][:5], z[bad][:5], got[bad][:5], wanted[bad][:5])


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", INT_UNARY)
def test_int_functions(lib, name: str, bits: int) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    values = [low, low + 1, -100, -3, -1, 0, 1, 2, 5, 100, 4095, high - 1, high, 17, -9, 3]
    oracle = {"abs": abs, "sign": lambda v: (v > 0) - (v < 0), "fifth": lambda v: v**5}[name]
    wrapped = [(oracle(v) - low) % (1 << bits) + low for v in values]
    dtype = np.int32 if bits == 32 else np.int64
    for prefix in ("i", "si") if bits == 32 else ("l", "sl"):
        got = _call(getattr(lib, f"{prefix}_{name}"), np.array(values, dtype=dtype))
        assert got.tolist() == wrapped


def test_conversions(lib) -> None:
    x = np.array([0.9, -0.9, 1.5, -2.5, 1e9, -1e9, 9e18, -9e18, 1e30, np.nan] * 8, np.float32)
    got = _call(lib.v_truncate, x, out=np.int64)
    inside = np.abs(np.nan_to_num(x, nan=1e30)) < 2.0**63
    assert (got[inside] == x[inside].astype(np.int64)).all()
    assert (got[~inside] == np.iinfo(np.int64).min).all()
    ints = np.array([3, 6, -(2**40), 2**31 - 1, 5, -5, 2**24 + 1, 0] * 2, np.int64)
    floats, narrowed = np.empty(16, np.float32), np.empty(16, np.int32)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (ints, floats, narrowed)]
    lib.v_conversions(*pointers, ctypes.c_int64(16))
    assert (floats == ints.astype(np.float32)).all()
    assert narrowed.tolist() == [-7, 6, -7, 2**31 - 1, -7, -7, 2**24 + 1, -7] * 2


def test_any_all(lib) -> None:
    n = lib.lanes()
    for flags, wanted in (
        ([0] * n, 0),
        ([1] * n, 3),
        ([0] * (n - 1) + [1], 1),
        ([1] + [0] * (n - 1), 1),
    ):
        x = np.array(flags, np.int32)
        assert lib.v_any_all(ctypes.c_void_p(x.ctypes.data)) == wanted
