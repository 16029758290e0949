// The elements of a tile, strip by strip: dots to scores to weights, beside the sums and maxima.
//
// A strip is some vectors of a tile's queries. Where the mask is asked, strips are narrow, and each
// has the keys that some row of its own keeps: the rest of the tile's is not multiplied.
#pragma once

#include <algorithm>

#include "attnlang/cpu/gemm.h"
#include "attnlang/cpu/math.h"
#include "kernels/cpu_kept.h"
#include "kernels/cpu_tile.h"
#include "kernels/cpu_variant.h"

namespace attnlang::cpu {

// What weights are taken relative to: 0 for a row that has seen nothing but -inf.
[[gnu::always_inline]] inline F finite_reference(F top) { return top == -kInfinity ? F{} : top; }

// `Tile` multiplies; a Scratch has its tile, the columns, rows and factors, a State the sums.
template <class Variant, class Tile>
struct Strips {
  using Request = typename Variant::Request;
  static constexpr bool kAsksFirst = Variant::kMask && !Variant::kMaskReadsScore;

  // Asks the mask of n keys beside a strip, into scratch.kept; the keys that some row keeps. A mask
  // that reads the score is asked beside it, and all keys are gone through.
  template <class Scratch>
  static void find_kept(const Request& request, int m, int n, Scratch& scratch, StripKeys& keys) {
    if constexpr (!kAsksFirst) {
      keys.take_all(n);
    } else {
      const typename Variant::Row* rows = scratch.rows + m / kLanes;
      const auto pairs = scratch.pairs.rows(m);
      keys.count = 0;
      for (int j = 0; j < n; j += Tile::kTogether) {
        const int together = std::min(Tile::kTogether, n - j);
        bool any = false;
        for (int i = j; i < j + together; ++i) {
          const typename Variant::Column column = Variant::broadcast(scratch.columns, i);
#pragma GCC unroll 2
          for (int v = 0; v < kStripVectors; ++v) {
            pairs.with(v, i, [&](const auto&... pair) __attribute__((always_inline)) {
              const M keep = Variant::keep(request, rows[v], column, pair..., F{});
              scratch.kept[i * kStripVectors + v] = KeptLanes::of(keep);
              any |= scratch.kept[i * kStripVectors + v].any();
            });
          }
        }
        keys.add(j, together, any);
      }
    }
  }

  // Dots to scores, -inf where masked; the strip's new maxima and what old sums are scaled by.
  template <bool kMasked, int kVectors, class Scratch, class State>
  static void score(const Request& request, int m, const StripKeys& keys, float* scores,
                    Scratch& scratch, State& state) {
    const typename Variant::Row* rows = scratch.rows + m / kLanes;
    const auto pairs = scratch.pairs.rows(m);
    F top[kVectors];
    for (int v = 0; v < kVectors; ++v) top[v] = load_f(state.max + m + v * kLanes);
    for_dots<kMasked, kVectors>(m, keys, scratch, [&](int i, const F* dots) {
      const int j = keys.template at<kMasked>(i);
      const typename Variant::Column column = Variant::broadcast(scratch.columns, j);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        pairs.with(v, j, [&](const auto&... pair) __attribute__((always_inline)) {
          F score = Variant::score(request, rows[v], column, pair..., dots[v]);
          if constexpr (kMasked) {
            const auto keep = kept(scratch, j, v, request, rows[v], column, pair..., dots[v]);
            score = keep.select(score, splat_f(-kInfinity));
          }
          const int at = i * kPanel + v * kLanes;
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
  static void weigh(int m, int count, float* scores, Scratch& scratch, State& state) {
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
    store_weights<kVectors>(count, scores, [&](int j, F* weights) {
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

  // Replaces a strip's scores by the weights that weigh(their number, weights) makes of them.
  template <int kVectors, class Weigh>
  [[gnu::always_inline]] static void store_weights(int count, float* scores, const Weigh& weigh) {
    int j = 0;
    F low[kVectors], high[kVectors];
    for (; j + 2 <= count; j += 2) {
      weigh(j, low);
      weigh(j + 1, high);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        Tile::store_weights(scores + v * kLanes, j, low[v], high[v]);
      }
    }
    if (j < count) {
      weigh(j, low);
      for (int v = 0; v < kVectors; ++v) {
        Tile::store_weights(scores + v * kLanes, j, low[v], F{});
      }
    }
  }

  // Dots to weights, 0 where masked, without normalisation.
  template <bool kMasked, int kVectors, class Scratch, class State>
  static void weight(const Request& request, int m, const StripKeys& keys, float* scores,
                     Scratch& scratch, State& state) {
    const typename Variant::Row* rows = scratch.rows + m / kLanes;
    const auto pairs = scratch.pairs.rows(m);
    F sum[kVectors];
    for (int v = 0; v < kVectors; ++v) sum[v] = load_f(state.sum + m + v * kLanes);
    store_weights<kVectors>(keys.count, scores, [&](int i, F* weights) {
      const int j = keys.template at<kMasked>(i);
      const typename Variant::Column column = Variant::broadcast(scratch.columns, j);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const F dot = load_f(scores + i * kPanel + v * kLanes);
        pairs.with(v, j, [&](const auto&... pair) __attribute__((always_inline)) {
          weights[v] = Variant::weight(request, rows[v], column, pair..., dot);
          if constexpr (kMasked) {
            const auto keep = kept(scratch, j, v, request, rows[v], column, pair..., dot);
            weights[v] = keep.select(weights[v], F{});
          }
        });
        sum[v] += weights[v];
      }
    });
    for (int v = 0; v < kVectors; ++v) store(state.sum + m + v * kLanes, sum[v]);
  }

  // Without softmax, where the call asks for it: dots to the largest scores.
  template <bool kMasked, int kVectors, class Scratch, class State>
  static void scan(const Request& request, int m, const StripKeys& keys, const float* dots,
                   Scratch& scratch, State& state) {
    for (int i = 0; i < keys.count; ++i) {
      const int j = keys.template at<kMasked>(i);
      const typename Variant::Column column = Variant::broadcast(scratch.columns, j);
      for (int v = 0; v < kVectors; ++v) {
        const typename Variant::Row& row = scratch.rows[m / kLanes + v];
        const F dot = load_f(dots + i * kPanel + v * kLanes);
        F score = Variant::score(request, row, column, dot);
        if constexpr (kMasked) {
          const auto keep = kept(scratch, j, v, request, row, column, dot);
          score = keep.select(score, splat_f(-kInfinity));
        }
        float* top = state.max + m + v * kLanes;
        store(top, max(load_f(top), score));
      }
    }
  }

  // consume(i, dots of the strip's key number i).
  template <bool kMasked, int kVectors, class Scratch, class Consume>
  [[gnu::always_inline]] static void for_dots(int m, const StripKeys& keys, const Scratch& scratch,
                                              const Consume& consume) {
    const float* some[kKeyTile];
    const float* const* rows = keys.template rows<kMasked, 1>(scratch.tile.k_rows, some);
    scratch.tile.template dot<kVectors>(m, rows, keys.count, consume);
  }

 private:
  // Which lanes of vector v are kept beside key j: as `find_kept` left it, or of the element.
  template <class Scratch, class... Element>
  [[gnu::always_inline]] static KeptLanes kept(const Scratch& scratch, int j, int v,
                                               const Element&... element) {
    if constexpr (kAsksFirst) return scratch.kept[j * kStripVectors + v];
    else return KeptLanes::of(Variant::keep(element...));
  }
};

}  // namespace attnlang::cpu
