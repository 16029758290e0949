// The operands of a tile for the two products, float32: rows where they lie, or packed.
//
// float32 rows with an inner stride of 1 are read in place; other elements and strides are
// converted into scratch, a tile at a time, which costs 1/64 of the products.
#pragma once

#include <algorithm>

#include "attnlang/cpu/element.h"
#include "attnlang/cpu/gemm.h"
#include "attnlang/cpu/gemv.h"
#include "attnlang/cpu/reduce.h"
#include "kernels/cpu_problem.h"

namespace attnlang::cpu {

constexpr int kQueryTile = 64;
constexpr int kKeyTile = 64;
constexpr int kPanels = kQueryTile / kPanel;
static_assert(kKeyTile <= kMaxKeyTile, "a key tile fits in a Variant::ColumnTile");
static_assert(kQueryTile % kPanel == 0, "whole panels");

// [panel][kDepth][kPanel] of the rows that read(m, row) gives, zeros past `rows` up to a whole
// panel.
template <int kDepth, class Read>
void load_panels(float* panels, int rows, const Read& read) {
  constexpr int kRoom = padded(kDepth);
  alignas(64) float block[kLanes * kRoom];
  for (int m = 0; m < (rows + kPanel - 1) / kPanel * kPanel; m += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      if (m + i < rows) read(m + i, block + i * kRoom);
      else std::fill_n(block + i * kRoom, kRoom, 0.0f);
    }
    float* panel = panels + m / kPanel * kDepth * kPanel + m % kPanel;
    for (int d = 0; d < kDepth; d += kLanes) {
      const int columns = std::min(kLanes, kDepth - d);
      transpose(panel + d * kPanel, kPanel, columns, block + d, kRoom, kLanes);
    }
  }
}

template <class Element, int kD, int kDV>
struct FloatTile {
  static constexpr int kExp2Degree = 5;
  static constexpr int kTogether = 1;  // keys in a row of values

  // [panel][d][kPanel]
  alignas(64) float q[kPanels * kD * kPanel];
  alignas(64) float k[kKeyTile * kD];
  alignas(64) float v[kKeyTile * kDV];
  alignas(64) float zeros[kDV];
  const float* k_rows[kKeyTile];
  const float* v_rows[kKeyTile];

  void start() { std::fill_n(zeros, kDV, 0.0f); }

  // Rows past `rows` up to a whole panel are zeros.
  template <class RowOf>
  void load_queries(const RowOf& row_of, int64_t inner, int rows) {
    load_panels<kD>(q, rows, [&](int m, float* row) { row_to_float(row, row_of(m), inner, kD); });
  }

  template <class Kv>
  void load_keys(const Kv& kv, int n) {
    for (int j = 0; j < n; ++j) {
      k_rows[j] = row<kD>(kv.k_row(j), kv.k_inner, k + j * kD);
    }
  }

  // `hidden`, where given: columns whose values count as zero whatever they hold.
  template <class Kv>
  void load_values(const Kv& kv, int n, const int32_t* hidden) {
    for (int j = 0; j < n; ++j) {
      const bool skip = hidden != nullptr && hidden[j] != 0;
      v_rows[j] = skip ? zeros : row<kDV>(kv.v_row(j), kv.v_inner, v + j * kDV);
    }
  }

  // consume(j, dots of rows[j] with kVectors vectors of queries from m on), j < count.
  template <int kVectors, class Consume>
  [[gnu::always_inline]] void dot(int m, const float* const* rows, int count,
                                  const Consume& consume) const {
    const float* queries = q + m / kPanel * kD * kPanel + m % kPanel;
    dot_strip<FloatProduct, kVectors>(rows, count, kD, queries, consume);
  }

  // The weights of keys j and j + 1, one vector of queries; `weights` is where row 0 has them.
  static void store_weights(float* weights, int j, F low, F high) {
    store(weights + j * kPanel, low);
    store(weights + (j + 1) * kPanel, high);
  }

  // acc = acc * factor + rows^T weights for kVectors vectors of queries and `count` keys; weights:
  // [key][kPanel], acc: [kDV][kPanel].
  template <int kVectors>
  static void accumulate(const float* const* rows, int count, const float* weights,
                         const float* factor, float* acc) {
    accumulate_strip<FloatProduct, kDV, kVectors>(rows, count, weights, factor, acc);
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
