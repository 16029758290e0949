// The language's float functions on lanes and on scalars, under one name each.
//
// float32 grade: a few ulp, exact at the ends (exp2(-inf) = 0, log(0) = -inf), NaN passes through.
// A scalar goes through one lane of the vector code, so a hoisted value equals an unhoisted one.
#pragma once

#include <cmath>
#include <limits>

#include "attnlang/cpu/integer_math.h"
#include "attnlang/cpu/simd.h"

namespace attnlang::cpu {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.69314718f;

[[gnu::always_inline]] inline F abs(F x) { return (F)((I)x & INT32_MAX); }
[[gnu::always_inline]] inline F copysign(F magnitude, F sign) {
  return (F)(((I)magnitude & INT32_MAX) | ((I)sign & INT32_MIN));
}

// NaN where either is, as torch.
[[gnu::always_inline]] inline F min(F a, F b) { return a != a ? a : min_or_second(a, b); }
[[gnu::always_inline]] inline F max(F a, F b) { return a != a ? a : max_or_second(a, b); }
[[gnu::always_inline]] inline F clamp(F x, F low, F high) { return min(max(x, low), high); }
[[gnu::always_inline]] inline F sign(F x) { return to_float((x < 0.0f) - (x > 0.0f)); }
[[gnu::always_inline]] inline F relu(F x) { return max(x, F{}); }

[[gnu::always_inline]] inline F floor(F x) {
  const F r = round(x);
  return r > x ? r - 1.0f : r;
}
[[gnu::always_inline]] inline F ceil(F x) { return -floor(-x); }
[[gnu::always_inline]] inline F rsqrt(F x) { return 1.0f / sqrt(x); }

// a - b * c, rounded once, as its sign has to be right where the product is close to a.
[[gnu::always_inline]] inline F rest_of(F a, F b, F c) {
#if defined(__FMA__) || defined(__AVX512F__)
  return a - b * c;
#else
  const Wide product = __builtin_convertvector(b, Wide) * __builtin_convertvector(c, Wide);
  return __builtin_convertvector(__builtin_convertvector(a, Wide) - product, F);
#endif
}

// `//` and `%` of floats: toward minus infinity, and by 0 give 0. A quotient just below a whole
// number may round up to it; the rest then has the wrong sign.
[[gnu::always_inline]] inline F floordiv(F a, F b) {
  const F quotient = floor(a / b), rest = rest_of(a, b, quotient);
  const M above = b > 0.0f ? rest < 0.0f : rest > 0.0f;
  return b == 0.0f ? F{} : above ? quotient - 1.0f : quotient;
}
[[gnu::always_inline]] inline F floormod(F a, F b) {
  const F rest = rest_of(a, b, floor(a / b));
  const M above = b > 0.0f ? rest < 0.0f : rest > 0.0f;
  return b == 0.0f ? F{} : above ? rest + b : rest;
}

namespace detail {

constexpr float kExp2Fraction[] = {1.32647273e-3f, 9.67151299e-3f, 5.55073358e-2f,
                                   2.40222424e-1f, 6.93147004e-1f, 1.0f};

// The same for f in [0, 1]; by degree 4, for weights of which 8 bits are kept: 3e-6.
constexpr float kExp2Rest[] = {1.86713005e-3f, 9.01703071e-3f, 5.57999127e-2f,
                               2.40164444e-1f, 6.93151295e-1f, 1.0f};
constexpr float kExp2RestOf4[] = {1.34266848e-2f, 5.22424728e-2f, 2.41280198e-1f, 6.93044841e-1f,
                                  1.0f};

// 2^f for f in [-1/2, 1/2]: 1e-7 relative, exactly 1 at 0. A weight of exactly 1 stays one.
[[gnu::always_inline]] inline F exp2_fraction(F f) {
  F p = splat_f(kExp2Fraction[0]);
#pragma GCC unroll 8
  for (int i = 1; i < 6; ++i) p = p * f + kExp2Fraction[i];
  return p;
}

// Whole numbers of magnitude below 2^22 to int: the low bits of n + 1.5 * 2^23.
[[gnu::always_inline]] inline I whole_to_int(F n) { return (I)(n + 0x1.8p23f) - 0x4b400000; }

// p * 2^n for whole n, in two steps where one exponent field does not hold n.
[[gnu::always_inline]] inline F scale_by_power(F p, F n) {
#if defined(__AVX512F__)
  return (F)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  const I e = whole_to_int(n);
  const I half = e >> 1;
  const F first = (F)((half + 127) << 23);
  const F second = (F)((e - half + 127) << 23);
  return p * first * second;
#endif
}

template <class Function>
[[gnu::always_inline]] inline F each_lane(F x, Function f) {
  F r;
  for (int i = 0; i < kLanes; ++i) r[i] = f(x[i]);
  return r;
}

// Splits a positive finite x = 2^e * (1 + m), m in [sqrt(1/2) - 1, sqrt(2) - 1].
[[gnu::always_inline]] inline void split_logarithm(F x, F* e, F* m) {
  const M small = x < 0x1p-126f;
  x = small ? x * 0x1p23f : x;
  const I bits = (I)x - 0x3f3504f3;  // sqrt(1/2)
  *e = to_float(bits >> 23) - (small ? splat_f(23.0f) : F{});
  *m = (F)((bits & 0x007fffff) + 0x3f3504f3) - 1.0f;
}

// log(1 + m) - m.
[[gnu::always_inline]] inline F log_rest(F m) {
  F p = splat_f(6.74664304e-2f);
  p = p * m - 1.16756566e-1f;
  p = p * m + 1.18881665e-1f;
  p = p * m - 1.24055885e-1f;
  p = p * m + 1.42195523e-1f;
  p = p * m - 1.66679963e-1f;
  p = p * m + 2.00021192e-1f;
  p = p * m - 2.50000089e-1f;
  p = p * m + 3.33333135e-1f;
  const F square = m * m;
  return square * m * p - 0.5f * square;
}

// What a logarithm gives outside (0, inf).
[[gnu::always_inline]] inline F log_ends(F x, F inside) {
  const F outside = x == 0.0f ? splat_f(-kInfinity) : (x > 0.0f ? x : splat_f(NAN));
  return (x > 0.0f) & (x < kInfinity) ? inside : outside;
}

}  // namespace detail

// 2^x for x <= 0, kCount vectors; 0 for what is too small for a normal number (or, by `scalef`, for
// any). Stage by stage: one vector's chain of operations would fill the scheduler.
template <int kCount, int kDegree = 5>
[[gnu::always_inline]] inline void exp2_below_one(F* x) {
  F f[kCount], p[kCount];
#if defined(__AVX512DQ__)
  // `reduce` gives x - floor(x), and 0 for what is infinite; `scalef` takes the floor by itself.
  constexpr const float* kTerms = kDegree == 4 ? detail::kExp2RestOf4 : detail::kExp2Rest;
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) f[i] = (F)_mm512_reduce_ps((__m512)x[i], _MM_FROUND_TO_NEG_INF);
#else
  // The nearest whole number is in the low bits of n + 1.5 * 2^23, of which a shift by 23 leaves n
  // alone; n = -127 is zero.
  static_assert(kDegree == 5);
  constexpr const float* kTerms = detail::kExp2Fraction;
  F shifted[kCount];
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) x[i] = max_or_second(splat_f(-127.0f), x[i]);
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) shifted[i] = x[i] + 0x1.8p23f;
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) f[i] = x[i] - (shifted[i] - 0x1.8p23f);
#endif
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) p[i] = splat_f(kTerms[0]);
#pragma GCC unroll 8
  for (int t = 1; t <= kDegree; ++t) {
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) p[i] = p[i] * f[i] + kTerms[t];
  }
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
#if defined(__AVX512DQ__)
    x[i] = (F)_mm512_scalef_ps((__m512)p[i], (__m512)x[i]);
#else
    x[i] = p[i] * (F)(((I)shifted[i] << 23) + (127 << 23));
#endif
  }
}
[[gnu::always_inline]] inline F exp2_below_one(F x) {
  exp2_below_one<1>(&x);
  return x;
}

[[gnu::always_inline]] inline F exp2(F x) {
  x = max_or_second(splat_f(-252.0f), min_or_second(splat_f(254.0f), x));
  const F n = round(x);
  return detail::scale_by_power(detail::exp2_fraction(x - n), n);
}

[[gnu::always_inline]] inline F exp(F x) {
  x = max_or_second(splat_f(-174.0f), min_or_second(splat_f(176.0f), x));
  const F n = round(x * kLog2E);
  F r = x - n * 0.693359375f;  // ln 2 in two parts, the first with few bits
  r = r + n * 2.12194440e-4f;
  return detail::scale_by_power(detail::exp2_fraction(r * kLog2E), n);
}

[[gnu::always_inline]] inline F log(F x) {
  F e, m;
  detail::split_logarithm(x, &e, &m);
  const F low = detail::log_rest(m) - e * 2.12194440e-4f;
  return detail::log_ends(x, m + low + e * 0.693359375f);
}

[[gnu::always_inline]] inline F log2(F x) {
  F e, m;
  detail::split_logarithm(x, &e, &m);
  const F rest = detail::log_rest(m);
  // log2(e) = 1 + 0.4427: the larger parts are added last.
  return detail::log_ends(x, ((m + rest) * 0.44269504f + rest) + m + e);
}

[[gnu::always_inline]] inline F log1p(F x) {
  const F u = 1.0f + x;
  const F d = u - 1.0f;
  const F corrected = log(u) * (x / d);  // what rounding 1 + x lost
  const M plain = (d == 0.0f) | (u == kInfinity);
  return plain ? ((d == 0.0f) ? x : u) : corrected;
}

[[gnu::always_inline]] inline F sin(F x) {
  return detail::each_lane(x, [](float y) { return std::sin(y); });
}
[[gnu::always_inline]] inline F cos(F x) {
  return detail::each_lane(x, [](float y) { return std::cos(y); });
}
[[gnu::always_inline]] inline F erf(F x) {
  return detail::each_lane(x, [](float y) { return std::erf(y); });
}
[[gnu::always_inline]] inline F pow(F x, F y) {
  F r;
  for (int i = 0; i < kLanes; ++i) r[i] = std::pow(x[i], y[i]);
  return r;
}

// Small arguments need a polynomial alone: a soft cap's are, as long as scores stay below half of
// it.
[[gnu::always_inline]] inline F tanh(F x) {
  const F a = abs(x);
  const F y = x * x;
  F p = splat_f(1.72569901e-2f);
  p = p * y - 5.30529507e-2f;
  p = p * y + 1.33259878e-1f;
  p = p * y - 3.33331496e-1f;
  const F small = x + x * y * p;
  const M is_small = a < 0.5f;
  if (all(is_small)) [[likely]]
    return small;
  const F e = exp2(a * (2.0f * kLog2E));
  const F large = 1.0f - 2.0f / (e + 1.0f);
  return is_small ? small : copysign(large, x);
}

[[gnu::always_inline]] inline F sigmoid(F x) { return 1.0f / (1.0f + exp(-x)); }
[[gnu::always_inline]] inline F silu(F x) { return x / (1.0f + exp(-x)); }
[[gnu::always_inline]] inline F softplus(F x) { return relu(x) + log1p(exp(-abs(x))); }
[[gnu::always_inline]] inline F gelu(F x) { return 0.5f * x * (1.0f + erf(x * 0.70710678f)); }

// x^n by squaring: right for negative bases, whatever n; 0^0 = 1.
template <Real T>
[[gnu::always_inline]] inline T powi(T x, int n) {
  T r = splat<T>(1.0f);
  for (unsigned k = n < 0 ? -static_cast<unsigned>(n) : n; k != 0; k >>= 1) {
    if (k & 1) r = r * x;
    x = x * x;
  }
  return n < 0 ? 1.0f / r : r;
}

inline float abs(float x) { return std::fabs(x); }
inline float min(float a, float b) { return min(splat_f(a), splat_f(b))[0]; }
inline float max(float a, float b) { return max(splat_f(a), splat_f(b))[0]; }
inline float clamp(float x, float low, float high) { return min(max(x, low), high); }
inline float sign(float x) { return static_cast<float>((x > 0) - (x < 0)); }
inline float floor(float x) { return std::floor(x); }
inline float ceil(float x) { return std::ceil(x); }
inline float round(float x) { return round(splat_f(x))[0]; }
inline float sqrt(float x) { return std::sqrt(x); }
inline float rsqrt(float x) { return 1.0f / std::sqrt(x); }
inline float floordiv(float a, float b) { return floordiv(splat_f(a), splat_f(b))[0]; }
inline float floormod(float a, float b) { return floormod(splat_f(a), splat_f(b))[0]; }
inline float exp(float x) { return exp(splat_f(x))[0]; }
inline float exp2(float x) { return exp2(splat_f(x))[0]; }
inline float log(float x) { return log(splat_f(x))[0]; }
inline float log2(float x) { return log2(splat_f(x))[0]; }
inline float log1p(float x) { return log1p(splat_f(x))[0]; }
inline float sin(float x) { return std::sin(x); }
inline float cos(float x) { return std::cos(x); }
inline float erf(float x) { return std::erf(x); }
inline float pow(float x, float y) { return std::pow(x, y); }
inline float tanh(float x) { return tanh(splat_f(x))[0]; }
inline float sigmoid(float x) { return sigmoid(splat_f(x))[0]; }
inline float silu(float x) { return silu(splat_f(x))[0]; }
inline float softplus(float x) { return softplus(splat_f(x))[0]; }
inline float gelu(float x) { return 0.5f * x * (1.0f + std::erf(x * 0.70710678f)); }
inline float relu(float x) { return max(x, 0.0f); }

}  // namespace attnlang::cpu
