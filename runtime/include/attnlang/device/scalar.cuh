// The vocabulary of generated text on a GPU: `F`, `I`, `L`, `M` are one element each, which a
// thread computes, and the language's functions have the names that attnlang/cpu gives them in
// lanes.
//
// Accurate enough for bfloat16 and float16 results: a few ulp of float32, absolute where a function
// goes through exp2 (tanh: 1e-7); NaN passes through. tanh.approx would move scores by 2^-11 of
// themselves, as much as rounding the weights does.
#pragma once

#include <math.h>

#include <concepts>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "attnlang/device/ptx.cuh"
#include "attnlang/host/integer_math.h"
#include "attnlang/host/target.h"
#include "attnlang/host/tensor_view.h"

namespace attnlang::cuda {

using F = float;
using I = int32_t;
using L = int64_t;
using M = bool;

ATTNLANG_DEVICE F splat_f(float x) { return x; }
ATTNLANG_DEVICE I splat_i(int32_t x) { return x; }
ATTNLANG_DEVICE L splat_l(int64_t x) { return x; }
ATTNLANG_DEVICE M splat_m(bool x) { return x; }

ATTNLANG_DEVICE float load_f(const float* p) { return *p; }
ATTNLANG_DEVICE void store(float* p, float x) { *p = x; }

ATTNLANG_DEVICE int64_t to_long(int32_t x) { return x; }
ATTNLANG_DEVICE int64_t to_long(int64_t x) { return x; }
ATTNLANG_DEVICE int32_t to_int(int64_t x) { return static_cast<int32_t>(x); }
ATTNLANG_DEVICE float to_float(int32_t x) { return static_cast<float>(x); }
ATTNLANG_DEVICE float to_float(int64_t x) { return static_cast<float>(x); }

// The nearest 32-bit value: beside ints strictly inside 32 bits it compares as x does.
ATTNLANG_DEVICE int32_t saturate(int64_t x) {
  return x < INT32_MIN ? INT32_MIN : x > INT32_MAX ? INT32_MAX : static_cast<int32_t>(x);
}

// Toward zero; what no int64 holds (and NaN) becomes INT64_MIN, as on the CPU.
ATTNLANG_DEVICE int64_t truncate(float x) {
  return x >= -0x1p63f && x < 0x1p63f ? static_cast<int64_t>(x) : INT64_MIN;
}

ATTNLANG_DEVICE bool narrow(bool x) { return x; }

// One int of several, for tuples that are compared: equal for equal ones.
ATTNLANG_DEVICE int64_t mix(int64_t so_far, int64_t next) {
  so_far = wrapping_multiply(so_far, int64_t{-7046029254386353131});
  return (so_far ^ (so_far >> 29)) + next;
}

template <class T>
  requires std::is_arithmetic_v<T>
ATTNLANG_DEVICE T select(bool m, T a, T b) {
  return m ? a : b;
}

// Integers: those that are not here are attnlang's own.
template <std::integral T>
ATTNLANG_DEVICE T min(T a, T b) {
  return a < b ? a : b;
}
template <std::integral T>
ATTNLANG_DEVICE T max(T a, T b) {
  return a > b ? a : b;
}
template <std::integral T>
ATTNLANG_DEVICE T clamp(T x, T low, T high) {
  return min(max(x, low), high);
}
template <std::integral T>
ATTNLANG_DEVICE T abs(T x) {
  return x < 0 ? wrapping_negate(x) : x;
}
template <std::integral T>
ATTNLANG_DEVICE T ipow(T x, uint64_t n) {
  T r = 1;
  for (; n != 0; n >>= 1) {
    if (n & 1) r = wrapping_multiply(r, x);
    x = wrapping_multiply(x, x);
  }
  return r;
}
// Bit n of x in two's complement; n is clamped to [0, 63], as an index is.
template <std::integral T>
ATTNLANG_DEVICE bool bit(T x, T n) {
  return (x >> clamp(n, T{0}, static_cast<T>(8 * sizeof(T) - 1)) & 1) != 0;
}
using attnlang::floordiv;
using attnlang::floormod;
using attnlang::sign;
// Of an int strictly inside 32 bits: divided in 32 bits, for 64 take four times the instructions.
ATTNLANG_DEVICE int64_t floormod(int32_t a, int64_t b) {
  return (b != 0) * int64_t{a} - floordiv(a, saturate(b)) * b;
}

// Indices of rows or columns, those past the end brought to the last.
ATTNLANG_DEVICE int32_t within(int32_t index, int64_t size) {
  return clamp(index, 0, static_cast<int32_t>(size < 1 ? 0 : size - 1));
}

// Floats. min and max: NaN where either is, as torch.
ATTNLANG_DEVICE float abs(float x) { return fabsf(x); }
ATTNLANG_DEVICE float min(float a, float b) { return a != a || a < b ? a : b; }
ATTNLANG_DEVICE float max(float a, float b) { return a != a || a > b ? a : b; }
ATTNLANG_DEVICE float clamp(float x, float low, float high) { return min(max(x, low), high); }
ATTNLANG_DEVICE float sign(float x) { return static_cast<float>((x > 0) - (x < 0)); }
ATTNLANG_DEVICE float relu(float x) { return max(x, 0.0f); }
ATTNLANG_DEVICE float floor(float x) { return floorf(x); }
ATTNLANG_DEVICE float ceil(float x) { return ceilf(x); }
ATTNLANG_DEVICE float round(float x) { return rintf(x); }
ATTNLANG_DEVICE float sqrt(float x) { return sqrtf(x); }
ATTNLANG_DEVICE float rsqrt(float x) { return 1.0f / sqrtf(x); }

// `//` and `%`: a quotient just below a whole number may round up to it; the rest then has the
// wrong sign.
ATTNLANG_DEVICE float floordiv(float a, float b) {
  const float quotient = floorf(a / b), rest = a - b * quotient;
  const bool above = b > 0.0f ? rest < 0.0f : rest > 0.0f;
  return b == 0.0f ? 0.0f : above ? quotient - 1.0f : quotient;
}
ATTNLANG_DEVICE float floormod(float a, float b) {
  const float rest = a - b * floorf(a / b);
  const bool above = b > 0.0f ? rest < 0.0f : rest > 0.0f;
  return b == 0.0f ? 0.0f : above ? rest + b : rest;
}

namespace detail {

constexpr float kLog2OfE = 1.44269504088896340736f;
constexpr float kLogOf2 = 0.69314718055994530942f;

}  // namespace detail

ATTNLANG_DEVICE float exp2(float x) { return exp2_approx(x); }
ATTNLANG_DEVICE float exp(float x) { return exp2_approx(x * detail::kLog2OfE); }
ATTNLANG_DEVICE float log2(float x) { return log2_approx(x); }
ATTNLANG_DEVICE float log(float x) { return log2_approx(x) * detail::kLogOf2; }
ATTNLANG_DEVICE float log1p(float x) { return log1pf(x); }
ATTNLANG_DEVICE float sin(float x) { return sinf(x); }
ATTNLANG_DEVICE float cos(float x) { return cosf(x); }
ATTNLANG_DEVICE float erf(float x) { return erff(x); }
ATTNLANG_DEVICE float pow(float x, float y) { return powf(x, y); }

// The exponential overflows to infinity, whose reciprocal is 0: the ends are exact.
ATTNLANG_DEVICE float tanh(float x) {
  return 1.0f - 2.0f * reciprocal_approx(exp2_approx(x * (2.0f * detail::kLog2OfE)) + 1.0f);
}
// Within 3e-6 of itself up to kSmallTanh, on the units of multiplication alone.
constexpr float kSmallTanh = 0.6f;
struct SmallTanh {  // height * tanh(slope * x): x times a polynomial of its square
  float c0 = 0.99999785f, c1 = -0.33314039f, c2 = 0.13057851f, c3 = -0.04092932f;

  ATTNLANG_DEVICE static SmallTanh of(float height, float slope) {
    const SmallTanh one;
    const float c = height * slope, u = slope * slope;
    return {one.c0 * c, one.c1 * (c * u), one.c2 * (c * u * u), one.c3 * (c * u * u * u)};
  }
  ATTNLANG_DEVICE float over(float x) const {  // the value divided by x
    const float u = x * x;
    return fmaf(fmaf(fmaf(c3, u, c2), u, c1), u, c0);
  }
};
ATTNLANG_DEVICE float tanh_small(float x) { return x * SmallTanh{}.over(x); }
ATTNLANG_DEVICE float sigmoid(float x) {
  return reciprocal_approx(1.0f + exp2_approx(x * -detail::kLog2OfE));
}
ATTNLANG_DEVICE float silu(float x) { return x * sigmoid(x); }
ATTNLANG_DEVICE float softplus(float x) { return relu(x) + log1p(exp(-abs(x))); }
ATTNLANG_DEVICE float gelu(float x) { return 0.5f * x * (1.0f + erf(x * 0.70710678f)); }

// x^n by squaring: right for negative bases, whatever n; 0^0 = 1.
ATTNLANG_DEVICE float powi(float x, int n) {
  float r = 1.0f;
  for (unsigned k = n < 0 ? -static_cast<unsigned>(n) : n; k != 0; k >>= 1) {
    if (k & 1) r = r * x;
    x = x * x;
  }
  return n < 0 ? 1.0f / r : r;
}

}  // namespace attnlang::cuda
