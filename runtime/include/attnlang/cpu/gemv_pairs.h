// The products of gemv.h in bfloat16 pairs (dpbf16): half the loads, and no widening.
//
// Queries and weights are bfloat16 too. For scores a pair is two neighbouring entries of a row,
// read where they lie; for sums it is an entry of two keys, interleaved in registers.
#pragma once

#include "attnlang/cpu/gemv.h"

namespace attnlang::cpu {

#if defined(__AVX512BF16__) && defined(__AVX512BW__)

template <class Element>
constexpr bool kPairProducts = std::is_same_v<Element, Bf16>;

constexpr int kPairLanes = 2 * kLanes;  // entries in a register

// A row length rounded up to whole registers of entries.
constexpr int padded_pairs(int n) { return (n + kPairLanes - 1) / kPairLanes * kPairLanes; }

namespace detail {

[[gnu::always_inline]] inline F add_pairs(F sum, __m512i a, __m512i b) {
  return (F)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

// Entries [chunk * kPairLanes, ...) of a row, zeros past its end, where nothing is read.
template <int kWidth>
[[gnu::always_inline]] inline __m512i load_pairs(const Bf16* row, int64_t chunk) {
  constexpr int kRest = kWidth % kPairLanes;
  const Bf16* at = row + chunk * kPairLanes;
  if (kRest != 0 && chunk == kWidth / kPairLanes) {
    return _mm512_maskz_loadu_epi16((__mmask32{1} << kRest) - 1, at);
  }
  return _mm512_loadu_si512(at);
}

template <int kRows, int kWidth>
inline void dot_rows(const Bf16* queries, const Bf16* const* keys, const Ahead& ahead, float* dots,
                     int64_t stride) {
  constexpr int kPadded = padded_pairs(kWidth);
  F partial[kRows][kLanes];
  for (int64_t j = 0; j < kLanes; ++j) {
    const Bf16* key = keys[j];
    ahead.ask(j);
    F sum[kRows] = {};
#pragma GCC unroll 8
    for (int64_t c = 0; c < kPadded / kPairLanes; ++c) {
      const __m512i x = load_pairs<kWidth>(key, c);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        sum[r] = add_pairs(sum[r], x, _mm512_loadu_si512(queries + r * kPadded + c * kPairLanes));
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) partial[r][j] = sum[r];
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) store(dots + r * stride, sum_each(partial[r]));
}

// Lanes (a[i], b[i]) of kLanes entries from `first` on.
template <int... lane>
[[gnu::always_inline]] inline __m512i interleave(__m512i a, __m512i b, int first,
                                                 std::integer_sequence<int, lane...>) {
  using Words = short __attribute__((vector_size(64)));
  const Words order{static_cast<short>(lane / 2 + first + lane % 2 * kPairLanes)...};
  return _mm512_permutex2var_epi16(a, (__m512i)order, b);
}

}  // namespace detail

// As the product of gemv.h; queries: [rows][padded_pairs(kWidth)].
template <int kWidth>
void dot_keys(const Bf16* queries, int rows, const Bf16* const* keys, const Ahead& ahead,
              float* dots, int64_t stride) {
  constexpr int kPadded = padded_pairs(kWidth);
  int r = 0;
  const auto each = [&]<int kRows>(std::integral_constant<int, kRows>) {
    detail::dot_rows<kRows, kWidth>(queries + r * kPadded, keys, r == 0 ? ahead : Ahead{},
                                    dots + r * stride, stride);
    r += kRows;
  };
  while (r + 8 <= rows) each(std::integral_constant<int, 8>{});
  while (r + 4 <= rows) each(std::integral_constant<int, 4>{});
  while (r < rows) each(std::integral_constant<int, 1>{});
}

// As the sums of gemv.h.
template <int kWidth>
void accumulate_values(const Bf16* weights, int64_t stride, int rows, const Bf16* const* values,
                       const Ahead& ahead, float* acc) {
  constexpr std::make_integer_sequence<int, kPairLanes> kEachLane;
  constexpr int kPairs = kValueKeys / 2;
  constexpr int kSteps = padded_pairs(kWidth) / kPairLanes;
#pragma GCC unroll 8
  for (int c = 0; c < kSteps; ++c) {
    ask_share(ahead, c, kSteps);
    __m512i low[kPairs], high[kPairs];
#pragma GCC unroll 8
    for (int t = 0; t < kPairs; ++t) {
      const __m512i a = detail::load_pairs<kWidth>(values[2 * t], c);
      const __m512i b = detail::load_pairs<kWidth>(values[2 * t + 1], c);
      low[t] = detail::interleave(a, b, 0, kEachLane);
      high[t] = detail::interleave(a, b, kLanes, kEachLane);
    }
    const bool two = padded(kWidth) > c * kPairLanes + kLanes;
    for (int64_t r = 0; r < rows; ++r) {
      float* at = acc + r * padded(kWidth) + c * kPairLanes;
      F first = load_f(at), second = two ? load_f(at + kLanes) : F{};
#pragma GCC unroll 8
      for (int t = 0; t < kPairs; ++t) {
        int32_t pair;
        std::memcpy(&pair, weights + r * stride + 2 * t, sizeof pair);
        const __m512i weight = _mm512_set1_epi32(pair);
        first = detail::add_pairs(first, weight, low[t]);
        second = detail::add_pairs(second, weight, high[t]);
      }
      store(at, first);
      if (two) store(at + kLanes, second);
    }
  }
}

#else

template <class Element>
constexpr bool kPairProducts = false;

constexpr int padded_pairs(int n) { return padded(n); }

#endif

}  // namespace attnlang::cpu
