// The language's integer functions on lanes and on scalars: they wrap at the width of their type.
//
// `//` and `%` round toward minus infinity, and by 0 give 0; no operand traps.
#pragma once

#include "attnlang/cpu/simd.h"
#include "attnlang/host/integer_math.h"

namespace attnlang::cpu {

template <Integer T>
[[gnu::always_inline]] inline T min(T a, T b) {
  return a < b ? a : b;
}
template <Integer T>
[[gnu::always_inline]] inline T max(T a, T b) {
  return a > b ? a : b;
}
template <Integer T>
[[gnu::always_inline]] inline T clamp(T x, T low, T high) {
  return min(max(x, low), high);
}

using attnlang::floordiv;
using attnlang::floormod;
using attnlang::sign;
using attnlang::wrapping_multiply;
using attnlang::wrapping_negate;

template <Vector T>
[[gnu::always_inline]] inline T wrapping_negate(T x) {
  return -x;
}
template <Vector T>
[[gnu::always_inline]] inline T wrapping_multiply(T x, T y) {
  return x * y;
}

template <Integer T>
[[gnu::always_inline]] inline T abs(T x) {
  return x < 0 ? wrapping_negate(x) : x;
}

template <class T>
  requires(std::is_same_v<T, I> || std::is_same_v<T, L>)
[[gnu::always_inline]] inline T sign(T x) {
  return (x < 0) - (x > 0);  // true is -1
}

using Wide = double __attribute__((vector_size(kLanes * 8)));

namespace detail {

// Of a register's halves, where GCC would take wider vectors apart (and 12.2 dies of it).
[[gnu::always_inline]] inline I divide_toward_zero(I a, I b) {
#if defined(__AVX512F__)
  const auto half = [&](auto part) {
    constexpr int kPart = decltype(part)::value;
    const __m512d x = _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64((__m512i)a, kPart));
    const __m512d y = _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64((__m512i)b, kPart));
    return _mm512_cvttpd_epi32(_mm512_div_pd(x, y));
  };
  const __m512i low = _mm512_castsi256_si512(half(std::integral_constant<int, 0>{}));
  return (I)_mm512_inserti64x4(low, half(std::integral_constant<int, 1>{}), 1);
#else
  return __builtin_convertvector(
      __builtin_convertvector(a, Wide) / __builtin_convertvector(b, Wide), I);
#endif
}

}  // namespace detail

// A double holds the quotient of two 32-bit ints closely enough: where it is no whole number it is
// at least 1 / |b| away from one, and rounding moves it by less.
[[gnu::always_inline]] inline I floordiv(I a, I b) {
  const I safe = b == 0 ? splat_i(1) : b;
  I quotient = detail::divide_toward_zero(a, safe);
  // -2^31 / -1 does not fit: wrapped, as the scalar.
  quotient = (b == -1) ? -a : quotient;
  const I rest = a - quotient * safe;
  quotient += (rest != 0) & ((rest ^ safe) < 0);
  return b == 0 ? I{} : quotient;
}
[[gnu::always_inline]] inline I floormod(I a, I b) { return b == 0 ? I{} : a - floordiv(a, b) * b; }

namespace detail {

struct Divided {
  alignas(64) int64_t quotient[kLanes], rest[kLanes];
};

#if defined(__AVX512DQ__)
// Lanes `at` .. `at` + 7 by doubles, where they hold all operands exactly, for the reason above;
// false where they do not.
inline bool divide_doubles(const int64_t* a, const int64_t* b, int at, Divided& result) {
  const __m512i x = _mm512_loadu_si512(a + at), y = _mm512_loadu_si512(b + at);
  const __m512i limit = _mm512_set1_epi64(int64_t{1} << 53);
  const auto fits = [&](__m512i value) {
    return _mm512_cmplt_epu64_mask(_mm512_add_epi64(value, limit), _mm512_add_epi64(limit, limit));
  };
  if ((fits(x) & fits(y)) != 0xff) return false;
  const __mmask8 divides = _mm512_test_epi64_mask(y, y);
  const __m512d exact = _mm512_div_pd(_mm512_cvtepi64_pd(x), _mm512_cvtepi64_pd(y));
  __m512i quotient = _mm512_maskz_cvttpd_epi64(divides, exact);
  __m512i rest = _mm512_maskz_sub_epi64(divides, x, _mm512_mullo_epi64(quotient, y));
  const __mmask8 other_sign = _mm512_movepi64_mask(_mm512_xor_si512(rest, y));
  const __mmask8 above = other_sign & _mm512_test_epi64_mask(rest, rest);
  quotient = _mm512_mask_sub_epi64(quotient, above, quotient, _mm512_set1_epi64(1));
  rest = _mm512_mask_add_epi64(rest, above, rest, y);
  _mm512_store_si512(result.quotient + at, quotient);
  _mm512_store_si512(result.rest + at, rest);
  return true;
}
#endif

// A function of its own: it is long, and a mask may divide several times.
[[gnu::noinline]] inline void divide_each(const int64_t* a, const int64_t* b, Divided& result) {
#if defined(__AVX512DQ__)
  if (divide_doubles(a, b, 0, result) && divide_doubles(a, b, 8, result)) return;
#endif
  for (int i = 0; i < kLanes; ++i) {
    result.quotient[i] = floordiv(a[i], b[i]);
    result.rest[i] = floormod(a[i], b[i]);
  }
}

[[gnu::always_inline]] inline Divided divide(const L& a, const L& b) {
  alignas(64) int64_t x[kLanes], y[kLanes];
  store(x, a);
  store(y, b);
  Divided result;
  divide_each(x, y, result);
  return result;
}

}  // namespace detail

[[gnu::always_inline]] inline L floordiv(L a, L b) { return load_l(detail::divide(a, b).quotient); }
[[gnu::always_inline]] inline L floormod(L a, L b) { return load_l(detail::divide(a, b).rest); }
// Of lanes strictly inside 32 bits.
[[gnu::always_inline]] inline L floormod(I a, int64_t b) {
  if (b == 0) return L{};
  return to_long(a) - to_long(floordiv(a, splat_i(saturate(b)))) * b;
}

template <Integer T>
[[gnu::always_inline]] inline T ipow(T x, uint64_t n) {
  T r = splat<T>(1);
  for (; n != 0; n >>= 1) {
    if (n & 1) r = wrapping_multiply(r, x);
    x = wrapping_multiply(x, x);
  }
  return r;
}

// Bit n of x in two's complement; n is clamped to [0, 63], as an index is.
template <Integer T>
[[gnu::always_inline]] inline auto bit(T x, T n) {
  if constexpr (std::is_same_v<T, I>) {
    return (x >> min(max(n, I{}), splat_i(31)) & 1) != 0;  // bits past 31 repeat the sign
  } else if constexpr (std::is_same_v<T, L>) {
    return narrow((x >> min(max(n, L{}), splat_l(63)) & 1) != 0);
  } else {
    return (x >> clamp(n, T{0}, static_cast<T>(8 * sizeof(T) - 1)) & 1) != 0;
  }
}

}  // namespace attnlang::cpu
