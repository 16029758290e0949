// kLanes vectors at once: their sums (lane i of the result is the sum of vector i), their
// transpose.
//
// Each level of a sum joins vector i with vector i + half: within blocks of kBlock lanes, the two
// halves of one operand are added into the block's first half, those of the other into its second.
// Each level of a transpose swaps one bit of the vector's number with that bit of the lane's.
#pragma once

#include <utility>

#include "attnlang/cpu/simd.h"

namespace attnlang::cpu {

namespace detail {

// Which of two operands' lanes, numbered through, comes to `lane`.
template <int kBlock>
constexpr int join_source(int lane, int from) {
  const int block = lane / kBlock * kBlock, at = lane % kBlock;
  const bool second = at >= kBlock / 2;
  return block + (second ? kLanes + at - kBlock / 2 : at) + from;
}

template <int kBlock, int... lane>
constexpr I join_mask(int from, std::integer_sequence<int, lane...>) {
  return I{join_source<kBlock>(lane, from)...};
}

template <int kBlock>
[[gnu::always_inline]] inline F join(F a, F b) {
  constexpr std::make_integer_sequence<int, kLanes> kEachLane;
  constexpr I low = join_mask<kBlock>(0, kEachLane);
  constexpr I high = join_mask<kBlock>(kBlock / 2, kEachLane);
  return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
}

template <int kBlock>
[[gnu::always_inline]] inline F sum_level(F* x) {
  constexpr int kHalf = kBlock / 2;
#pragma GCC unroll 8
  for (int i = 0; i < kHalf; ++i) x[i] = join<kBlock>(x[i], x[i + kHalf]);
  if constexpr (kBlock > 2) return sum_level<kHalf>(x);
  else return x[0];
}

// Of lanes of a pair of vectors, numbered through: those whose bit kBit is clear (or set), with the
// vector's number in that bit.
template <int kBit, int... lane>
constexpr I swap_mask(bool set, std::integer_sequence<int, lane...>) {
  return I{(lane & kBit ? kLanes + (lane & ~kBit) : lane) + (set ? kBit : 0)...};
}

template <int kBit>
[[gnu::always_inline]] inline void transpose_level(F* x) {
  constexpr std::make_integer_sequence<int, kLanes> kEachLane;
  constexpr I clear = swap_mask<kBit>(false, kEachLane), set = swap_mask<kBit>(true, kEachLane);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & kBit) continue;
    const F a = x[i], b = x[i + kBit];
    x[i] = __builtin_shuffle(a, b, clear);
    x[i + kBit] = __builtin_shuffle(a, b, set);
  }
  if constexpr (kBit > 1) transpose_level<kBit / 2>(x);
}

}  // namespace detail

// Lane i of vector j becomes lane j of vector i. x holds kLanes vectors.
[[gnu::always_inline]] inline void transpose(F* x) { detail::transpose_level<kLanes / 2>(x); }

// A matrix of kLanes columns, `rows` of which are there (zeros for the rest), to its transpose, of
// which `columns` rows are written: to[i * to_stride + j] = from[j * from_stride + i].
inline void transpose(float* to, int64_t to_stride, int columns, const float* from,
                      int64_t from_stride, int rows) {
  F x[kLanes];
#pragma GCC unroll 16
  for (int j = 0; j < kLanes; ++j) x[j] = j < rows ? load_f(from + j * from_stride) : F{};
  transpose(x);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i < columns) store(to + i * to_stride, x[i]);
  }
}

// x holds kLanes vectors, and is overwritten.
[[gnu::always_inline]] inline F sum_each(F* x) { return detail::sum_level<kLanes>(x); }

// Of lanes without a NaN.
[[gnu::always_inline]] inline float largest(F x) {
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2) {
    const F other = __builtin_shuffle(x, iota_i() ^ half);
    x = x > other ? x : other;
  }
  return x[0];
}

}  // namespace attnlang::cpu
