// The two products of a tile, with queries in the lanes.
//
// A tile's queries stand in panels of kPanel lanes. A matrix over queries is stored panel by panel,
// [panel][depth][kPanel], so that a micro-kernel reads it as one stream; rows of K and V are read
// where they lie, an element at a time, broadcast. Accumulators fill the register file and no more.
//
// An element has 32 bits: a float, or whatever else `Product` multiplies (a pair of bfloat16).
#pragma once

#include "attnlang/cpu/simd.h"

namespace attnlang::cpu {

#if defined(__AVX512F__)
constexpr int kPanelVectors = 4;  // 32 registers: 4 rows x 4 vectors, 4 operands, a broadcast
constexpr int kMicroRows = 4;
#else
constexpr int kPanelVectors = 2;  // 16 registers: 6 rows x 2 vectors, 2 operands, a broadcast
constexpr int kMicroRows = 6;
#endif
constexpr int kPanel = kPanelVectors * kLanes;

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

// out[r] = sum over t of rows[r][t] * panel[t].
template <class Product, int kRows>
[[gnu::always_inline]] inline void dot_block(const float* const* rows, int depth,
                                             const float* panel, float* out) {
  F sum[kRows][kPanelVectors] = {};
  const float* row[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) row[r] = rows[r];
#pragma GCC unroll 2
  for (int64_t t = 0; t < depth; ++t, panel += kPanel) {
    F x[kPanelVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kPanelVectors; ++v) x[v] = load_f(panel + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const F y = broadcast_element(row[r] + t);
#pragma GCC unroll 8
      for (int v = 0; v < kPanelVectors; ++v) sum[r][v] = Product::add(sum[r][v], y, x[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kPanelVectors; ++v) store(out + r * kPanel + v * kLanes, sum[r][v]);
  }
}

// out[r] = out[r] * factor + sum over t of rows[t][r] * panel[t].
template <class Product, int kRows>
[[gnu::always_inline]] inline void accumulate_block(const float* const* rows, int column, int count,
                                                    const float* panel, const float* factor,
                                                    float* out) {
  F sum[kRows][kPanelVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kPanelVectors; ++v) {
      sum[r][v] = load_f(out + r * kPanel + v * kLanes);
      if (factor != nullptr) sum[r][v] *= load_f(factor + v * kLanes);
    }
  }
  const float* const* const end = rows + count;
#pragma GCC unroll 2
  for (; rows != end; ++rows, panel += kPanel) {
    const float* row = *rows + column;
    F x[kPanelVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kPanelVectors; ++v) x[v] = load_f(panel + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const F y = broadcast_element(row + r);
#pragma GCC unroll 8
      for (int v = 0; v < kPanelVectors; ++v) sum[r][v] = Product::add(sum[r][v], y, x[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kPanelVectors; ++v) store(out + r * kPanel + v * kLanes, sum[r][v]);
  }
}

}  // namespace detail

// scores[j] = rows[j] . panel for `count` rows. Where count is odd, one more pointer must lead to a
// readable row; what it gives is written after the others.
template <class Product>
void dot_panel(const float* const* rows, int count, int depth, const float* panel, float* scores) {
  int j = 0;
  for (; j + kMicroRows <= count; j += kMicroRows) {
    detail::dot_block<Product, kMicroRows>(rows + j, depth, panel, scores + j * kPanel);
  }
  if (count - j > 2) {
    detail::dot_block<Product, 4>(rows + j, depth, panel, scores + j * kPanel);
    j += 4;
  }
  if (count - j > 0) detail::dot_block<Product, 2>(rows + j, depth, panel, scores + j * kPanel);
}

// out[e] = out[e] * factor + sum over t < count of rows[t][e] * panel[t], for e < kDepth in every
// panel; no factor: 1. All panels share a block's columns of `rows` while they are in the cache.
template <class Product, int kDepth>
void accumulate_panels(const float* const* rows, int count, int panels, const float* weights,
                       int64_t weights_stride, const float* factor, float* out) {
  constexpr int kWhole = kDepth / kMicroRows * kMicroRows;
  for (int e = 0; e < kWhole; e += kMicroRows) {
    for (int i = 0; i < panels; ++i) {
      detail::accumulate_block<Product, kMicroRows>(
          rows, e, count, weights + i * weights_stride,
          factor == nullptr ? nullptr : factor + i * kPanel,
          out + (int64_t{i} * kDepth + e) * kPanel);
    }
  }
  if constexpr (kWhole < kDepth) {
    for (int i = 0; i < panels; ++i) {
      detail::accumulate_block<Product, kDepth - kWhole>(
          rows, kWhole, count, weights + i * weights_stride,
          factor == nullptr ? nullptr : factor + i * kPanel,
          out + (int64_t{i} * kDepth + kWhole) * kPanel);
    }
  }
}

}  // namespace attnlang::cpu
