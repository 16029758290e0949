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
