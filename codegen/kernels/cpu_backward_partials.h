// The gradients of what elements, sinks and shifts read, gathered for one head.
//
// What reaches an element times its partial derivative is added up over the loops that the read's
// index does not depend on, and then put where the index points.
#pragma once

#include <algorithm>

#include "attnlang/cpu/parallel.h"
#include "kernels/cpu_backward_queries.h"
#include "kernels/cpu_gradient_variant.h"
#include "kernels/cpu_tile.h"

namespace attnlang::cpu {

// The part of a query tile by key tile that is worked on.
struct TilePlace {
  int64_t tile;
  int rows;
  int64_t k0;
  int n;
  int panels() const { return (rows + kPanel - 1) / kPanel; }
  int vectors(int panel) const { return panel_vectors(rows - panel * kPanel); }
};

// Of each element, [panel][kKeyTile][kPanel]: the dot product, and what reached softmax's
// argument (the weight, without one) and the factor.
struct ElementGradients {
  const float *dots, *arguments, *factors;
};

template <class Variant>
class PartialSums {
 public:
  using Request = typename Variant::Request;
  using Row = typename Variant::Row;
  using Column = typename Variant::Column;
  using Sums = typename Variant::Sums;
  using Partials = typename Variant::Partials;
  static constexpr int kCount = Partials::kCount;

  explicit PartialSums(int64_t most_tiles) : rows_(kCount * most_tiles * kQueryTile) {}
  bool complete() const { return static_cast<bool>(rows_); }

  // A head of so many query tiles.
  void start_head(int64_t tiles) {
    tiles_ = tiles;
    std::fill_n(request_, kCount, 0.0);
    std::fill_n(rows_.data(), kCount * tiles_ * kQueryTile, 0.0f);
  }
  void start_keys() { std::fill_n(columns_, kCount * kKeyTile, 0.0f); }

  void add_elements(const Request& request, const TilePlace& at, const Row* rows,
                    const typename Variant::ColumnTile& columns, const ElementGradients& elements,
                    const Sums& sums) {
    Partials::each([&]<class Partial, int kIndex>() {
      if constexpr (of_elements(Partial::kSource)) {
        if (Partial::wanted(sums)) {
          add<Partial, kIndex>(request, at, rows, columns, elements, sums);
        }
      }
    });
  }

  // Columns k0 .. k0 + n - 1 are done.
  void finish_keys(const Request& request, int64_t k0, int n, const Sums& sums) const {
    Partials::each([&]<class Partial, int kIndex>() {
      if constexpr (Partial::kReach == Reach::column) {
        if (!Partial::wanted(sums)) return;
        for (int j = 0; j < n; j += kLanes) {
          const I columns = splat_i(static_cast<int32_t>(k0) + j) + iota_i();
          Partial::add(request, Variant::column(request, columns), sums,
                       load_f(columns_ + kIndex * kKeyTile + j), std::min(kLanes, n - j));
        }
      }
    });
  }

  // `count` rows of a tile are done: what they gathered, and (`whole`) what reached their sinks and
  // shifts.
  void finish_rows(const Request& request, int64_t tile, int count, const Row* rows,
                   const float* sinks, const float* shifts, bool whole, const Sums& sums) {
    Partials::each([&]<class Partial, int kIndex>() {
      if constexpr (of_elements(Partial::kSource) && Partial::kReach != Reach::row) return;
      else if (!Partial::wanted(sums)) return;
      else {
        for (int m = 0; m < count; m += kLanes) {
          const Row& row = rows[m / kLanes];
          const int64_t at = tile * kQueryTile + m;
          F value{};
          if constexpr (of_elements(Partial::kSource)) {
            value = load_f(rows_.data() + kIndex * tiles_ * kQueryTile + at);
          } else {
            if (!whole) return;
            const F grad = load_f((Partial::kSource == Source::sink ? sinks : shifts) + at);
            value = select(grad == 0.0f, F{}, grad * Partial::slope(request, row));
          }
          if constexpr (Partial::kReach == Reach::row) {
            Partial::add(request, row, sums, value, std::min(kLanes, count - m));
          } else {
            request_[kIndex] += sum(value);
          }
        }
      }
    });
  }

  void finish_head(const Request& request, const Sums& sums) const {
    Partials::each([&]<class Partial, int kIndex>() {
      if constexpr (Partial::kReach == Reach::request) {
        if (!Partial::wanted(sums)) return;
        Partial::add(request, sums, static_cast<float>(request_[kIndex]));
      }
    });
  }

 private:
  template <class Partial, int kIndex>
  void add(const Request& request, const TilePlace& at, const Row* rows,
           const typename Variant::ColumnTile& columns, const ElementGradients& elements,
           const Sums& sums) {
    float* row_sums = rows_.data() + (kIndex * tiles_ + at.tile) * kQueryTile;
    const float* grads = Partial::kSource == Source::factor ? elements.factors : elements.arguments;
    F total{};
    for (int panel = 0; panel < at.panels(); ++panel) {
      for (int j = 0; j < at.n; ++j) {
        const Column column = Variant::broadcast(columns, j);
        F across{};
        for (int v = 0; v < kPanelVectors && panel * kPanel + v * kLanes < at.rows; ++v) {
          const int m = panel * kPanel + v * kLanes;
          const int64_t place = (panel * kKeyTile + j) * kPanel + v * kLanes;
          const Row& row = rows[m / kLanes];
          const F grad = load_f(grads + place);
          const F slope = Partial::slope(request, row, column, load_f(elements.dots + place));
          const F value = select(grad == 0.0f, F{}, grad * slope);
          if constexpr (Partial::kReach == Reach::element) {
            Partial::add(request, row, column, sums, value, std::min(kLanes, at.rows - m));
          } else if constexpr (Partial::kReach == Reach::row) {
            store(row_sums + m, load_f(row_sums + m) + value);
          } else {
            across += value;
          }
        }
        if constexpr (Partial::kReach == Reach::column) {
          columns_[kIndex * kKeyTile + j] += sum(across);
        } else if constexpr (Partial::kReach == Reach::request) {
          total += across;
        }
      }
    }
    if constexpr (Partial::kReach == Reach::request) request_[kIndex] += sum(total);
  }

  alignas(64) float columns_[(kCount > 0 ? kCount : 1) * kKeyTile];
  double request_[kCount > 0 ? kCount : 1];
  Buffer<float> rows_;  // [partial][row]
  int64_t tiles_ = 0;
};

}  // namespace attnlang::cpu
