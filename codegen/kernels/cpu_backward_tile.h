// One tile of the backward: its elements and its five products, and the memory that they need.
#pragma once

#include <algorithm>

#include "attnlang/cpu/math.h"
#include "kernels/cpu_backward_partials.h"
#include "kernels/cpu_backward_queries.h"
#include "kernels/cpu_backward_selection.h"
#include "kernels/cpu_gradient_variant.h"
#include "kernels/cpu_tile.h"
#include "kernels/cpu_variant.h"

namespace attnlang::cpu {

template <class Variant, class Element, int kD, int kDV>
struct BackwardTile {
  using Request = typename Variant::Request;
  using Row = typename Variant::Row;
  using Column = typename Variant::Column;
  using Queries = HeadQueries<kD, kDV>;
  static constexpr int kPartials = Variant::Partials::kCount;

  FloatTile<Element, kD, kDV> tile;
  alignas(64) float no_key[kD];
  alignas(64) float dots[kPanels * kKeyTile * kPanel];
  alignas(64) float reached[kPanels * kKeyTile * kPanel];  // the weight; then the argument
  alignas(64) float factors[kPanels * kKeyTile * kPanel];  // the factor
  alignas(64) float weights[kPanels * kKeyTile * kPanel];
  alignas(64) float slopes[kPanels * kKeyTile * kPanel];  // the dot product
  alignas(64) float product[kKeyTile * kPanel];
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
    const auto kv_rows = kv.from(k0);
    tile.load_keys(kv_rows, n);
    tile.load_values(kv_rows, n, hides ? hidden : nullptr);
    if (!hides) return;
    for (int j = 0; j < n; ++j) {
      if (hidden[j] != 0) tile.k_rows[j] = no_key;
    }
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
      const float* q = queries.queries.data() + (at.tile * kQueryTile + panel * kPanel) * kD;
      const float* grad = queries.grads.data() + (at.tile * kQueryTile + panel * kPanel) * kDV;
      const int offset = panel * kKeyTile * kPanel;
      const int vectors = at.vectors(panel);
      multiply(vectors, tile.k_rows, at.n, kD, q, dots + offset);
      multiply(vectors, tile.v_rows, at.n, kDV, grad, reached + offset);
      element_panel<kMasked>(request, at, panel, selection, queries);
    }
  }

  // Runs a product compiled for so many vectors of a panel.
  template <class Product>
  static void with_vectors(int vectors, const Product& product) {
    if (vectors == 1) return product.template operator()<1>();
    if (vectors == 2) return product.template operator()<2>();
    product.template operator()<kPanelVectors>();
  }

  // out[j] = rows[j] . panel, j < count, in the panel's first vectors.
  static void multiply(int vectors, const float* const* rows, int count, int depth,
                       const float* panel, float* out) {
    with_vectors(vectors, [&]<int kVectors>() {
      dot_strip<FloatProduct, kVectors>(rows, 0, count, depth, panel, [&](int j, const F* sums) {
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
      const auto element = [&](int v) __attribute__((always_inline)) {
        const int64_t place = (panel * kKeyTile + j) * kPanel + v * kLanes;
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
          const F p = exp2(Variant::score(request, row[v], column, dot) + base[v]);
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
        store(weights + place, select(live, weight, F{}));
        store(slopes + place, select(live, slope, F{}));
        if constexpr (kPartials > 0) {
          store(reached + place, select(live, argument, F{}));
          store(factors + place, select(live, factor, F{}));
        }
      };
      if constexpr (kMasked) {
        for (int v = 0; v < vectors; ++v) element(v);
      } else {
#pragma GCC unroll 8
        for (int v = 0; v < kPanelVectors; ++v) element(v);
      }
    }
  }

  // dV += P^T dO, dK += dS^T Q, dQ^T += K^T dS^T.
  void products(const TilePlace& at, const Queries& queries, float* query_grads, float* key_grads,
                float* value_grads) {
    across<kDV>(at, weights, queries.grad_rows, value_grads);
    across<kD>(at, slopes, queries.query_rows, key_grads);
    for (int panel = 0; panel < at.panels(); ++panel) {
      with_vectors(at.vectors(panel), [&]<int kVectors>() {
        accumulate_strip<FloatProduct, kD, kVectors>(
            tile.k_rows, 0, at.n, slopes + panel * kKeyTile * kPanel, nullptr,
            query_grads + (at.tile * kQueryTile + panel * kPanel) * kD);
      });
    }
  }

  // out[j] += sum over rows m of matrix[j][m] * row m: lanes are entries.
  template <int kWidth>
  void across(const TilePlace& at, const float* matrix, const Buffer<float>& packed_rows,
              float* out) {
    constexpr int64_t kWide = Queries::wide(kWidth);
    const float* pointers[kKeyTile];
    for (int wide = 0; wide < kWide; ++wide) {
      const float* packed = packed_rows.data() + (at.tile * kWide + wide) * Queries::kAcross;
      const int width = std::min(kPanel, kWidth - wide * kPanel);
      for (int panel = 0; panel < at.panels(); ++panel) {
        for (int j = 0; j < at.n; ++j) {
          pointers[j] = matrix + (panel * kKeyTile + j) * kPanel;
        }
        multiply(panel_vectors(width), pointers, at.n, at.vectors(panel) * kLanes,
                 packed + panel * kPanel * kPanel, product);
        for (int j = 0; j < at.n; ++j) {
          float* sum = out + j * kWidth + wide * kPanel;
          for (int d = 0; d < width; ++d) sum[d] += product[j * kPanel + d];
        }
      }
    }
  }
};

}  // namespace attnlang::cpu
