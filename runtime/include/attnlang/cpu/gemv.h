// The two products of a few rows with a block of keys, with head dimensions in the lanes.
//
// Rows of K and V are read front to back, once, for all query rows; elements are widened in
// registers. The last lanes of a row that is no whole number of vectors never read past its end.
#pragma once

#include "attnlang/cpu/element.h"
#include "attnlang/cpu/reduce.h"

namespace attnlang::cpu {

// A row length rounded up to whole vectors.
constexpr int padded(int n) { return (n + kLanes - 1) / kLanes * kLanes; }

// Rows that are read soon, and are asked for meanwhile: the hardware foresees neither rows that are
// read several at a time nor a stream that another one interrupts. Any address will do.
struct Ahead {
  const void* const* rows;
  int64_t bytes;  // of a row; 0: there are none

  [[gnu::always_inline]] void ask(int64_t j) const {
    for (int64_t at = 0; at < bytes; at += 64) {
      __builtin_prefetch(static_cast<const char*>(rows[j]) + at, 0, 2);
    }
  }
  Ahead from(int64_t j) const { return {rows + j, bytes}; }
};

namespace detail {

template <int kWidth, class Element>
[[gnu::always_inline]] inline F load_chunk(const Element* row, int64_t chunk) {
  constexpr int kRest = kWidth % kLanes;
  if (kRest != 0 && chunk == kWidth / kLanes) {
    return load_first_elements(row + kWidth - kRest, kRest);
  }
  return load_elements(row + chunk * kLanes);
}

// dots[r * stride + j] = queries[r] . keys[j] for kRows rows and kLanes keys, while kLanes rows are
// asked for.
template <int kRows, int kWidth, class Element>
inline void dot_rows(const float* queries, const Element* const* keys, const Ahead& ahead,
                     float* dots, int64_t stride) {
  constexpr int kPadded = padded(kWidth);
  F partial[kRows][kLanes];
  for (int64_t j = 0; j < kLanes; ++j) {
    const Element* key = keys[j];
    ahead.ask(j);
    F sum[kRows] = {};
#pragma GCC unroll 8
    for (int64_t c = 0; c < kPadded / kLanes; ++c) {
      const F x = load_chunk<kWidth>(key, c);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sum[r] += x * load_f(queries + r * kPadded + c * kLanes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) partial[r][j] = sum[r];
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) store(dots + r * stride, sum_each(partial[r]));
}

}  // namespace detail

// dots[r * stride + j] = queries[r] . keys[j] for j < kLanes; queries: [rows][padded(kWidth)].
// `ahead`: kLanes rows.
template <int kWidth, class Element>
void dot_keys(const float* queries, int rows, const Element* const* keys, const Ahead& ahead,
              float* dots, int64_t stride) {
  constexpr int kPadded = padded(kWidth);
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

constexpr int kValueKeys = 8;  // values of 8 keys in registers, an accumulator or two, a weight

// Of step c of `steps`, the rows that it asks for: evenly, kValueKeys in all.
[[gnu::always_inline]] inline void ask_share(const Ahead& ahead, int c, int steps) {
  for (int j = c * kValueKeys / steps; j < (c + 1) * kValueKeys / steps; ++j) ahead.ask(j);
}

// acc[r] += sum over j < kValueKeys of weights[r * stride + j] * values[j]; acc: [rows][padded].
// `ahead`: kValueKeys rows.
template <int kWidth, class Element>
void accumulate_values(const float* weights, int64_t stride, int rows, const Element* const* values,
                       const Ahead& ahead, float* acc) {
  constexpr int kPadded = padded(kWidth), kSteps = kPadded / kLanes;
#pragma GCC unroll 8
  for (int c = 0; c < kSteps; ++c) {
    ask_share(ahead, c, kSteps);
    F x[kValueKeys];
#pragma GCC unroll 8
    for (int j = 0; j < kValueKeys; ++j) x[j] = detail::load_chunk<kWidth>(values[j], c);
    for (int64_t r = 0; r < rows; ++r) {
      const float* weight = weights + r * stride;
      float* at = acc + r * kPadded + c * kLanes;
      F even = load_f(at), odd{};
#pragma GCC unroll 8
      for (int j = 0; j < kValueKeys; j += 2) {
        even += weight[j] * x[j];
        odd += weight[j + 1] * x[j + 1];
      }
      store(at, even + odd);
    }
  }
}

}  // namespace attnlang::cpu
