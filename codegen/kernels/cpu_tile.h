// The operands of a tile for the two products, float32: rows where they lie, or packed.
//
// float32 rows with an inner stride of 1 are read in place; other elements and strides are
// converted into scratch, a tile at a time, which costs 1/64 of the products.
#pragma once

#include <algorithm>

#include "attnlang/cpu/element.h"
#include "attnlang/cpu/gemm.h"
#include "kernels/cpu_problem.h"

namespace attnlang::cpu {

constexpr int kQueryTile = 64;
constexpr int kKeyTile = 64;
constexpr int kScoreRows = kKeyTile + 2;  // micro-kernels round an odd count up
constexpr int kPanels = kQueryTile / kPanel;
static_assert(kKeyTile <= kMaxKeyTile, "a key tile fits in a Variant::ColumnTile");
static_assert(kQueryTile % kPanel == 0, "whole panels");

template <class Element, int kD, int kDV>
struct FloatTile {
  // [panel][d][kPanel]
  alignas(64) float q[kPanels * kD * kPanel];
  alignas(64) float k[kKeyTile * kD];
  alignas(64) float v[kKeyTile * kDV];
  alignas(64) float zeros[kDV];
  const float* k_rows[kKeyTile + 1];
  const float* v_rows[kKeyTile];

  void start() { std::fill_n(zeros, kDV, 0.0f); }

  // Rows past `rows` up to a whole panel are zeros.
  template <class RowOf>
  void load_queries(const RowOf& row_of, int64_t inner, int rows) {
    alignas(64) float row[kD];
    const int padded = (rows + kPanel - 1) / kPanel * kPanel;
    for (int m = 0; m < padded; ++m) {
      if (m < rows) row_to_float(row, row_of(m), inner, kD);
      else std::fill_n(row, kD, 0.0f);
      float* column = q + m / kPanel * kD * kPanel + m % kPanel;
      for (int d = 0; d < kD; ++d) column[d * kPanel] = row[d];
    }
  }

  void load_keys(const StridedKv<Element>& kv, int n) {
    for (int j = 0; j < n; ++j) {
      k_rows[j] = row<kD>(kv.k_row(j), kv.k_inner, k + j * kD);
    }
    k_rows[n] = k_rows[n - 1];
  }

  // `hidden`, where given: columns whose values count as zero whatever they hold.
  void load_values(const StridedKv<Element>& kv, int n, const int32_t* hidden) {
    for (int j = 0; j < n; ++j) {
      const bool skip = hidden != nullptr && hidden[j] != 0;
      v_rows[j] = skip ? zeros : row<kDV>(kv.v_row(j), kv.v_inner, v + j * kDV);
    }
  }

  // scores: [panel][kScoreRows][kPanel]; the last row is scratch.
  void dot(int panel, int n, float* scores) const {
    dot_panel<FloatProduct>(k_rows, n, kD, q + panel * kD * kPanel, scores);
  }

  // acc: [panel][kDV][kPanel], acc = acc * factor + values^T weights.
  void accumulate(int panels, int n, float* weights, int64_t weights_stride, const float* factor,
                  float* acc) const {
    accumulate_panels<FloatProduct, kDV>(v_rows, n, panels, weights, weights_stride, factor, acc);
  }

 private:
  template <int kWidth>
  static const float* row(const Element* source, int64_t inner, float* scratch) {
    if constexpr (std::is_same_v<Element, float>) {
      if (inner == 1) return source;
    }
    row_to_float(scratch, source, inner, kWidth);
    return scratch;
  }
};

}  // namespace attnlang::cpu
