// The language's integer functions on lanes and on scalars: they wrap at the width of their type.
//
// `//` and `%` round toward minus infinity, and by 0 give 0; no operand traps.
#pragma once

#include "attnlang/cpu/simd.h"

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

// Arithmetic of the unsigned type: overflow wraps instead of being undefined.
inline int32_t wrapping_negate(int32_t x) {
  return static_cast<int32_t>(-static_cast<uint32_t>(x));
}
inline int64_t wrapping_negate(int64_t x) {
  return static_cast<int64_t>(-static_cast<uint64_t>(x));
}
inline int32_t wrapping_multiply(int32_t x, int32_t y) {
  return static_cast<int32_t>(static_cast<uint32_t>(x) * static_cast<uint32_t>(y));
}
inline int64_t wrapping_multiply(int64_t x, int64_t y) {
  return static_cast<int64_t>(static_cast<uint64_t>(x) * static_cast<uint64_t>(y));
}
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

inline int32_t sign(int32_t x) { return (x > 0) - (x < 0); }
inline int64_t sign(int64_t x) { return (x > 0) - (x < 0); }
template <class T>
  requires(std::is_same_v<T, I> || std::is_same_v<T, L>)
[[gnu::always_inline]] inline T sign(T x) {
  return (x < 0) - (x > 0);  // true is -1
}

inline int64_t floordiv(int64_t a, int64_t b) {
  if (b == 0) return 0;
  if (b == -1) return wrapping_negate(a);
  const int64_t quotient = a / b;
  return quotient - ((a % b != 0) & ((a ^ b) < 0));
}
inline int64_t floormod(int64_t a, int64_t b) {
  if (b == 0 || b == -1) return 0;
  const int64_t rest = a % b;
  return rest != 0 && (rest ^ b) < 0 ? rest + b : rest;
}
inline int32_t floordiv(int32_t a, int32_t b) {
  return static_cast<int32_t>(floordiv(int64_t{a}, int64_t{b}));
}
inline int32_t floormod(int32_t a, int32_t b) {
  return static_cast<int32_t>(floormod(int64_t{a}, int64_t{b}));
}

using Wide = double __attribute__((vector_size(kLanes * 8)));

// A double holds the quotient of two 32-bit ints closely enough: where it is no whole number it is
// at least 1 / |b| away from one, and rounding moves it by less.
[[gnu::always_inline]] inline I floordiv(I a, I b) {
  const I safe = b == 0 ? splat_i(1) : b;
  const Wide x = __builtin_convertvector(a, Wide);
  const Wide y = __builtin_convertvector(safe, Wide);
  I quotient = __builtin_convertvector(x / y, I);
  // -2^31 / -1 does not fit: wrapped, as the scalar.
  quotient = (b == -1) ? -a : quotient;
  const I rest = a - quotient * safe;
  quotient += (rest != 0) & ((rest ^ safe) < 0);
  return b == 0 ? I{} : quotient;
}
[[gnu::always_inline]] inline I floormod(I a, I b) { return b == 0 ? I{} : a - floordiv(a, b) * b; }
[[gnu::always_inline]] inline L floordiv(L a, L b) {
  for (int i = 0; i < kLanes; ++i) a[i] = floordiv(int64_t{a[i]}, int64_t{b[i]});
  return a;
}
[[gnu::always_inline]] inline L floormod(L a, L b) {
  for (int i = 0; i < kLanes; ++i) a[i] = floormod(int64_t{a[i]}, int64_t{b[i]});
  return a;
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
