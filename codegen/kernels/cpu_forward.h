// Flash attention with queries in the lanes: S^T = K Q^T, O^T = V^T P^T.
//
// A work item is (request, head, query tile, part of the keys). It yields a state: under softmax
// the unnormalised sums, the row maxima (base 2) and the sums of weights relative to them;
// otherwise plain sums (and the largest score, where the call asks for it). `merge` joins states of
// later keys into earlier ones, `finish` writes rows out.
#pragma once

#include <algorithm>

#include "attnlang/cpu/parallel.h"
#include "attnlang/cpu/reduce.h"
#include "kernels/avx512bf16_tile.h"
#include "kernels/cpu_pairs.h"
#include "kernels/cpu_problem.h"
#include "kernels/cpu_strips.h"
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
  using Tile = typename ChooseTile<Element, kD, kDV>::Type;
  using Strips = cpu::Strips<Variant, Tile>;

  struct Scratch {
    Tile tile;
    State state;
    alignas(64) float scores[kPanels * kKeyTile * kPanel];
    alignas(64) float factor[kQueryTile];
    alignas(64) float factors[Variant::kFactor ? kKeyTile * kPanel : 1];  // of a strip's weights
    alignas(64) int32_t hidden[kKeyTile];
    typename Variant::ColumnTile columns;
    TilePairs<Variant> pairs;
    typename Variant::Row rows[kQueryTile / kLanes];
    typename Source::Stage stage;
    typename Source::Rows kv;
    StripKeys keys[kStrips];                                        // that each strip goes through
    KeptLanes kept[Variant::kMask ? kKeyTile * kStripVectors : 1];  // of a strip
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
  int64_t items_of_a_head() const { return query_tiles(); }

  Item item(int64_t index) const {
    const int64_t tiles = query_tiles();
    const int64_t head = index / tiles, q0 = index % tiles * kQueryTile;
    return {.b = problem_.first + head / problem_.heads,
            .h = head % problem_.heads,
            .q0 = q0,
            .rows = static_cast<int>(std::min<int64_t>(kQueryTile, problem_.queries - q0))};
  }

  // The key tiles with something to do.
  [[gnu::cold]] void cover(const Item& item, VisitTiles visit) const {
    const Request request = problem_.template request<Variant>(params_, item.b, item.h);
    cover_tiles(coverage(request, item), 0, problem_.kv_len(item.b), kKeyTile,
                verdicts(request, item), visit);
  }

  int64_t cost(const Item& item) const { return tile_count(*this, item); }

  // The state of an item over keys [k0, k1), k0 a multiple of kKeyTile.
  void run(const Item& item, int64_t k0, int64_t k1, Scratch& scratch, State& state) const {
    const Request request =
        problem_.template request<Variant>(params_, item.b, item.h, item.anchor());
    const int64_t h_kv = item.h / problem_.group();
    scratch.tile.start();
    load_queries(request, item, scratch);
    load_rows(request, item, scratch);
    state.clear(item.panels());
    k1 = std::min(k1, problem_.kv_len(item.b));
    const auto run_each = [&](int64_t k, int n, bool masked) {
      source_.load(request, item.b, h_kv, k, n, scratch.stage, scratch.kv);
      if constexpr (Variant::kMask) {
        if (masked) return run_tile<true>(request, k, n, item.rows, scratch, state);
      }
      run_tile<false>(request, k, n, item.rows, scratch, state);
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
        const int at = place(m, e);
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
          const int at = place(m, e);
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
  // Where query m begins in [panel][depth][kPanel].
  static int panel_start(int m, int depth) { return m / kPanel * depth * kPanel + m % kPanel; }
  // Where element e of rows m .. m + kLanes - 1 stands in State::acc.
  static int place(int m, int e) { return panel_start(m, kDV) + e * kPanel; }

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

  // Where the mask holds tiles go by whole panels; else each strip has its own keys.
  template <bool kMasked>
  void run_tile(const Request& request, int64_t k0, int n, int rows, Scratch& scratch,
                State& state) const {
    constexpr int kVectors = kMasked ? kStripVectors : kPanelVectors, kStep = kVectors * kLanes;
    if constexpr (kMasked || Variant::kReadsColumns || kHasPairs<Variant>) {
      load_columns<kMasked>(request, k0, n, scratch);
    }
    scratch.pairs.template fill<kMasked>(request, scratch.rows, scratch.columns, rows, n);
    scratch.tile.load_keys(scratch.kv, n);
    for (int m = 0; m < rows; m += kStep) {
      StripKeys& keys = scratch.keys[m / kStep];
      if constexpr (kMasked) Strips::find_kept(request, m, n, scratch, keys);
      else keys.count = n;
      if (keys.count == 0) continue;
      float* scores = scratch.scores + panel_start(m, kKeyTile);
      if constexpr (Variant::kSoftmax) {
        Strips::template score<kMasked, kVectors>(request, m, keys, scores, scratch, state);
        Strips::template weigh<kVectors>(m, keys.count, scores, scratch, state);
      } else {
        Strips::template for_dots<kMasked, kVectors>(m, keys, scratch, [&](int i, const F* dots) {
          for (int v = 0; v < kVectors; ++v) store(scores + i * kPanel + v * kLanes, dots[v]);
        });
        if (problem_.wants_max()) {
          Strips::template scan<kMasked, kVectors>(request, m, keys, scores, scratch, state);
        }
        Strips::template weight<kMasked, kVectors>(request, m, keys, scores, scratch, state);
      }
    }
    const bool hides = kMasked && Variant::kColumnMask;
    scratch.tile.load_values(scratch.kv, n, hides ? scratch.hidden : nullptr);
    for (int m = 0; m < rows; m += kStep) {
      const StripKeys& keys = scratch.keys[m / kStep];
      if (keys.count == 0) continue;
      const float* some[kKeyTile];
      const auto* values = keys.template rows<kMasked, Tile::kTogether>(scratch.tile.v_rows, some);
      Tile::template accumulate<kVectors>(
          values, keys.count, scratch.scores + panel_start(m, kKeyTile),
          Variant::kSoftmax ? scratch.factor + m : nullptr, state.acc + panel_start(m, kDV));
    }
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
    constexpr int kRoom = row_room(kDV);
    alignas(64) float block[kLanes * kRoom];
    for (int first = 0; first < item.rows; first += kLanes) {
      for (int e = 0; e < kDV; e += kLanes) {
        const int rows = std::min(kLanes, kDV - e);
        transpose(block + e, kRoom, kLanes, state.acc + place(first, e), kPanel, rows);
      }
      for (int m = first; m < std::min(first + kLanes, item.rows); ++m) {
        const int64_t i = item.q0 + m;
        write_out<Variant, Element, kD, kDV>(problem_, item.b, item.h, request, i,
                                             block + (m - first) * kRoom, row_sum[m], lse[m]);
        float* out = problem_.lse(item.b, item.h, i);
        if (out != nullptr) *out = lse[m];
      }
    }
  }

  const Problem<Element>& problem_;
  const Params& params_;
  Source source_;
};

}  // namespace attnlang::cpu
