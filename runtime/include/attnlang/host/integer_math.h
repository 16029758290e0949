// The language's integer functions on scalars: they wrap at the width of their type.
//
// `//` and `%` round toward minus infinity, and by 0 give 0; no operand traps.
#pragma once

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

constexpr int32_t sign(int32_t x) { return (x > 0) - (x < 0); }
constexpr int64_t sign(int64_t x) { return (x > 0) - (x < 0); }

constexpr int64_t floordiv(int64_t a, int64_t b) {
  if (b == 0) return 0;
  if (b == -1) return wrapping_negate(a);
  const int64_t quotient = a / b;
  return quotient - ((a % b != 0) & ((a ^ b) < 0));
}
constexpr int64_t floormod(int64_t a, int64_t b) {
  if (b == 0 || b == -1) return 0;
  const int64_t rest = a % b;
  return rest != 0 && (rest ^ b) < 0 ? rest + b : rest;
}
// -2^31 // -1 wraps.
constexpr int32_t floordiv(int32_t a, int32_t b) {
  if (b == 0) return 0;
  if (b == -1) return wrapping_negate(a);
  const int32_t quotient = a / b;
  return quotient - ((a % b != 0) & ((a ^ b) < 0));
}
constexpr int32_t floormod(int32_t a, int32_t b) {
  if (b == 0 || b == -1) return 0;
  const int32_t rest = a % b;
  return rest != 0 && (rest ^ b) < 0 ? rest + b : rest;
}

}  // namespace attnlang
