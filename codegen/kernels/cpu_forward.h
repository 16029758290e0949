// Flash attention with queries in the lanes: S^T = K Q^T, O^T = V^T P^T.
//
// A work item is (request, head, query tile, part of the keys). It yields a state: under softmax
// the unnormalised sums, the row maxima (base 2) and the sums of weights relative to them;
// otherwise plain sums (and the largest score, where the call asks for it). `merge` joins states of
// later keys into earlier ones, `finish` writes rows out.
#pragma once

#include <algorithm>

#include "attnlang/cpu/parallel.h"
#include "kernels/avx512bf16_tile.h"
#include "kernels/cpu_problem.h"
#include "kernels/cpu_tile.h"
#include "kernels/cpu_tiles.h"
#include "kernels/cpu_transforms.h"
#include "kernels/cpu_variant.h"

namespace attnlang::cpu {

// The sums of a query tile over some keys, by panels: acc is [panel][kDV][kPanel].
template <int kDV>
struct ForwardState {
  alignas(64) float acc[kDV * kQueryTile];
  alignas(64) float max[kQueryTile];
  alignas(64) float sum[kQueryTile];
  alignas(64) float weighted[kQueryTile];  // sums with factors, where `kWeighted`

  void clear(int panels) {
    std::fill_n(acc, panels * kDV * kPanel, 0.0f);
    std::fill_n(max, kQueryTile, -kInfinity);
    std::fill_n(sum, kQueryTile, 0.0f);
    std::fill_n(weighted, kQueryTile, 0.0f);
  }
};

// How an element type is multiplied on this machine.
template <class Element, int kD, int kDV>
struct ChooseTile {
  using Type = FloatTile<Element, kD, kDV>;
};
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
template <int kD, int kDV>
struct ChooseTile<Bf16, kD, kDV> {
  using Type = Bf16Tile<kD, kDV>;
};
#endif

template <class Variant, class Element, int kD, int kDV>
class Forward {
 public:
  using Params = typename Variant::Params;
  using Request = typename Variant::Request;
  using State = ForwardState<kDV>;
  using Source = KvSource<Variant, Element, kD, kDV>;

  struct Scratch {
    typename ChooseTile<Element, kD, kDV>::Type tile;
    State state;
    alignas(64) float scores[kPanels * kScoreRows * kPanel];
    alignas(64) float factor[kQueryTile];
    alignas(64) float factors[Variant::kFactor ? kKeyTile * kPanel : 1];  // of a panel's weights
    alignas(64) int32_t hidden[kKeyTile];
    typename Variant::ColumnTile columns;
    typename Variant::Row rows[kQueryTile / kLanes];
    typename Source::Stage stage;
    Element queries[Variant::kQuery ? kQueryTile * kD : 1];
  };

  // One query tile of one (request, head).
  struct Item {
    int64_t b, h, q0;
    int rows;
    int panels() const { return (rows + kPanel - 1) / kPanel; }
    int64_t anchor() const { return q0 + rows / 2; }  // no row is far from it
  };

  Forward(const Problem<Element>& problem, const Params& params)
      : problem_(problem), params_(params), source_(problem, params) {}

  // Once, before any item runs.
  void prepare() { source_.prepare(query_tiles() * problem_.group()); }

  int64_t query_tiles() const { return (problem_.queries + kQueryTile - 1) / kQueryTile; }
  int64_t items() const { return problem_.batch * problem_.heads * query_tiles(); }

  Item item(int64_t index) const {
    const int64_t tiles = query_tiles();
    const int64_t head = index / tiles, q0 = index % tiles * kQueryTile;
    return {.b = head / problem_.heads,
            .h = head % problem_.heads,
            .q0 = q0,
            .rows = static_cast<int>(std::min<int64_t>(kQueryTile, problem_.queries - q0))};
  }

  // Key tiles with something to do, for scheduling.
  int64_t cost(const Item& item) const {
    const Request request = problem_.template request<Variant>(params_, item.b, item.h);
    return tile_cost(coverage(request, item), problem_.kv_len(item.b), kKeyTile,
                     verdicts(request, item));
  }

  // The state of an item over keys [k0, k1), k0 a multiple of kKeyTile.
  void run(const Item& item, int64_t k0, int64_t k1, Scratch& scratch, State& state) const {
    const Request request =
        problem_.template request<Variant>(params_, item.b, item.h, item.anchor());
    const int64_t h_kv = item.h / problem_.group();
    const int panels = item.panels();
    scratch.tile.start();
    load_queries(request, item, scratch);
    load_rows(request, item, scratch);
    state.clear(panels);
    k1 = std::min(k1, problem_.kv_len(item.b));
    const auto run_each = [&](int64_t k, int n, bool masked) {
      const auto kv = source_.rows(request, item.b, h_kv, k, n, scratch.stage);
      if (masked) run_tile<true>(request, kv, k, n, panels, scratch, state);
      else run_tile<false>(request, kv, k, n, panels, scratch, state);
    };
    visit_tiles(coverage(request, item), k0, k1, kKeyTile, verdicts(request, item), run_each);
  }

  // Joins the state of later keys into that of earlier ones.
  static void merge(State& state, const State& later, const Item& item) {
    for (int m = 0; m < item.panels() * kPanel; m += kLanes) {
      F a = splat_f(1.0f), b = a;
      if constexpr (Variant::kSoftmax) {
        const F left = load_f(state.max + m), right = load_f(later.max + m);
        const F top = max_or_second(left, right);
        const F base = finite_reference(top);
        a = exp2_below_one(left - base);
        b = exp2_below_one(right - base);
        store(state.max + m, top);
      } else {
        store(state.max + m, max(load_f(state.max + m), load_f(later.max + m)));
      }
      store(state.sum + m, load_f(state.sum + m) * a + load_f(later.sum + m) * b);
      if constexpr (kWeighted<Variant>) {
        store(state.weighted + m, load_f(state.weighted + m) * a + load_f(later.weighted + m) * b);
      }
      for (int e = 0; e < kDV; ++e) {
        const int64_t at = place(m, e);
        store(state.acc + at, load_f(state.acc + at) * a + load_f(later.acc + at) * b);
      }
    }
  }

  // Applies the sink, normalises and writes the rows and their lse.
  void finish(const Item& item, State& state) const {
    const Request request =
        problem_.template request<Variant>(params_, item.b, item.h, item.anchor());
    alignas(64) float lse[kQueryTile], row_sum[kQueryTile];
    for (int m = 0; m < item.panels() * kPanel; m += kLanes) {
      if constexpr (Variant::kSoftmax) {
        const F factor = normaliser(request, item, state, m, lse);
        for (int e = 0; e < kDV; ++e) {
          const int64_t at = place(m, e);
          store(state.acc + at, load_f(state.acc + at) * factor);
        }
        store(row_sum + m, row_sums(state, m) * factor);
      } else {
        store(lse + m, splat_f(-kInfinity));
        store(row_sum + m, row_sums(state, m));
      }
    }
    write(request, item, state, row_sum, lse);
    if (problem_.wants_max()) raise_max(request, item, state);
  }

 private:
  // Where element e of rows m .. m + kLanes - 1 stands in State::acc.
  static int64_t place(int m, int e) {
    return (int64_t{m / kPanel} * kDV + e) * kPanel + m % kPanel;
  }

  // What weights are taken relative to: 0 for a row that has seen nothing but -inf.
  static F finite_reference(F top) { return top == -kInfinity ? F{} : top; }

  static Coverage coverage(const Request& request, const Item& item) {
    return tile_coverage<Variant>(request, item.q0, item.q0 + item.rows);
  }
  static auto verdicts(const Request& request, const Item& item) {
    return [&request, q0 = item.q0, q1 = item.q0 + item.rows](int64_t k0, int64_t k1) {
      return tile_verdict<Variant>(request, q0, q1, k0, k1);
    };
  }

  void load_queries(const Request& request, const Item& item, Scratch& scratch) const {
    const int64_t inner = problem_.call.q.stride[3];
    const auto passed = [&](int m) { return problem_.q_row(item.b, item.h, item.q0 + m); };
    if constexpr (Variant::kQuery) {
      for (int m = 0; m < item.rows; ++m) {
        transform_query<Variant, Element, kD, kDV>(request, item.q0 + m, passed(m), inner,
                                                   scratch.queries + m * kD);
      }
      const auto transformed = [&](int m) { return scratch.queries + m * kD; };
      scratch.tile.load_queries(transformed, 1, item.rows);
    } else {
      const auto viewed = [&](int m) { return passed(m) + Variant::kQueryStart * inner; };
      scratch.tile.load_queries(viewed, inner, item.rows);
    }
  }

  static void load_rows(const Request& request, const Item& item, Scratch& scratch) {
    for (int m = 0; m < item.panels() * kPanel; m += kLanes) {
      const I rows = splat_i(static_cast<int32_t>(item.q0) + m) + iota_i();
      scratch.rows[m / kLanes] = Variant::row(request, rows);
    }
  }

  template <bool kMasked>
  void run_tile(const Request& request, const StridedKv<Element>& kv, int64_t k0, int n, int panels,
                Scratch& scratch, State& state) const {
    load_columns<kMasked>(request, k0, n, scratch);
    scratch.tile.load_keys(kv, n);
    for (int panel = 0; panel < panels; ++panel) {
      float* scores = scratch.scores + panel * kScoreRows * kPanel;
      scratch.tile.dot(panel, n, scores);
      if constexpr (Variant::kSoftmax) {
        score_panel<kMasked>(request, panel, n, scores, scratch, state);
        weigh_panel(panel, n, scores, scratch, state);
      } else {
        if (problem_.wants_max()) scan_panel<kMasked>(request, panel, n, scores, scratch, state);
        weight_panel<kMasked>(request, panel, n, scores, scratch, state);
      }
    }
    const bool hides = kMasked && Variant::kColumnMask;
    scratch.tile.load_values(kv, n, hides ? scratch.hidden : nullptr);
    scratch.tile.accumulate(panels, n, scratch.scores, kScoreRows * kPanel,
                            Variant::kSoftmax ? scratch.factor : nullptr, state.acc);
  }

  template <bool kMasked>
  static void load_columns(const Request& request, int64_t k0, int n, Scratch& scratch) {
    for (int j = 0; j < n; j += kLanes) {
      const I columns = splat_i(static_cast<int32_t>(k0) + j) + iota_i();
      const typename Variant::Column column = Variant::column(request, columns);
      Variant::store(scratch.columns, j, column);
      if constexpr (kMasked && Variant::kColumnMask) {
        store(scratch.hidden + j, ~Variant::column_keep(request, column));
      }
    }
  }

  // Dots to scores, -inf where masked; the panel's new maxima and what old sums are scaled by.
  template <bool kMasked>
  static void score_panel(const Request& request, int panel, int n, float* scores, Scratch& scratch,
                          State& state) {
    const typename Variant::Row* rows = scratch.rows + panel * kPanelVectors;
    float* maxima = state.max + panel * kPanel;
    F top[kPanelVectors];
    for (int v = 0; v < kPanelVectors; ++v) top[v] = load_f(maxima + v * kLanes);
    for (int j = 0; j < n; ++j) {
      const typename Variant::Column column = Variant::broadcast(scratch.columns, j);
#pragma GCC unroll 8
      for (int v = 0; v < kPanelVectors; ++v) {
        float* at = scores + j * kPanel + v * kLanes;
        const F dot = load_f(at);
        F score = Variant::score(request, rows[v], column, dot);
        if constexpr (kMasked && Variant::kMask) {
          score = select(Variant::keep(request, rows[v], column, dot), score, splat_f(-kInfinity));
        }
        store(at, score);
        if constexpr (Variant::kFactor) {
          // 0 beside a weight of 0, whatever the factor is there.
          const F factor = Variant::factor(request, rows[v], column, dot);
          store(scratch.factors + j * kPanel + v * kLanes,
                select(score == -kInfinity, F{}, factor));
        }
        top[v] = max_or_second(score, top[v]);  // NaN reaches its row through the weight
      }
    }
    for (int v = 0; v < kPanelVectors; ++v) {
      const F old = load_f(maxima + v * kLanes);
      store(scratch.factor + panel * kPanel + v * kLanes,
            exp2_below_one(old - finite_reference(top[v])));
      store(maxima + v * kLanes, top[v]);
    }
  }

  // Scores to weights, and their sums; factors come after the softmax's own sum.
  static void weigh_panel(int panel, int n, float* scores, Scratch& scratch, State& state) {
    F base[kPanelVectors], sum[kPanelVectors];
    [[maybe_unused]] F weighted[kPanelVectors];
    for (int v = 0; v < kPanelVectors; ++v) {
      const int m = panel * kPanel + v * kLanes;
      base[v] = finite_reference(load_f(state.max + m));
      sum[v] = load_f(state.sum + m) * load_f(scratch.factor + m);
      if constexpr (kWeighted<Variant>) {
        weighted[v] = load_f(state.weighted + m) * load_f(scratch.factor + m);
      }
    }
    for (int j = 0; j < n; ++j) {
#pragma GCC unroll 8
      for (int v = 0; v < kPanelVectors; ++v) {
        float* at = scores + j * kPanel + v * kLanes;
        const F weight = exp2_below_one(load_f(at) - base[v]);
        sum[v] += weight;
        if constexpr (Variant::kFactor) {
          const F final = weight * load_f(scratch.factors + j * kPanel + v * kLanes);
          store(at, final);
          if constexpr (kWeighted<Variant>) weighted[v] += final;
        } else {
          store(at, weight);
        }
      }
    }
    for (int v = 0; v < kPanelVectors; ++v) {
      store(state.sum + panel * kPanel + v * kLanes, sum[v]);
      if constexpr (kWeighted<Variant>) {
        store(state.weighted + panel * kPanel + v * kLanes, weighted[v]);
      }
    }
  }

  // Dots to weights, 0 where masked, without normalisation.
  template <bool kMasked>
  static void weight_panel(const Request& request, int panel, int n, float* scores,
                           Scratch& scratch, State& state) {
    const typename Variant::Row* rows = scratch.rows + panel * kPanelVectors;
    float* sums = state.sum + panel * kPanel;
    for (int j = 0; j < n; ++j) {
      const typename Variant::Column column = Variant::broadcast(scratch.columns, j);
#pragma GCC unroll 8
      for (int v = 0; v < kPanelVectors; ++v) {
        float* at = scores + j * kPanel + v * kLanes;
        const F dot = load_f(at);
        F weight = Variant::weight(request, rows[v], column, dot);
        if constexpr (kMasked && Variant::kMask) {
          weight = select(Variant::keep(request, rows[v], column, dot), weight, F{});
        }
        store(at, weight);
        store(sums + v * kLanes, load_f(sums + v * kLanes) + weight);
      }
    }
  }

  // Without softmax, where the call asks for it: dots to the largest scores.
  template <bool kMasked>
  static void scan_panel(const Request& request, int panel, int n, const float* dots,
                         Scratch& scratch, State& state) {
    for (int j = 0; j < n; ++j) {
      const typename Variant::Column column = Variant::broadcast(scratch.columns, j);
      for (int v = 0; v < kPanelVectors; ++v) {
        const typename Variant::Row& row = scratch.rows[panel * kPanelVectors + v];
        const F dot = load_f(dots + j * kPanel + v * kLanes);
        F score = Variant::score(request, row, column, dot);
        if constexpr (kMasked && Variant::kMask) {
          score = select(Variant::keep(request, row, column, dot), score, splat_f(-kInfinity));
        }
        float* top = state.max + panel * kPanel + v * kLanes;
        store(top, max(load_f(top), score));
      }
    }
  }

  // The largest scores of rows m .. m + kLanes - 1, base e; NaN for a row that has one.
  static F largest_scores(const Request& request, const Item& item, const State& state, int m) {
    const F top = load_f(state.max + m);
    if constexpr (!Variant::kSoftmax) return top;
    const F sum = load_f(state.sum + m);  // NaN is in the sums, the running maxima pass over it
    const F whole = select(top == -kInfinity, top, kLn2 * (top + row_shift(request, item, m)));
    return select((sum != sum) & (top < kInfinity), sum, whole);
  }

  // What the scores of rows m .. m + kLanes - 1 lack.
  static F row_shift(const Request& request, const Item& item, int m) {
    const I rows = splat_i(static_cast<int32_t>(item.q0) + m) + iota_i();
    if constexpr (Variant::kShift) return Variant::shift(request, Variant::row(request, rows));
    else return F{};
  }

  void raise_max(const Request& request, const Item& item, const State& state) const {
    float top = -kInfinity;
    for (int m = 0; m < item.rows; m += kLanes) {
      const F scores = largest_scores(request, item, state, m);
      for (int i = 0; i < std::min(kLanes, item.rows - m); ++i) top = max(top, scores[i]);
    }
    problem_.raise_max(item.b, item.h, top);
  }

  // The sums of the final weights of kLanes rows, before they are normalised.
  static F row_sums(const State& state, int m) {
    return load_f((kWeighted<Variant> ? state.weighted : state.sum) + m);
  }

  // What acc is multiplied by; 0 for an empty row. The lse knows no sink. The scores lack the row's
  // shift: where it is -inf the row is empty, where it is +inf or NaN (so `shift - shift` is NaN)
  // its weights are NaN.
  static F normaliser(const Request& request, const Item& item, const State& state, int m,
                      float* lse) {
    const F top = load_f(state.max + m), sum = load_f(state.sum + m);
    const F shift = row_shift(request, item, m);
    const M empty = (sum == 0.0f) | (shift == -kInfinity);
    store(lse + m, empty ? splat_f(-kInfinity) : kLn2 * (top + log2(sum) + shift));
    F base = finite_reference(top), total = sum;
    F factor = splat_f(1.0f);
    if constexpr (Variant::kSink) {
      const I rows = splat_i(static_cast<int32_t>(item.q0) + m) + iota_i();
      const F sink = Variant::sink(request, Variant::row(request, rows)) - shift;
      // An infinite sink is above every reference, so that it takes all of the weight: 0 / inf.
      base = finite_reference(max(top, min(sink, splat_f(kLargest))));
      factor = exp2(top - base);
      total = sum * factor + exp2(sink - base);
    }
    return empty ? F{} : factor / total + (shift - shift);
  }

  void write(const Request& request, const Item& item, const State& state, const float* row_sum,
             const float* lse) const {
    alignas(64) float row[row_room(kDV)];
    for (int m = 0; m < item.rows; ++m) {
      for (int e = 0; e < kDV; ++e) row[e] = state.acc[place(m, e)];
      write_out<Variant, Element, kD, kDV>(request, item.q0 + m, row, row_sum[m], lse[m],
                                           problem_.out_row(item.b, item.h, item.q0 + m),
                                           problem_.call.out.stride[3]);
      float* out = problem_.lse(item.b, item.h, item.q0 + m);
      if (out != nullptr) *out = lse[m];
    }
  }

  const Problem<Element>& problem_;
  const Params& params_;
  Source source_;
};

}  // namespace attnlang::cpu
