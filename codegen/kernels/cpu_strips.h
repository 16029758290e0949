// The elements of a tile, strip by strip: dots to scores to weights, beside the sums and maxima.
//
// A strip is some vectors of a tile's queries. Where the mask is asked, strips are narrow, and each
// has the keys that its own rows may keep: the rest of the tile's is neither multiplied nor masked.
#pragma once

#include <algorithm>

#include "attnlang/cpu/gemm.h"
#include "attnlang/cpu/math.h"
#include "kernels/cpu_tile.h"
#include "kernels/cpu_variant.h"

namespace attnlang::cpu {

// Keys of a tile.
struct KeyRange {
  int begin, end;
};

// What weights are taken relative to: 0 for a row that has seen nothing but -inf.
[[gnu::always_inline]] inline F finite_reference(F top) { return top == -kInfinity ? F{} : top; }

// `Tile` multiplies; a Scratch has its tile, the columns, rows and factors, a State the sums.
template <class Variant, class Tile>
struct Strips {
  using Request = typename Variant::Request;
  using Columns = decltype(Coverage::may);
  static constexpr int kStrip = kStripVectors * kLanes, kStrips = kQueryTile / kStrip;

  // The columns that each strip of `rows` rows from `first` on may keep.
  static void load_visible(const Request& request, int64_t first, int rows, Columns* visible) {
    for (int m = 0; m < rows; m += kStrip) {
      const int64_t q0 = first + m, q1 = first + std::min(m + kStrip, rows);
      visible[m / kStrip] = tile_coverage<Variant>(request, q0, q1).may;
    }
  }

  // Keys of [k0, k0 + n) outside which a strip's rows keep none, from a whole block on.
  static KeyRange visible_keys(const Columns& visible, int64_t k0, int n) {
    int64_t begin = n, end = 0;
    for (const Range& range : visible) {
      if (range.end <= k0 || range.begin >= k0 + n) continue;
      begin = std::min(begin, std::max<int64_t>(range.begin - k0, 0));
      end = std::max(end, std::min<int64_t>(range.end - k0, n));
    }
    constexpr int kBlock = kMicroRows<kStripVectors>;
    return {static_cast<int>(begin) / kBlock * kBlock, static_cast<int>(end)};
  }

  // Dots to scores, -inf where masked; the strip's new maxima and what old sums are scaled by.
  template <bool kMasked, int kVectors, class Scratch, class State>
  static void score(const Request& request, int m, KeyRange keys, float* scores, Scratch& scratch,
                    State& state) {
    const typename Variant::Row* rows = scratch.rows + m / kLanes;
    const auto pairs = scratch.pairs.rows(m);
    F top[kVectors];
    for (int v = 0; v < kVectors; ++v) top[v] = load_f(state.max + m + v * kLanes);
    scratch.tile.template dot<kVectors>(m, keys.begin, keys.end, [&](int j, const F* dots) {
      const typename Variant::Column column = Variant::broadcast(scratch.columns, j);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        pairs.with(v, j, [&](const auto&... pair) __attribute__((always_inline)) {
          F score = Variant::score(request, rows[v], column, pair..., dots[v]);
          if constexpr (kMasked && Variant::kMask) {
            const M keep = Variant::keep(request, rows[v], column, pair..., dots[v]);
            score = select(keep, score, splat_f(-kInfinity));
          }
          const int at = j * kPanel + v * kLanes;
          store(scores + at, score);
          if constexpr (Variant::kFactor) {
            // 0 beside a weight of 0, whatever the factor is there.
            const F factor = Variant::factor(request, rows[v], column, pair..., dots[v]);
            store(scratch.factors + at, select(score == -kInfinity, F{}, factor));
          }
          top[v] = max_or_second(score, top[v]);  // NaN reaches its row through the weight
        });
      }
    });
    for (int v = 0; v < kVectors; ++v, m += kLanes) {
      const F old = load_f(state.max + m);
      store(scratch.factor + m, exp2_below_one(old - finite_reference(top[v])));
      store(state.max + m, top[v]);
    }
  }

  // Scores to weights, and their sums; factors come after the softmax's own sum.
  template <int kVectors, class Scratch, class State>
  static void weigh(int m, KeyRange keys, float* scores, Scratch& scratch, State& state) {
    const bool asks = m == 0;
    F base[kVectors], sum[kVectors];
    [[maybe_unused]] F weighted[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const int at = m + v * kLanes;
      base[v] = finite_reference(load_f(state.max + at));
      sum[v] = load_f(state.sum + at) * load_f(scratch.factor + at);
      if constexpr (kWeighted<Variant>) {
        weighted[v] = load_f(state.weighted + at) * load_f(scratch.factor + at);
      }
    }
    store_weights<kVectors>(keys, scores, [&](int j, F* weights) {
      const float* row = scores + j * kPanel;
      if (asks) scratch.pairs.ask_ahead(j);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) weights[v] = load_f(row + v * kLanes) - base[v];
      exp2_below_one<kVectors, Tile::kExp2Degree>(weights);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        sum[v] += weights[v];
        if constexpr (Variant::kFactor) {
          weights[v] *= load_f(scratch.factors + j * kPanel + v * kLanes);
          if constexpr (kWeighted<Variant>) weighted[v] += weights[v];
        }
      }
    });
    for (int v = 0; v < kVectors; ++v, m += kLanes) {
      store(state.sum + m, sum[v]);
      if constexpr (kWeighted<Variant>) store(state.weighted + m, weighted[v]);
    }
  }

  // Replaces a strip's scores by the weights that weigh(key, weights) makes of them.
  template <int kVectors, class Weigh>
  [[gnu::always_inline]] static void store_weights(KeyRange keys, float* scores,
                                                   const Weigh& weigh) {
    int j = keys.begin;
    F low[kVectors], high[kVectors];
    for (; j + 2 <= keys.end; j += 2) {
      weigh(j, low);
      weigh(j + 1, high);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        Tile::store_weights(scores + v * kLanes, j, low[v], high[v]);
      }
    }
    if (j < keys.end) {
      weigh(j, low);
      for (int v = 0; v < kVectors; ++v) {
        Tile::store_weights(scores + v * kLanes, j, low[v], F{});
      }
    }
  }

  // Dots to weights, 0 where masked, without normalisation.
  template <bool kMasked, int kVectors, class Scratch, class State>
  static void weight(const Request& request, int m, KeyRange keys, float* scores, Scratch& scratch,
                     State& state) {
    const typename Variant::Row* rows = scratch.rows + m / kLanes;
    const auto pairs = scratch.pairs.rows(m);
    F sum[kVectors];
    for (int v = 0; v < kVectors; ++v) sum[v] = load_f(state.sum + m + v * kLanes);
    store_weights<kVectors>(keys, scores, [&](int j, F* weights) {
      const typename Variant::Column column = Variant::broadcast(scratch.columns, j);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const F dot = load_f(scores + j * kPanel + v * kLanes);
        pairs.with(v, j, [&](const auto&... pair) __attribute__((always_inline)) {
          weights[v] = Variant::weight(request, rows[v], column, pair..., dot);
          if constexpr (kMasked && Variant::kMask) {
            const M keep = Variant::keep(request, rows[v], column, pair..., dot);
            weights[v] = select(keep, weights[v], F{});
          }
        });
        sum[v] += weights[v];
      }
    });
    for (int v = 0; v < kVectors; ++v) store(state.sum + m + v * kLanes, sum[v]);
  }

  // Without softmax, where the call asks for it: dots to the largest scores.
  template <bool kMasked, int kVectors, class Scratch, class State>
  static void scan(const Request& request, int m, KeyRange keys, const float* dots,
                   Scratch& scratch, State& state) {
    for (int j = keys.begin; j < keys.end; ++j) {
      const typename Variant::Column column = Variant::broadcast(scratch.columns, j);
      for (int v = 0; v < kVectors; ++v) {
        const typename Variant::Row& row = scratch.rows[m / kLanes + v];
        const F dot = load_f(dots + j * kPanel + v * kLanes);
        F score = Variant::score(request, row, column, dot);
        if constexpr (kMasked && Variant::kMask) {
          score = select(Variant::keep(request, row, column, dot), score, splat_f(-kInfinity));
        }
        float* top = state.max + m + v * kLanes;
        store(top, max(load_f(top), score));
      }
    }
  }
};

}  // namespace attnlang::cpu
