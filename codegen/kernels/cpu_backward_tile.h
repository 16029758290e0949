// One tile of the backward: its elements and its five products, and the memory that they need.
#pragma once

#include <algorithm>

#include "attnlang/cpu/math.h"
#include "kernels/cpu_backward_operands.h"
#include "kernels/cpu_backward_partials.h"
#include "kernels/cpu_backward_queries.h"
#include "kernels/cpu_backward_selection.h"
#include "kernels/cpu_gradient_variant.h"
#include "kernels/cpu_variant.h"

namespace attnlang::cpu {

template <class Variant, class Element, int kD, int kDV>
struct BackwardTile {
  using Request = typename Variant::Request;
  using Row = typename Variant::Row;
  using Column = typename Variant::Column;
  using Operands = typename ChooseOperands<Element, kD, kDV>::Type;
  using Product = typename Operands::Product;
  using Queries = HeadQueries<Operands, kD, kDV>;
  static constexpr int kPartials = Variant::Partials::kCount;

  Operands operands;
  alignas(64) float dots[kTileElements];
  alignas(64) float reached[kTileElements];  // the weight; then the argument
  alignas(64) float factors[kTileElements];  // the factor
  alignas(64) int32_t hidden[kKeyTile];
  typename Variant::ColumnTile columns;
  Row rows[kQueryTile / kLanes];

  // Rows of K and V; what no row may see counts as zero, whatever it holds. `selection`: null
  // without one, as below.
  void load_keys(const Request& request, const StridedKv<Element>& kv, int64_t k0, int n,
                 const TileSelection* selection) {
    bool hides = selection != nullptr;
    if (hides) std::fill_n(hidden, kKeyTile, 0);
    if constexpr (Variant::kColumnMask) {
      for (int j = 0; j < n; j += kLanes) {
        const I numbers = splat_i(static_cast<int32_t>(k0) + j) + iota_i();
        const Column column = Variant::column(request, numbers);
        const M unseen = ~Variant::column_keep(request, column);
        hides |= any(unseen);
        store(hidden + j, unseen);
      }
    }
    for (int j = 0; selection != nullptr && j < n; ++j) {
      if (!selection->any(j)) hidden[j] = -1;
    }
    operands.load(kv.from(k0), n, hides ? hidden : nullptr);
  }

  // Scores again, and from what reaches the weights what reaches the dot products.
  template <bool kMasked>
  void elements(const Request& request, const TilePlace& at, const TileSelection* selection,
                const Queries& queries) {
    load_rows<Variant>(request, at.tile * kQueryTile, rows);
    for (int j = 0; j < at.n; j += kLanes) {
      const I numbers = splat_i(static_cast<int32_t>(at.k0) + j) + iota_i();
      Variant::store(columns, j, Variant::column(request, numbers));
    }
    for (int panel = 0; panel < at.panels(); ++panel) {
      constexpr int kDepth = Queries::depth(kD), kValueDepth = Queries::depth(kDV);
      const int64_t first = at.tile * kQueryTile + panel * kPanel;
      const float* q = queries.queries.data() + first * kDepth;
      const float* grad = queries.grads.data() + first * kValueDepth;
      const int offset = panel * kKeyTile * kPanel;
      const int vectors = at.vectors(panel);
      multiply(vectors, operands.keys(), at.n, kDepth, q, dots + offset);
      multiply(vectors, operands.values(), at.n, kValueDepth, grad, reached + offset);
      if (queries.has_rest.data()[at.tile]) {
        const float* rest = queries.grad_rests.data() + first * kValueDepth;
        multiply(vectors, operands.values(), at.n, kValueDepth, rest, factors + offset);
        add(vectors, at.n, reached + offset, factors + offset);
      }
      element_panel<kMasked>(request, at, panel, selection, queries);
      operands.finish_panel(panel, at.n, vectors);
    }
  }

  // out[j] += rows[j], j < count, in the panel's first vectors.
  static void add(int vectors, int count, float* out, const float* rows) {
    for (int j = 0; j < count; ++j) {
      for (int v = 0; v < vectors; ++v) {
        const int at = j * kPanel + v * kLanes;
        store(out + at, load_f(out + at) + load_f(rows + at));
      }
    }
  }

  // Runs a product compiled for so many vectors of a panel.
  template <class Run>
  static void with_vectors(int vectors, const Run& run) {
    if (vectors == 1) return run.template operator()<1>();
    if (vectors == 2) return run.template operator()<2>();
    run.template operator()<kPanelVectors>();
  }

  // out[j] = rows[j] . panel, j < count, in the panel's first vectors.
  static void multiply(int vectors, const float* const* rows, int count, int depth,
                       const float* panel, float* out) {
    with_vectors(vectors, [&]<int kVectors>() {
      dot_strip<Product, kVectors>(rows, count, depth, panel, [&](int j, const F* sums) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) store(out + j * kPanel + v * kLanes, sums[v]);
      });
    });
  }

  template <bool kMasked>
  void element_panel(const Request& request, const TilePlace& at, int panel,
                     [[maybe_unused]] const TileSelection* selection, const Queries& queries) {
    const Row* row = rows + panel * kPanelVectors;
    const int64_t first = at.tile * kQueryTile + panel * kPanel;
    F base[kPanelVectors], delta[kPanelVectors];
    M exists[kPanelVectors];
    const int vectors = kMasked ? at.vectors(panel) : kPanelVectors;
    for (int v = 0; v < vectors; ++v) {
      base[v] = load_f(queries.base.data() + first + v * kLanes);
      if constexpr (Variant::kSoftmax) delta[v] = load_f(queries.delta.data() + first + v * kLanes);
      exists[v] = iota_i() + (panel * kPanel + v * kLanes) < splat_i(at.rows);
    }
    for (int j = 0; j < at.n; ++j) {
      const Column column = Variant::broadcast(columns, j);
      const auto place_of = [&](int v) { return (panel * kKeyTile + j) * kPanel + v * kLanes; };
      // The weights of kCount vectors from v on: by softmax, but for their factors.
      const auto soften = [&]<int kCount>(F* p, int v) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int i = 0; i < kCount; ++i) {
          const F dot = load_f(dots + place_of(v + i));
          p[i] = Variant::score(request, row[v + i], column, dot) + base[v + i];
        }
        exp2_below_one<kCount, Operands::kExp2Degree>(p);
      };
      const auto element = [&](int v, [[maybe_unused]] F p) __attribute__((always_inline)) {
        const int64_t place = place_of(v);
        const F dot = load_f(dots + place);
        const F grad = load_f(reached + place);
        M live = splat_m(true);
        if constexpr (kMasked) {
          live = exists[v];
          if constexpr (Variant::kMask) live &= Variant::keep(request, row[v], column, dot);
          if (selection != nullptr) live &= selection->keep(first + v * kLanes, j);
        }
        F dropout = splat_f(1.0f);
        if constexpr (Variant::kDropout) dropout = Variant::dropout(request, row[v], column);
        F weight, argument, factor{};
        if constexpr (Variant::kSoftmax) {
          live &= p != 0.0f;
          F all = dropout;
          if constexpr (Variant::kFactor) all = Variant::factor(request, row[v], column, dot);
          weight = p * all;
          argument = p * (grad * all - delta[v]);
          factor = grad * p * dropout;
        } else {
          weight = Variant::weight(request, row[v], column, dot);
          argument = grad * dropout;
        }
        const F slope = Variant::dot_gradient(request, row[v], column, dot, argument, factor);
        operands.store_element(place, select(live, weight, F{}), select(live, slope, F{}));
        if constexpr (kPartials > 0) {
          store(reached + place, select(live, argument, F{}));
          store(factors + place, select(live, factor, F{}));
        }
      };
      if constexpr (kMasked) {
        for (int v = 0; v < vectors; ++v) {
          F p{};
          if constexpr (Variant::kSoftmax) soften.template operator()<1>(&p, v);
          element(v, p);
        }
      } else {
        F p[kPanelVectors] = {};
        if constexpr (Variant::kSoftmax) soften.template operator()<kPanelVectors>(p, 0);
#pragma GCC unroll 8
        for (int v = 0; v < kPanelVectors; ++v) element(v, p[v]);
      }
    }
  }

  // dV += P^T dO, dK += dS^T Q, dQ^T += K^T dS^T. Rows of the first two are `padded_lanes` long.
  void products(const TilePlace& at, const Queries& queries, float* query_grads, float* key_grads,
                float* value_grads) {
    across<kDV>(
        at, [&](int64_t row) { return operands.weight_row(row); }, queries.grad_rows, value_grads);
    across<kD>(
        at, [&](int64_t row) { return operands.slope_row(row); }, queries.query_rows, key_grads);
    for (int panel = 0; panel < at.panels(); ++panel) {
      with_vectors(at.vectors(panel), [&]<int kVectors>() {
        operands.template add_to_queries<kVectors>(
            panel, at.n, query_grads + (at.tile * kQueryTile + panel * kPanel) * kD);
      });
    }
  }

  // out[j] += sum over rows m of matrix[j][m] * row m: lanes are entries.
  template <int kWidth, class RowAt>
  static void across(const TilePlace& at, const RowAt& matrix_row, const Buffer<float>& packed_rows,
                     float* out) {
    constexpr int64_t kWide = Queries::wide(kWidth), kStride = padded_lanes(kWidth);
    const float* pointers[kKeyTile];
    for (int panel = 0; panel < at.panels(); ++panel) {
      for (int j = 0; j < at.n; ++j) pointers[j] = matrix_row((panel * kKeyTile + j) * kPanel);
      const int depth = at.vectors(panel) * kLanes / Queries::kEntries;
      for (int wide = 0; wide < kWide; ++wide) {
        const float* packed = packed_rows.data() + (at.tile * kWide + wide) * Queries::kAcross +
                              panel * kPanel / Queries::kEntries * kPanel;
        const int width = std::min(kPanel, kWidth - wide * kPanel);
        with_vectors(panel_vectors(width), [&]<int kVectors>() {
          dot_strip<Product, kVectors>(pointers, at.n, depth, packed, [&](int j, const F* sums) {
            float* sum = out + j * kStride + wide * kPanel;
#pragma GCC unroll 8
            for (int v = 0; v < kVectors; ++v) {
              store(sum + v * kLanes, load_f(sum + v * kLanes) + sums[v]);
            }
          });
        });
      }
    }
  }
};

}  // namespace attnlang::cpu
