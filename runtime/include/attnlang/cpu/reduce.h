// Sums of many vectors at once: lane i of the result is the sum of vector i.
//
// Each level joins vector i with vector i + half: within blocks of kBlock lanes, the two halves of
// one operand are added into the block's first half, those of the other into its second.
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

}  // namespace detail

// x holds kLanes vectors, and is overwritten.
[[gnu::always_inline]] inline F sum_each(F* x) { return detail::sum_level<kLanes>(x); }

[[gnu::always_inline]] inline float largest(F x) {
  float r = x[0];
  for (int i = 1; i < kLanes; ++i) r = x[i] > r ? x[i] : r;
  return r;
}

}  // namespace attnlang::cpu
