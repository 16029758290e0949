// Vector types of one register's width, and the operations that GCC's vector extensions lack.
//
// `F` float32, `I` int32, `L` int64 lanes, `kLanes` of each; a mask `M` is int32 lanes of 0 or -1,
// which is what comparing F or I gives. Operators work as on scalars, a scalar of the exact element
// type broadcasts. Each function here has a scalar twin, so generated text fits both.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Everything is inlined: no vector crosses a call whose convention depends on the target.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace attnlang::cpu {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

constexpr int kMaxKeyTile = 64;  // columns in a Variant::ColumnTile

using F = float __attribute__((vector_size(kLanes * 4)));
using I = int32_t __attribute__((vector_size(kLanes * 4)));
using L = int64_t __attribute__((vector_size(kLanes * 8)));
using M = I;

template <class T>
concept Scalar = std::is_arithmetic_v<T>;
template <class T>
concept Vector = std::is_same_v<T, F> || std::is_same_v<T, I> || std::is_same_v<T, L>;
template <class T>
concept Real = std::is_same_v<T, float> || std::is_same_v<T, F>;
template <class T>
concept Integer = std::is_same_v<T, int32_t> || std::is_same_v<T, int64_t> ||
                  std::is_same_v<T, I> || std::is_same_v<T, L>;

[[gnu::always_inline]] inline F splat_f(float x) { return x - F{}; }
[[gnu::always_inline]] inline I splat_i(int32_t x) { return x - I{}; }
[[gnu::always_inline]] inline L splat_l(int64_t x) { return x - L{}; }
[[gnu::always_inline]] inline M splat_m(bool x) { return splat_i(-int32_t{x}); }

// A scalar as a value of type T, be that a vector or a scalar.
template <class T, Scalar S>
[[gnu::always_inline]] inline T splat(S x) {
  if constexpr (std::is_same_v<T, F>) return splat_f(x);
  else if constexpr (std::is_same_v<T, I>) return splat_i(x);
  else if constexpr (std::is_same_v<T, L>) return splat_l(x);
  else return static_cast<T>(x);
}

template <int... i>
constexpr I lane_numbers(std::integer_sequence<int, i...>) {
  return I{i...};
}
[[gnu::always_inline]] inline I iota_i() {
  return lane_numbers(std::make_integer_sequence<int, kLanes>());
}

template <Vector V, class T>
[[gnu::always_inline]] inline V load_as(const T* p) {
  V r;
  std::memcpy(&r, p, sizeof r);
  return r;
}

[[gnu::always_inline]] inline F load_f(const float* p) { return load_as<F>(p); }
[[gnu::always_inline]] inline I load_i(const int32_t* p) { return load_as<I>(p); }
[[gnu::always_inline]] inline L load_l(const int64_t* p) { return load_as<L>(p); }

[[gnu::always_inline]] inline void store(float* p, F x) { std::memcpy(p, &x, sizeof x); }
[[gnu::always_inline]] inline void store(int32_t* p, I x) { std::memcpy(p, &x, sizeof x); }
[[gnu::always_inline]] inline void store(int64_t* p, L x) { std::memcpy(p, &x, sizeof x); }

[[gnu::always_inline]] inline L to_long(I x) { return __builtin_convertvector(x, L); }
[[gnu::always_inline]] inline int64_t to_long(int32_t x) { return x; }
[[gnu::always_inline]] inline L to_long(L x) { return x; }
[[gnu::always_inline]] inline int64_t to_long(int64_t x) { return x; }

// The caller proves that the value fits.
[[gnu::always_inline]] inline I to_int(L x) { return __builtin_convertvector(x, I); }
[[gnu::always_inline]] inline int32_t to_int(int64_t x) { return static_cast<int32_t>(x); }

// The nearest 32-bit value: beside lanes strictly inside 32 bits it compares as x does.
[[gnu::always_inline]] inline int32_t saturate(int64_t x) {
  return x < INT32_MIN ? INT32_MIN : x > INT32_MAX ? INT32_MAX : static_cast<int32_t>(x);
}

[[gnu::always_inline]] inline F to_float(I x) { return __builtin_convertvector(x, F); }
[[gnu::always_inline]] inline F to_float(L x) { return __builtin_convertvector(x, F); }
[[gnu::always_inline]] inline float to_float(int32_t x) { return static_cast<float>(x); }
[[gnu::always_inline]] inline float to_float(int64_t x) { return static_cast<float>(x); }

// Toward zero; what no int64 holds (and NaN) becomes INT64_MIN, as x86 converts.
[[gnu::always_inline]] inline int64_t truncate(float x) {
  return x >= -0x1p63f && x < 0x1p63f ? static_cast<int64_t>(x) : INT64_MIN;
}
[[gnu::always_inline]] inline L truncate(F x) {
  L r;
#if defined(__AVX512DQ__)
  const __m512i halves[] = {_mm512_cvttps_epi64(_mm512_castps512_ps256((__m512)x)),
                            _mm512_cvttps_epi64(_mm512_extractf32x8_ps((__m512)x, 1))};
  std::memcpy(&r, halves, sizeof r);
#else
  for (int i = 0; i < kLanes; ++i) r[i] = truncate(x[i]);
#endif
  return r;
}

// A comparison of L as a mask.
[[gnu::always_inline]] inline M narrow(L x) { return __builtin_convertvector(x, M); }
[[gnu::always_inline]] inline bool narrow(bool x) { return x; }

// narrow(a OP b), OP as std::less<>: two registers at a time, where GCC would take L apart into
// its elements.
template <class Compare>
[[gnu::always_inline]] inline M compare(L a, L b) {
  using HalfL = int64_t __attribute__((vector_size(kLanes * 4)));
  using HalfI = int32_t __attribute__((vector_size(kLanes * 2)));
  HalfL x[2], y[2];
  HalfI kept[2];
  std::memcpy(x, &a, sizeof x);
  std::memcpy(y, &b, sizeof y);
  for (int i = 0; i < 2; ++i) kept[i] = __builtin_convertvector(Compare{}(x[i], y[i]), HalfI);
#if defined(__AVX512F__)
  const __m512i low = _mm512_castsi256_si512((__m256i)kept[0]);
  return (M)_mm512_inserti64x4(low, (__m256i)kept[1], 1);
#elif defined(__AVX2__)
  const __m256i low = _mm256_castsi128_si256((__m128i)kept[0]);
  return (M)_mm256_inserti128_si256(low, (__m128i)kept[1], 1);
#else
  M m;
  std::memcpy(&m, kept, sizeof m);
  return m;
#endif
}

[[gnu::always_inline]] inline F select(M m, F a, F b) { return m ? a : b; }
[[gnu::always_inline]] inline I select(M m, I a, I b) { return m ? a : b; }
[[gnu::always_inline]] inline L select(M m, L a, L b) { return to_long(m) ? a : b; }
template <class T>
  requires(Vector<T> || Scalar<T>)
[[gnu::always_inline]] inline T select(bool m, T a, T b) {
  return m ? a : b;
}

[[gnu::always_inline]] inline bool any(bool m) { return m; }
[[gnu::always_inline]] inline bool all(bool m) { return m; }
[[gnu::always_inline]] inline bool any(M m) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)m, (__m512i)m) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps((__m256)m) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_ps((__m128)m) != 0;
#else
  int32_t r = 0;
  for (int i = 0; i < kLanes; ++i) r |= m[i];
  return r != 0;
#endif
}
[[gnu::always_inline]] inline bool all(M m) { return !any(~m); }

// min, max of the hardware: b where either is NaN.
[[gnu::always_inline]] inline F min_or_second(F a, F b) {
#if defined(__AVX512F__)
  return (F)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (F)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (F)_mm_min_ps((__m128)a, (__m128)b);
#else
  return a < b ? a : b;
#endif
}
[[gnu::always_inline]] inline F max_or_second(F a, F b) {
#if defined(__AVX512F__)
  return (F)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (F)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (F)_mm_max_ps((__m128)a, (__m128)b);
#else
  return a > b ? a : b;
#endif
}

[[gnu::always_inline]] inline F sqrt(F x) {
#if defined(__AVX512F__)
  return (F)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (F)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
  return (F)_mm_sqrt_ps((__m128)x);
#else
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// Half to even.
[[gnu::always_inline]] inline F round(F x) {
#if defined(__AVX512F__)
  return (F)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return (F)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  // Adding 2^23 leaves no bit for a fraction.
  const I sign = (I)x & INT32_MIN;
  const F magnitude = (F)((I)x & INT32_MAX);
  const F whole = (magnitude + 0x1p23f) - 0x1p23f;
  return magnitude < 0x1p23f ? (F)((I)whole | sign) : x;
#endif
}

// By halves, as a tree: a chain of kLanes additions would be waited for.
[[gnu::always_inline]] inline float sum(F x) {
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2) x += __builtin_shuffle(x, iota_i() ^ half);
  return x[0];
}

}  // namespace attnlang::cpu
