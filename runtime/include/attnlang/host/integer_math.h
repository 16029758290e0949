// The language's integer functions on scalars: they wrap at the width of their type.
//
// `//` and `%` round toward minus infinity, and by 0 give 0; no operand traps. Rests are made of
// the quotient: a GPU divides by many instructions, and shares one division between both.
#pragma once

#include <concepts>
#include <cstdint>

namespace attnlang {

// Arithmetic of the unsigned type: overflow wraps instead of being undefined.
constexpr int32_t wrapping_negate(int32_t x) {
  return static_cast<int32_t>(-static_cast<uint32_t>(x));
}
constexpr int64_t wrapping_negate(int64_t x) {
  return static_cast<int64_t>(-static_cast<uint64_t>(x));
}
constexpr int32_t wrapping_multiply(int32_t x, int32_t y) {
  return static_cast<int32_t>(static_cast<uint32_t>(x) * static_cast<uint32_t>(y));
}
constexpr int64_t wrapping_multiply(int64_t x, int64_t y) {
  return static_cast<int64_t>(static_cast<uint64_t>(x) * static_cast<uint64_t>(y));
}
constexpr int64_t wrapping_subtract(int64_t x, int64_t y) {
  return static_cast<int64_t>(static_cast<uint64_t>(x) - static_cast<uint64_t>(y));
}

constexpr int32_t sign(int32_t x) { return (x > 0) - (x < 0); }
constexpr int64_t sign(int64_t x) { return (x > 0) - (x < 0); }

// Without branches: a kernel divides in unrolled loops, and nvcc's time grows with them. By 0 and
// by -1 it divides by 1 instead, and multiplies by what is missing.
template <std::signed_integral T>
constexpr T floordiv(T a, T b) {
  const T divisor = b == 0 || b == -1 ? 1 : b, factor = b == 0 || b == -1 ? b : 1;
  const T whole = a / divisor;
  const T quotient = whole - ((whole * divisor != a) & ((a ^ divisor) < 0));
  return wrapping_multiply(quotient, factor);
}
template <std::signed_integral T>
constexpr T floormod(T a, T b) {
  const T divisor = b == 0 || b == -1 ? 1 : b;
  const T rest = a - a / divisor * divisor;
  return rest + ((rest != 0) & ((rest ^ divisor) < 0)) * divisor;
}

}  // namespace attnlang
