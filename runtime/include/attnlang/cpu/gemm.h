// The two products of a tile, with queries in the lanes.
//
// A tile's queries stand in panels of kPanel lanes. A matrix over queries is stored panel by panel,
// [panel][depth][kPanel], so that a micro-kernel reads it as one stream; rows of K and V are read
// where they lie, an element at a time, broadcast. Accumulators fill the register file and no more.
// A strip is a part of a panel's vectors: with fewer queries at a time a mask leaves out more keys.
//
// An element has 32 bits: a float, or whatever else `Product` multiplies (a pair of bfloat16).
#pragma once

#include <algorithm>

#include "attnlang/cpu/simd.h"

namespace attnlang::cpu {

#if defined(__AVX512F__)
constexpr int kPanelVectors = 4;  // 32 registers: 4 rows x 4 vectors, 4 operands, a broadcast
constexpr int kStripVectors = 2;
#else
constexpr int kPanelVectors = 2;  // 16 registers: 6 rows x 2 vectors, 2 operands, a broadcast
constexpr int kStripVectors = 2;
#endif
constexpr int kPanel = kPanelVectors * kLanes;

// Rows of K, or columns of V, that a micro-kernel takes with so many vectors of queries.
template <int kVectors>
constexpr int kMicroRows = kPanelVectors == 4 ? 16 / kVectors : 12 / kVectors;

// sum + a * b.
struct FloatProduct {
  [[gnu::always_inline]] static F add(F sum, F a, F b) { return sum + a * b; }
};

namespace detail {

// Rows of packed pairs may lie at any even address.
[[gnu::always_inline]] inline F broadcast_element(const float* p) {
  float x;
  std::memcpy(&x, p, sizeof x);
  return splat_f(x);
}

// consume(r, sums over t of rows[r][t] * panel[t]), r < kRows.
template <class Product, int kRows, int kVectors, class Consume>
[[gnu::always_inline]] inline void dot_block(const float* const* rows, int depth,
                                             const float* panel, const Consume& consume) {
  F sum[kRows][kVectors] = {};
  const float* row[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) row[r] = rows[r];
#pragma GCC unroll 2
  for (int64_t t = 0; t < depth; ++t, panel += kPanel) {
    F x[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) x[v] = load_f(panel + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const F y = broadcast_element(row[r] + t);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[r][v] = Product::add(sum[r][v], y, x[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) consume(r, sum[r]);
}

// out[r] = out[r] * factor + sum over t of rows[t][column + r] * panel[t], r < kRows.
template <class Product, int kRows, int kVectors>
[[gnu::always_inline]] inline void accumulate_block(const float* const* rows, int column, int count,
                                                    const float* panel, const float* factor,
                                                    float* out) {
  F sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = load_f(out + r * kPanel + v * kLanes);
      if (factor != nullptr) sum[r][v] *= load_f(factor + v * kLanes);
    }
  }
  const float* const* const end = rows + count;
#pragma GCC unroll 2
  for (; rows != end; ++rows, panel += kPanel) {
    const float* row = *rows + column;
    F x[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) x[v] = load_f(panel + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const F y = broadcast_element(row + r);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[r][v] = Product::add(sum[r][v], y, x[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store(out + r * kPanel + v * kLanes, sum[r][v]);
  }
}

}  // namespace detail

// consume(j, dots) for j < count: kVectors vectors of rows[j] . panel.
template <class Product, int kVectors, class Consume>
[[gnu::always_inline]] inline void dot_strip(const float* const* rows, int count, int depth,
                                             const float* panel, const Consume& consume) {
  constexpr int kRows = kMicroRows<kVectors>;
  int j = 0;
  for (; j + kRows <= count; j += kRows) {
    detail::dot_block<Product, kRows, kVectors>(
        rows + j, depth, panel, [&](int r, const F* dots) { consume(j + r, dots); });
  }
  if (j >= count) return;
  const float* last[kRows];
  F rest[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) last[r] = rows[std::min(j + r, count - 1)];
  detail::dot_block<Product, kRows, kVectors>(
      last, depth, panel, [&](int r, const F* dots) { std::copy_n(dots, kVectors, rest[r]); });
  for (int r = 0; r < count - j; ++r) consume(j + r, rest[r]);
}

// scores[j] = rows[j] . panel, j < count.
template <class Product>
void dot_panel(const float* const* rows, int count, int depth, const float* panel, float* scores) {
  dot_strip<Product, kPanelVectors>(rows, count, depth, panel, [&](int j, const F* dots) {
#pragma GCC unroll 8
    for (int v = 0; v < kPanelVectors; ++v) store(scores + j * kPanel + v * kLanes, dots[v]);
  });
}

// out[e] = out[e] * factor + sum over t < count of rows[t][e] * panel[t], for e < kDepth and
// kVectors vectors; no factor: 1.
template <class Product, int kDepth, int kVectors>
void accumulate_strip(const float* const* rows, int count, const float* weights,
                      const float* factor, float* out) {
  constexpr int kRows = kMicroRows<kVectors>, kWhole = kDepth / kRows * kRows;
  for (int e = 0; e < kWhole; e += kRows) {
    detail::accumulate_block<Product, kRows, kVectors>(rows, e, count, weights, factor,
                                                       out + e * kPanel);
  }
  if constexpr (kWhole < kDepth) {
    detail::accumulate_block<Product, kDepth - kWhole, kVectors>(rows, kWhole, count, weights,
                                                                 factor, out + kWhole * kPanel);
  }
}

}  // namespace attnlang::cpu
