// Attention of a few query rows with keys in the lanes: decoding.
//
// A work item is (request, key/value head, up to kDecodeRows rows, part of the keys); its rows are
// all queries of all heads of the group, so that K and V are read once. States as in `Forward`.
#pragma once

#include <algorithm>
#include <optional>

#include "attnlang/cpu/gemm.h"
#include "attnlang/cpu/gemv_pairs.h"
#include "kernels/cpu_problem.h"
#include "kernels/cpu_tiles.h"
#include "kernels/cpu_transforms.h"
#include "kernels/cpu_variant.h"

namespace attnlang::cpu {

constexpr int kDecodeRows = 16;
constexpr int kDecodeKeys = 64;
constexpr int kDecodeQueries = kPanel / 4;  // more fill a panel of `Forward` well enough
static_assert(kDecodeKeys <= kMaxKeyTile && kDecodeKeys % kLanes == 0);

template <int kDV>
struct DecodeState {
  alignas(64) float acc[kDecodeRows * padded(kDV)];
  float max[kDecodeRows];
  float sum[kDecodeRows];
  float weighted[kDecodeRows];  // sums with factors, where `kWeighted`

  void clear(int rows) {
    std::fill_n(acc, rows * padded(kDV), 0.0f);
    std::fill_n(max, kDecodeRows, -kInfinity);
    std::fill_n(sum, kDecodeRows, 0.0f);
    std::fill_n(weighted, kDecodeRows, 0.0f);
  }
};

template <class Variant, class Element, int kD, int kDV>
class Decode {
 public:
  using Params = typename Variant::Params;
  using Request = typename Variant::Request;
  using State = DecodeState<kDV>;
  using Source = KvSource<Variant, Element, kD, kDV>;
  using Requests = std::optional<Request>[kDecodeRows];

  // What the products take of queries and weights.
  using Operand = std::conditional_t<kPairProducts<Element>, Bf16, float>;
  static constexpr int kQueryRoom = kPairProducts<Element> ? padded_pairs(kD) : padded(kD);

  struct Scratch {
    State state;
    alignas(64) Operand queries[kDecodeRows * kQueryRoom];
    alignas(64) Bf16 weights[kPairProducts<Element> ? kDecodeRows * kDecodeKeys : 1];
    alignas(64) float scores[kDecodeRows * kDecodeKeys];
    alignas(64) float factors[Variant::kFactor ? kDecodeKeys : 1];  // of a row's weights
    alignas(64) int32_t hidden[kDecodeRows * kDecodeKeys];
    alignas(64) int32_t columns[kDecodeKeys];  // of the block, the last one repeated
    Element k[kDecodeKeys * kD];
    Element v[kDecodeKeys * kDV];
    Element zeros[kDV];
    typename Source::Stage stage;
    typename Source::Rows kv;
    StoredRows next_keys, next_values;  // to be asked for
  };

  // Rows row0, row0 + step, ... of the group's heads x queries.
  struct Item {
    int64_t b, h_kv, row0;
    int rows;
    int64_t step;
  };

  Decode(const Problem<Element>& problem, const Params& params)
      : problem_(problem), params_(params), source_(problem, params) {}

  int64_t group_rows() const { return problem_.group() * problem_.queries; }
  int64_t chunks() const { return (group_rows() + kDecodeRows - 1) / kDecodeRows; }
  int64_t items() const { return problem_.batch * problem_.kv_heads * chunks(); }
  int64_t items_of_a_head() const { return chunks(); }

  Item item(int64_t index) const {
    const int64_t head = index / chunks(), row0 = index % chunks() * kDecodeRows;
    return {.b = problem_.first + head / problem_.kv_heads,
            .h_kv = head % problem_.kv_heads,
            .row0 = row0,
            .rows = static_cast<int>(std::min<int64_t>(kDecodeRows, group_rows() - row0)),
            .step = 1};
  }

  int64_t cost(const Item& item) const { return problem_.kv_len(item.b); }

  // The key tiles with something to do, of all rows together.
  [[gnu::cold]] void cover(const Item& item, VisitTiles visit) const {
    Requests requests;
    for (int r = 0; r < item.rows; ++r) requests[r].emplace(request(item, r));
    const auto verdict_of = [&](int64_t a, int64_t b) { return verdict(item, requests, a, b); };
    cover_tiles(coverage(item, requests), 0, problem_.kv_len(item.b), kDecodeKeys, verdict_of,
                visit);
  }

  // The state of an item over keys [k0, k1), k0 a multiple of kDecodeKeys.
  void run(const Item& item, int64_t k0, int64_t k1, Scratch& scratch, State& state) const {
    Requests requests;
    start(item, requests, scratch, state);
    const auto verdict_of = [&](int64_t a, int64_t b) { return verdict(item, requests, a, b); };
    k1 = std::min(k1, problem_.kv_len(item.b));
    visit_tiles(coverage(item, requests), k0, k1, kDecodeKeys, verdict_of,
                [&](int64_t k, int n, bool masked) {
                  for (int j = 0; j < kDecodeKeys; ++j) {
                    scratch.columns[j] = static_cast<int32_t>(k) + std::min(j, n - 1);
                  }
                  run_block(masked, item, requests, n, scratch, state);
                });
  }

  // Joins the state of later keys into that of earlier ones.
  static void merge(State& state, const State& later, const Item& item) {
    for (int r = 0; r < item.rows; ++r) {
      float a = 1, b = 1;
      if constexpr (Variant::kSoftmax) {
        const float top = std::max(state.max[r], later.max[r]);
        a = scale(state.max[r], top);
        b = scale(later.max[r], top);
        state.max[r] = top;
      } else {
        state.max[r] = max(state.max[r], later.max[r]);
      }
      state.sum[r] = state.sum[r] * a + later.sum[r] * b;
      if constexpr (kWeighted<Variant>) {
        state.weighted[r] = state.weighted[r] * a + later.weighted[r] * b;
      }
      for (int e = r * padded(kDV); e < (r + 1) * padded(kDV); e += kLanes) {
        store(state.acc + e, load_f(state.acc + e) * a + load_f(later.acc + e) * b);
      }
    }
  }

  // Applies the sink, normalises and writes the rows and their lse.
  void finish(const Item& item, State& state) const {
    for (int r = 0; r < item.rows; ++r) {
      float* acc = state.acc + r * padded(kDV);
      float lse = -kInfinity, normal = 1.0f;
      if constexpr (Variant::kSoftmax) {
        normal = normaliser(item, state, r, &lse);
        const F factor = splat_f(normal);
        for (int e = 0; e < padded(kDV); e += kLanes) store(acc + e, load_f(acc + e) * factor);
      }
      const int64_t h = head(item, r), i = query(item, r);
      write_row(item, r, acc, row_sums(state, r) * normal, lse);
      float* out = problem_.lse(item.b, h, i);
      if (out != nullptr) *out = lse;
      if (problem_.wants_max()) problem_.raise_max(item.b, h, largest_score(item, state, r));
    }
  }

 protected:
  void start(const Item& item, Requests& requests, Scratch& scratch, State& state) const {
    for (int r = 0; r < item.rows; ++r) requests[r].emplace(request(item, r));
    load_queries(item, requests, scratch);
    state.clear(item.rows);
    std::fill_n(scratch.zeros, kDV, Element{});
  }

  Coverage coverage(const Item& item, const Requests& requests) const {
    Coverage all = row_coverage(item, *requests[0], 0);
    for (int r = 1; r < item.rows; ++r) all = join(all, row_coverage(item, *requests[r], r));
    return all;
  }

  // Of all rows together.
  Verdict verdict(const Item& item, const Requests& requests, int64_t k0, int64_t k1) const {
    Verdict all = row_verdict(item, *requests[0], 0, k0, k1);
    for (int r = 1; r < item.rows && !is_unknown(all); ++r) {
      all = join(all, row_verdict(item, *requests[r], r, k0, k1));
    }
    return all;
  }

  // The n columns `scratch.columns`.
  void run_block(bool masked, const Item& item, const Requests& requests, int n, Scratch& scratch,
                 State& state) const {
    source_.load(*requests[0], item.b, item.h_kv, scratch.columns, n, scratch.stage, scratch.kv);
    if (masked) run_block<true>(item, requests, n, scratch, state);
    else run_block<false>(item, requests, n, scratch, state);
  }

  const Problem<Element>& problem() const { return problem_; }

 private:
  int64_t row_number(const Item& item, int r) const { return item.row0 + r * item.step; }
  int64_t head(const Item& item, int r) const {
    return item.h_kv * problem_.group() + row_number(item, r) / problem_.queries;
  }
  int64_t query(const Item& item, int r) const { return row_number(item, r) % problem_.queries; }
  [[gnu::noinline]] Request request(const Item& item, int r) const {
    return problem_.template request<Variant>(params_, item.b, head(item, r), query(item, r));
  }
  typename Variant::Row row(const Item& item, const Request& request, int r) const {
    return Variant::row(request, splat_i(static_cast<int32_t>(query(item, r))));
  }
  Coverage row_coverage(const Item& item, const Request& request, int r) const {
    const int64_t i = query(item, r);
    return tile_coverage<Variant>(request, i, i + 1);
  }
  Verdict row_verdict(const Item& item, const Request& request, int r, int64_t k0,
                      int64_t k1) const {
    const int64_t i = query(item, r);
    return tile_verdict<Variant>(request, i, i + 1, k0, k1);
  }

  void write_row(const Item& item, int r, const float* acc, float row_sum, float lse) const {
    const int64_t h = head(item, r), i = query(item, r);
    if constexpr (Variant::kOut) {
      alignas(64) float row[row_room(kDV)];
      std::copy_n(acc, padded(kDV), row);
      write_out<Variant, Element, kD, kDV>(problem_, item.b, h, request(item, r), i, row, row_sum,
                                           lse);
    } else {
      problem_.write_row(item.b, h, i, acc, kDV);
    }
  }

  static float finite_reference(float top) { return top == -kInfinity ? 0.0f : top; }
  // 2^(from - to) for from <= to.
  static float scale(float from, float to) {
    return exp2_below_one(splat_f(from - finite_reference(to)))[0];
  }

  void load_queries(const Item& item, const Requests& requests, Scratch& scratch) const {
    const int64_t inner = problem_.call.q.stride[3];
    for (int r = 0; r < item.rows; ++r) {
      float to[padded(kD)];
      const Element* row = problem_.q_row(item.b, head(item, r), query(item, r));
      if constexpr (Variant::kQuery) {
        Element rounded[kD];
        transform_query<Variant, Element, kD, kDV>(*requests[r], query(item, r), row, inner,
                                                   rounded);
        row_to_float(to, rounded, 1, kD);
      } else {
        row_to_float(to, row + Variant::kQueryStart * inner, inner, kD);
      }
      Operand* operand = scratch.queries + r * kQueryRoom;
      float_to_row(operand, 1, to, kD);
      std::fill(operand + kD, operand + kQueryRoom, Operand{});
    }
  }

  // Weights of row r from key j on, as the product takes them.
  static const Operand* weights(const Scratch& scratch, int r, int j) {
    if constexpr (kPairProducts<Element>) return scratch.weights + r * kDecodeKeys + j;
    else return scratch.scores + r * kDecodeKeys + j;
  }

  // Copies n rows whose entries lie apart to where they are contiguous.
  template <int kWidth>
  static void gather_rows(const Element** rows, int n, int64_t inner, Element* room) {
    for (int j = 0; j < n; ++j, room += kWidth) {
      for (int d = 0; d < kWidth; ++d) room[d] = rows[j][d * inner];
      rows[j] = room;
    }
  }

  template <bool kMasked>
  void run_block(const Item& item, const Requests& requests, int n, Scratch& scratch,
                 State& state) const {
    typename Source::Rows& kv = scratch.kv;
    foresee(item, n, scratch);
    const Ahead values{scratch.next_values.row, scratch.next_values.bytes};
    const Ahead keys{scratch.next_keys.row, scratch.next_keys.bytes};
    if (kv.k_inner != 1) gather_rows<kD>(kv.k, n, kv.k_inner, scratch.k);
    const int whole = padded(n);
    for (int j = n; j < whole; ++j) kv.k[j] = kv.k[n - 1];
    for (int j = 0; j < whole; j += kLanes) {
      dot_keys<kD>(scratch.queries, item.rows, kv.k + j, values.from(j), scratch.scores + j,
                   kDecodeKeys);
    }
    for (int r = 0; r < item.rows; ++r) {
      weigh_row<kMasked>(item, *requests[r], r, n, scratch, state);
    }
    constexpr bool kHides = kMasked && Variant::kColumnMask;
    if (kv.v_inner != 1) gather_rows<kDV>(kv.v, n, kv.v_inner, scratch.v);
    for (int j = 0; kHides && j < n; ++j) {
      if (hidden_from_all(scratch, item.rows, j)) kv.v[j] = scratch.zeros;
    }
    std::fill(kv.v + n, kv.v + kDecodeKeys, scratch.zeros);
    for (int j = 0; j < n; j += kValueKeys) {
      if (kHides && hidden_from_some(scratch, item.rows, j)) {
        accumulate_visible(scratch, item.rows, j, state);
      } else {
        accumulate_values<kDV>(weights(scratch, 0, j), kDecodeKeys, item.rows, kv.v + j,
                               keys.from(j), state.acc);
      }
    }
  }

  // What to ask for while this block is worked on. After neighbours come their neighbours.
  void foresee(const Item& item, int n, Scratch& scratch) const {
    const int64_t first = scratch.columns[0], next = first + kDecodeKeys;
    int64_t more = 0;
    if (scratch.columns[n - 1] - first == kDecodeKeys - 1) {
      more = std::min<int64_t>(kDecodeKeys, problem_.kv_len(item.b) - next);
    }
    source_.foresee(item.b, item.h_kv, scratch.kv, n, next, static_cast<int>(more),
                    scratch.next_values, scratch.next_keys);
  }

  static bool hidden_from_all(const Scratch& scratch, int rows, int j) {
    bool all = true;
    for (int r = 0; r < rows; ++r) all &= scratch.hidden[r * kDecodeKeys + j] != 0;
    return all;
  }

  // Whether among keys j .. j + kValueKeys - 1 one is hidden from a row and not from another.
  static bool hidden_from_some(const Scratch& scratch, int rows, int j) {
    bool differ = false;
    for (int i = j; i < j + kValueKeys; ++i) {
      for (int r = 1; r < rows; ++r) {
        differ |= scratch.hidden[r * kDecodeKeys + i] != scratch.hidden[i];
      }
    }
    return differ;
  }

  // Row by row, with zeros for what is hidden from it.
  static void accumulate_visible(const Scratch& scratch, int rows, int j, State& state) {
    for (int r = 0; r < rows; ++r) {
      const Element* values[kValueKeys];
      for (int i = 0; i < kValueKeys; ++i) {
        const bool skip = scratch.hidden[r * kDecodeKeys + j + i] != 0;
        values[i] = skip ? scratch.zeros : scratch.kv.v[j + i];
      }
      accumulate_values<kDV>(weights(scratch, r, j), kDecodeKeys, 1, values, Ahead{},
                             state.acc + r * padded(kDV));
    }
  }

  // One row's dots to weights, 0 where masked and past the end; its state but acc's sums.
  template <bool kMasked>
  void weigh_row(const Item& item, const Request& request, int r, int n, Scratch& scratch,
                 State& state) const {
    constexpr float kMaskedScore = Variant::kSoftmax ? -kInfinity : 0.0f;
    const typename Variant::Row row = this->row(item, request, r);
    if constexpr (!Variant::kSoftmax) {
      if (problem_.wants_max()) scan_row<kMasked>(request, row, r, n, scratch, state);
    }
    float* scores = scratch.scores + r * kDecodeKeys;
    F top = splat_f(-kInfinity), sum{};
    for (int j = 0; j < n; j += kLanes) {
      const typename Variant::Column column = Variant::column(request, load_i(scratch.columns + j));
      const F dot = load_f(scores + j);
      F score;
      if constexpr (Variant::kSoftmax) score = Variant::score(request, row, column, dot);
      else score = Variant::weight(request, row, column, dot);
      M keep = iota_i() + j < n;
      if constexpr (kMasked && Variant::kMask) keep &= Variant::keep(request, row, column, dot);
      score = select(keep, score, splat_f(kMaskedScore));
      if constexpr (kMasked && Variant::kColumnMask) {
        cpu::store(scratch.hidden + r * kDecodeKeys + j, ~Variant::column_keep(request, column));
      }
      store(scores + j, score);
      if constexpr (Variant::kFactor) {
        // 0 beside a weight of 0, whatever the factor is there.
        const F factor = Variant::factor(request, row, column, dot);
        store(scratch.factors + j, select(score == -kInfinity, F{}, factor));
      }
      top = max_or_second(score, top);
      sum += score;
    }
    if constexpr (Variant::kSoftmax) sum = exponentiate(r, n, top, scores, scratch.factors, state);
    state.sum[r] += cpu::sum(sum);
    for (int j = padded(n); j < kDecodeKeys; ++j) {
      scores[j] = 0.0f;
      scratch.hidden[r * kDecodeKeys + j] = 0;
    }
    if constexpr (kPairProducts<Element>)
      float_to_row(scratch.weights + r * kDecodeKeys, 1, scores, kDecodeKeys);
  }

  // Scores to weights relative to the new maximum, to which the row's sums are brought; factors
  // come after the softmax's own sum, which is returned.
  static F exponentiate(int r, int n, F top, float* scores, [[maybe_unused]] const float* factors,
                        State& state) {
    const float old = state.max[r], maximum = std::max(old, largest(top));
    const F base = splat_f(finite_reference(maximum));
    if (maximum != old) {
      const float factor = scale(old, maximum);
      float* acc = state.acc + r * padded(kDV);
      for (int e = 0; e < padded(kDV); e += kLanes) store(acc + e, load_f(acc + e) * factor);
      state.sum[r] *= factor;
      if constexpr (kWeighted<Variant>) state.weighted[r] *= factor;
      state.max[r] = maximum;
    }
    F sum{};
    [[maybe_unused]] F weighted{};
    for (int j = 0; j < n; j += kLanes) {
      const F weight = exp2_below_one(load_f(scores + j) - base);
      sum += weight;
      if constexpr (Variant::kFactor) {
        const F final = weight * load_f(factors + j);
        store(scores + j, final);
        if constexpr (kWeighted<Variant>) weighted += final;
      } else {
        store(scores + j, weight);
      }
    }
    if constexpr (kWeighted<Variant>) state.weighted[r] += cpu::sum(weighted);
    return sum;
  }

  // Without softmax, where the call asks for it: a row's dots to its largest score.
  template <bool kMasked>
  static void scan_row(const Request& request, const typename Variant::Row& row, int r, int n,
                       const Scratch& scratch, State& state) {
    F top = splat_f(-kInfinity);
    for (int j = 0; j < n; j += kLanes) {
      const typename Variant::Column column = Variant::column(request, load_i(scratch.columns + j));
      const F dot = load_f(scratch.scores + r * kDecodeKeys + j);
      M keep = iota_i() + j < n;
      if constexpr (kMasked && Variant::kMask) keep &= Variant::keep(request, row, column, dot);
      top = max(top, select(keep, Variant::score(request, row, column, dot), splat_f(-kInfinity)));
    }
    for (int i = 0; i < kLanes; ++i) state.max[r] = max(state.max[r], top[i]);
  }

  // Base e; NaN for a row that has one.
  float largest_score(const Item& item, const State& state, int r) const {
    const float top = state.max[r], sum = state.sum[r];
    if constexpr (!Variant::kSoftmax) return top;
    // NaN is in the sums, the running maxima pass over it.
    if (sum != sum && top < kInfinity) return sum;
    return top == -kInfinity ? top : kLn2 * (top + row_shift(item, r));
  }

  // What the scores of a row lack.
  float row_shift(const Item& item, int r) const {
    if constexpr (Variant::kShift) {
      const Request request = this->request(item, r);
      return Variant::shift(request, row(item, request, r))[0];
    } else {
      return 0;
    }
  }

  // The sum of the final weights of a row, before they are normalised.
  static float row_sums(const State& state, int r) {
    return kWeighted<Variant> ? state.weighted[r] : state.sum[r];
  }

  // What acc is multiplied by, as in `Forward`.
  float normaliser(const Item& item, const State& state, int r, float* lse) const {
    const float top = state.max[r], sum = state.sum[r];
    const float shift = row_shift(item, r);
    if (sum == 0 || shift == -kInfinity) return 0;
    *lse = kLn2 * (top + log2(sum) + shift);
    if constexpr (Variant::kSink) {
      const Request request = this->request(item, r);
      const float sink = Variant::sink(request, row(item, request, r))[0] - shift;
      const float base = finite_reference(max(top, min(sink, kLargest)));
      const float factor = exp2(top - base);
      return factor / (sum * factor + exp2(sink - base)) + (shift - shift);
    }
    return 1 / sum + (shift - shift);
  }

  const Problem<Element>& problem_;
  const Params& params_;
  Source source_;
};

}  // namespace attnlang::cpu
