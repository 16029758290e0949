// Where q', k' and v' come from: rows of what the call passed, or rows that the spec's transforms
// make, rounded to the element type.
//
// Keys and values that more than a few work items use are transformed once, in one pass over the
// key tiles that some row visits, into a workspace (`prepare`); else each tile is staged into its
// thread's scratch right before it is used. Both go through `transform_rows`.
#pragma once

#include <algorithm>
#include <optional>

#include "attnlang/cpu/parallel.h"
#include "attnlang/cpu/vectors.h"
#include "kernels/cpu_problem.h"
#include "kernels/cpu_tiles.h"
#include "kernels/cpu_variant.h"

namespace attnlang::cpu {

constexpr int64_t kStagedUses = 2;  // work items that may transform one key each for itself

// q' of one row, rounded.
template <class Variant, class Element, int kD, int kDV>
void transform_query(const typename Variant::Request& request, int64_t q_row, const Element* row,
                     int64_t inner, Element* result) {
  constexpr int kHead = Widths<Variant, kD, kDV>::kHead;
  alignas(64) float q[row_room(kHead)], transformed[row_room(kD)];
  load_vector<kHead>(q, row, inner);
  Variant::query(request, q_row, q, transformed);
  float_to_row(result, 1, transformed, kD);
}

template <class Variant, class Element, int kD, int kDV>
class KvSource {
 public:
  using Params = typename Variant::Params;
  using Request = typename Variant::Request;
  using Rows = KvRows<Element>;
  using Width = Widths<Variant, kD, kDV>;
  static constexpr bool kTransforms = Variant::kKey || Variant::kValue;

  // A thread's room for the rows of one tile; of pages they may be converted first.
  struct Stored {
    alignas(64) Element k[kMaxKeyTile * Width::kHead];
    alignas(64) Element v[kMaxKeyTile * Width::kValue];
  };
  struct Stage {
    alignas(64) Element k[Variant::kKey ? kMaxKeyTile * kD : 1];
    alignas(64) Element v[Variant::kValue ? kMaxKeyTile * kDV : 1];
    Stored stored;
  };

  KvSource(const Problem<Element>& problem, const Params& params)
      : problem_(problem), params_(params) {}

  // Transforms every key that some row may see, where `uses` work items go through each. Without
  // memory for that, tiles are staged.
  [[gnu::cold]] void prepare(int64_t uses) {
    if constexpr (kTransforms) {
      if (uses <= kStagedUses) return;
      const int64_t rows = problem_.batch * problem_.kv_heads * problem_.keys;
      if constexpr (Variant::kKey) keys_.emplace(rows * kD);
      if constexpr (Variant::kValue) values_.emplace(rows * kDV);
      prepared_ = (!Variant::kKey || *keys_) && (!Variant::kValue || *values_);
      if (prepared_) fill();
    }
  }

  // k' and v' of columns [k0, k0 + n); `request` is that of any head of the group.
  [[gnu::always_inline]] void load(const Request& request, int64_t b, int64_t h_kv, int64_t k0,
                                   int n, Stage& stage, Rows& rows) const {
    const auto column = [k0](int j) { return k0 + j; };
    if (kTransforms && prepared_) {
      locate(b, h_kv, column, n, stage.stored, rows);
      shift(n, rows);
      place(key_row(b, h_kv, k0), value_row(b, h_kv, k0), n, rows);
    } else {
      make(request, b, h_kv, column, n, stage, rows);
    }
  }

  // The same of the columns at[0] .. at[n - 1].
  void load(const Request& request, int64_t b, int64_t h_kv, const int32_t* at, int n, Stage& stage,
            Rows& rows) const {
    make(request, b, h_kv, [at](int j) { return at[j]; }, n, stage, rows);
  }

  // What is read soon by who has `rows` of n columns: their values, where those stay where they
  // lie, else those of the `more` columns from `next` on; and the keys of the latter.
  void foresee(int64_t b, int64_t h_kv, const Rows& rows, int n, int64_t next, int more,
               StoredRows& values, StoredRows& keys) const {
    constexpr bool kFromKey = Variant::kValueFromKey || Variant::kValueSharesKey;
    constexpr bool kMade = Variant::kValue || (Variant::kValueSharesKey && Variant::kKey);
    values.bytes = keys.bytes = 0;
    const bool made = kMade || is_converted(Variant::kValueFromKey);
    if (!made && rows.v_inner == 1) {
      values.bytes = kDV * sizeof(Element);
      fill(values, n, [&](int j) { return rows.v[j]; });
    }
    if (more <= 0) return;
    const bool values_too = made && !kFromKey;
    if (problem_.is_paged()) {
      problem_.pages().locate_stored(h_kv, next, more, keys, values_too ? &values : nullptr);
      return;
    }
    const StridedKv<Element> kv = problem_.kv(b, h_kv);
    if (kv.k_inner == 1) {
      keys.bytes = Width::kHead * sizeof(Element);
      fill(keys, more, [&](int j) { return kv.k_row(next + j); });
    }
    if (values_too && kv.v_inner == 1) {
      values.bytes = Width::kValue * sizeof(Element);
      fill(values, more, [&](int j) { return kv.v_row(next + j); });
    }
  }

 private:
  static constexpr int64_t kTilesAtOnce = 16;
  static constexpr int64_t kTile = kMaxKeyTile;

  template <class ColumnOf>
  [[gnu::always_inline]] void make(const Request& request, int64_t b, int64_t h_kv,
                                   const ColumnOf& column_of, int n, Stage& stage,
                                   Rows& rows) const {
    locate(b, h_kv, column_of, n, stage.stored, rows);
    if constexpr (kTransforms) transform_rows(request, rows, column_of, n, stage.k, stage.v);
    shift(n, rows);
    place(stage.k, stage.v, n, rows);
  }

  bool is_converted(bool keys) const {
    return problem_.is_paged() && problem_.pages().is_converted(keys);
  }

  // The last row stands for those past it.
  template <class RowOf>
  static void fill(StoredRows& stored, int n, const RowOf& row_of) {
    for (int j = 0; j < n; ++j) stored.row[j] = row_of(j);
    stored.repeat_last(n);
  }

  // What the call passed. Columns of pages are neighbours.
  template <class ColumnOf>
  [[gnu::always_inline]] void locate(int64_t b, int64_t h_kv, const ColumnOf& column_of, int n,
                                     Stored& stored, Rows& rows) const {
    if (problem_.is_paged()) [[unlikely]] {
      problem_.pages().template locate<Width::kHead, Width::kValue>(h_kv, column_of(0), n, stored.k,
                                                                    stored.v, rows);
      return;
    }
    const StridedKv<Element> kv = problem_.kv(b, h_kv);
    rows.k_inner = kv.k_inner, rows.v_inner = kv.v_inner;
    for (int j = 0; j < n; ++j) {
      rows.k[j] = kv.k_row(column_of(j));
      rows.v[j] = kv.v_row(column_of(j));
    }
  }

  // What is not transformed is read where it lies: the parts of rows that it is.
  static void shift(int n, Rows& rows) {
    if constexpr (Variant::kValueFromKey) {
      rows.v_inner = rows.k_inner;
      for (int j = 0; j < n; ++j) rows.v[j] = rows.k[j];
    }
    if constexpr (Variant::kValueStart != 0 && !Variant::kValueSharesKey) {
      for (int j = 0; j < n; ++j) rows.v[j] += Variant::kValueStart * rows.v_inner;
    }
    if constexpr (Variant::kKeyStart != 0) {
      for (int j = 0; j < n; ++j) rows.k[j] += Variant::kKeyStart * rows.k_inner;
    }
  }

  // Transformed rows are taken from `k` and `v`.
  static void place(const Element* k, const Element* v, int n, Rows& rows) {
    if constexpr (Variant::kKey) {
      rows.k_inner = 1;
      for (int j = 0; j < n; ++j) rows.k[j] = k + j * kD;
    }
    if constexpr (Variant::kValue) {
      rows.v_inner = 1;
      for (int j = 0; j < n; ++j) rows.v[j] = v + j * kDV;
    }
    if constexpr (Variant::kValueSharesKey) {
      rows.v_inner = 1;
      for (int j = 0; j < n; ++j) rows.v[j] = k + Variant::kValueStart + j * kD;
    }
  }

  // k' and v' of n columns, which need not be neighbours, as rows of `k` and `v`.
  template <class ColumnOf>
  static void transform_rows(const Request& request, const Rows& raw, const ColumnOf& column_of,
                             int n, Element* k, Element* v) {
    constexpr bool kReadsKey = Variant::kKey || Variant::kValueFromKey;
    constexpr bool kReadsValue = Variant::kValue && !Variant::kValueFromKey;
    alignas(64) float key[row_room(Width::kHead)];
    alignas(64) float value[row_room(kReadsValue ? Width::kValue : 1)];
    alignas(64) float result[row_room(kD > kDV ? kD : kDV)];
    for (int j = 0; j < n; ++j) {
      const int64_t column = column_of(j);
      if constexpr (kReadsKey) load_vector<Width::kHead>(key, raw.k_row(j), raw.k_inner);
      if constexpr (Variant::kKey) {
        Variant::key(request, column, key, result);
        float_to_row(k + j * kD, 1, result, kD);
      }
      if constexpr (kReadsValue) load_vector<Width::kValue>(value, raw.v_row(j), raw.v_inner);
      if constexpr (Variant::kValue) {
        Variant::value(request, column, Variant::kValueFromKey ? key : value, result);
        float_to_row(v + j * kDV, 1, result, kDV);
      }
    }
  }

  int64_t row_number(int64_t b, int64_t h_kv, int64_t j) const {
    return ((b - problem_.first) * problem_.kv_heads + h_kv) * problem_.keys + j;
  }
  Element* key_row(int64_t b, int64_t h_kv, int64_t j) const {
    if constexpr (Variant::kKey) return keys_->data() + row_number(b, h_kv, j) * kD;
    else return nullptr;
  }
  Element* value_row(int64_t b, int64_t h_kv, int64_t j) const {
    if constexpr (Variant::kValue) return values_->data() + row_number(b, h_kv, j) * kDV;
    else return nullptr;
  }

  void fill() {
    const int64_t tiles = (problem_.keys + kTile - 1) / kTile;
    const int64_t blocks = (tiles + kTilesAtOnce - 1) / kTilesAtOnce;
    const int64_t items = problem_.batch * problem_.kv_heads * blocks;
    const int threads = thread_count(items);
    Buffer<Stored> stored(threads);
    if (!stored) {
      prepared_ = false;
      return;
    }
    parallel_for(items, threads, [&](int64_t i, int thread) {
      const int64_t head = i / blocks;
      const int64_t b = problem_.first + head / problem_.kv_heads;
      fill_block(b, head % problem_.kv_heads, i % blocks * kTilesAtOnce, stored[thread]);
    });
  }

  // The tiles from `first` on that rows of the group visit, by the verdict of all rows together.
  void fill_block(int64_t b, int64_t h_kv, int64_t first, Stored& stored) {
    bool visited[kTilesAtOnce] = {};
    const int64_t begin = first * kTile;
    const int64_t end = std::min(begin + kTilesAtOnce * kTile, problem_.kv_len(b));
    for (int64_t h = h_kv * problem_.group(); h < (h_kv + 1) * problem_.group(); ++h) {
      const Request request = problem_.template request<Variant>(params_, b, h);
      const auto verdict_of = [&](int64_t k0, int64_t k1) {
        return tile_verdict<Variant>(request, 0, problem_.queries, k0, k1);
      };
      visit_tiles(tile_coverage<Variant>(request, 0, problem_.queries), begin, end, kTile,
                  verdict_of, [&](int64_t k0, int, bool) { visited[(k0 - begin) / kTile] = true; });
    }
    const auto request = problem_.template request<Variant>(params_, b, h_kv * problem_.group());
    Rows raw;
    for (int64_t k0 = begin; k0 < end; k0 += kTile) {
      const int n = static_cast<int>(std::min(kTile, end - k0));
      Element *k = key_row(b, h_kv, k0), *v = value_row(b, h_kv, k0);
      if (visited[(k0 - begin) / kTile]) {
        const auto column = [k0](int j) { return k0 + j; };
        locate(b, h_kv, column, n, stored, raw);
        transform_rows(request, raw, column, n, k, v);
        continue;
      }
      // The verdict of fewer rows may be the looser one: then it finds zeros, all of them masked.
      if constexpr (Variant::kKey) std::fill_n(k, n * kD, Element{});
      if constexpr (Variant::kValue) std::fill_n(v, n * kDV, Element{});
    }
  }

  const Problem<Element>& problem_;
  const Params& params_;
  bool prepared_ = false;
  mutable std::optional<Buffer<Element>> keys_, values_;
};

// Writes row q_row of out: the out expression of acc, or acc itself.
template <class Variant, class Element, int kD, int kDV>
void write_out(const Problem<Element>& problem, int64_t b, int64_t h,
               const typename Variant::Request& request, int64_t q_row, const float* acc,
               float row_sum, float lse) {
  if constexpr (Variant::kOut) {
    constexpr int kOut = Widths<Variant, kD, kDV>::kOut;
    alignas(64) float result[row_room(kOut)];
    Variant::out(request, q_row, acc, row_sum, lse, result);
    problem.write_row(b, h, q_row, result, kOut);
  } else {
    problem.write_row(b, h, q_row, acc, kDV);
  }
}

}  // namespace attnlang::cpu
