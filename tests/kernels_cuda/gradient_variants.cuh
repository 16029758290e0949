// Hand-written functors with their derivatives, as the emitter would print them for CUDA.
#pragma once

#include "kernels/cuda_backward.cuh"
#include "variants.cuh"

namespace attnlang::cuda {

// What functors without parameters to differentiate share; the score is a multiple of the product.
template <class Base>
struct NoPartials : Base {
  static constexpr bool kDropout = false;
  static constexpr int kScalarCount = 0, kTensorCount = 0;
  static constexpr Store kStores[] = {Store::exact};
  struct Sums {};
  using Partials = PartialList<>;
  template <class At>
  static Sums sums(const Gradients&, const At&) {
    return {};
  }
  ATTNLANG_DEVICE static Coverage query_ranges(const typename Base::Request&, int64_t, int64_t) {
    return Coverage::unknown();
  }
  ATTNLANG_DEVICE static float dot_gradient(const typename Base::Request& r,
                                            const typename Base::Row&, const typename Base::Column&,
                                            float, float argument, float) {
    return argument * r.p.scale;
  }
};

struct PlainGradient : NoPartials<Plain> {};
struct ScatteredGradient : NoPartials<Scattered> {};
struct PaddedGradient : NoPartials<Padded> {};

// j < number (h + 1): heads of one key see more and more of it.
struct HeadPadded : Plain {
  static constexpr bool kMask = true, kColumnMask = true;
  ATTNLANG_DEVICE static int end(const Request& r) { return r.p.number * (r.h + 1); }
  ATTNLANG_DEVICE static bool column_keep(const Request& r, const Column& column) {
    return column.kv_col < end(r);
  }
  ATTNLANG_DEVICE static bool keep(const Request& r, const Row&, const Column& column, float) {
    return column_keep(r, column);
  }
  ATTNLANG_DEVICE static Verdict tile(const Request& r, int64_t, int64_t, int64_t k0, int64_t k1) {
    return Interval{k0, k1 - 1} < Interval::point(end(r));
  }
  ATTNLANG_DEVICE static Coverage ranges(const Request& r, int64_t, int64_t) {
    return columns(at_most(Interval::point(end(r) - 1)));
  }
};
struct HeadPaddedGradient : NoPartials<HeadPadded> {};

// Rows from the key's position on.
template <class Base>
struct CausalRanges : NoPartials<Base> {
  ATTNLANG_DEVICE static Coverage query_ranges(const typename Base::Request& r, int64_t k0,
                                               int64_t k1) {
    return columns(at_least(Base::kv_positions(r, k0, k1) - r.q_offset));
  }
};
struct CausalGradient : CausalRanges<Causal> {};
struct WindowGradient : CausalRanges<Window> {};
struct ScaledGradient : NoPartials<Scaled<Plain>> {};
struct ScaledCausalGradient : CausalRanges<Scaled<Causal>> {};
struct SlopesGradient : CausalRanges<Slopes> {};

struct ReluGradient : CausalRanges<Relu> {
  ATTNLANG_DEVICE static float dot_gradient(const Request& r, const Row&, const Column&, float dot,
                                            float argument, float) {
    return dot * r.p.scale > 0.0f ? argument * r.p.scale : 0.0f;
  }
};

struct FactorGradient : CausalRanges<Factor> {
  static constexpr bool kOut = false;  // an out expression is differentiated apart
};

// softmax(scale * dot + rows[b, q_row] + columns[kv_col] + table[h, clamp(kv_idx - q_idx + 3)]
//         + pairs[h, q_row, kv_col]), causal, with sinks[h]: every reach of a parameter.
struct Biased : Plain {
  static constexpr bool kMask = true, kSink = true;
  struct Arguments {
    float scale;
    View<float, 2> rows, table;
    View<float, 1> columns, sinks;
    View<float, 3> pairs;
  };
  static Arguments arguments(const Call& call) {
    return {.scale = static_cast<float>(call.scale),
            .rows = view<float, 2>(call.tensors[0]),
            .table = view<float, 2>(call.tensors[2]),
            .columns = view<float, 1>(call.tensors[1]),
            .sinks = view<float, 1>(call.tensors[4]),
            .pairs = view<float, 3>(call.tensors[3])};
  }
  using Params = Arguments;
  ATTNLANG_DEVICE static Params params(const Arguments& a) { return a; }
  struct Request {
    const Params& p;
    int64_t b, h, size_Q, size_KV, q_offset, kv_offset, anchor;
  };
  ATTNLANG_DEVICE static Request request(const Params& p, int64_t b, int64_t h, int64_t,
                                         int64_t q_len, int64_t kv_len, int64_t q_offset,
                                         int64_t kv_offset, int64_t anchor) {
    return {p, b, h, q_len, kv_len, q_offset, kv_offset, anchor};
  }
  ATTNLANG_DEVICE static Row row(const Request& r, int32_t q_row) {
    return {within(q_row, r.size_Q), q_row + static_cast<int32_t>(r.q_offset)};
  }
  ATTNLANG_DEVICE static Column column(const Request& r, int32_t kv_col) {
    return {within(kv_col, r.size_KV), kv_col + static_cast<int32_t>(r.kv_offset)};
  }
  ATTNLANG_DEVICE static bool keep(const Request&, const Row& row, const Column& column, float) {
    return column.kv_idx <= row.q_idx;
  }
  ATTNLANG_DEVICE static Verdict tile(const Request& r, int64_t q0, int64_t q1, int64_t k0,
                                      int64_t k1) {
    const Interval q = Interval{q0, q1 - 1} + Interval::point(r.q_offset);
    return Interval{k0, k1 - 1} + Interval::point(r.kv_offset) <= q;
  }
  ATTNLANG_DEVICE static Coverage ranges(const Request&, int64_t, int64_t) {
    return Coverage::unknown();
  }
  ATTNLANG_DEVICE static Coverage query_ranges(const Request&, int64_t, int64_t) {
    return Coverage::unknown();
  }
  ATTNLANG_DEVICE static float score(const Request& r, const Row& row, const Column& column,
                                     float dot) {
    float x = dot * r.p.scale + load(r.p.rows, r.b, row.q_row) + load(r.p.columns, column.kv_col);
    x += load(r.p.table, r.h, column.kv_idx - row.q_idx + 3);
    return kLog2 * (x + load(r.p.pairs, r.h, row.q_row, column.kv_col));
  }
  ATTNLANG_DEVICE static float sink(const Request& r, const Row&) {
    return kLog2 * load(r.p.sinks, r.h);
  }

  static constexpr bool kDropout = false;
  static constexpr int kScalarCount = 0, kTensorCount = 5;
  static constexpr Store kStores[] = {Store::exact, Store::exact, Store::exact, Store::each_request,
                                      Store::exact};
  struct Sums {
    SumView<2> rows;
    SumView<1> columns;
    SumView<2> table;
    SumView<3> pairs;
    SumView<1> sinks;
  };
  template <class At>
  static Sums sums(const Gradients& g, const At& at) {
    return {sum_view<2>(g.tensors[0], at(0)), sum_view<1>(g.tensors[1], at(1)),
            sum_view<2>(g.tensors[2], at(2)), sum_view<3>(g.tensors[3], at(3)),
            sum_view<1>(g.tensors[4], at(4))};
  }
  ATTNLANG_DEVICE static float dot_gradient(const Request& r, const Row&, const Column&, float,
                                            float argument, float) {
    return argument * r.p.scale;
  }
  template <Reach kOf>
  struct OfScore {
    static constexpr Source kSource = Source::argument;
    static constexpr Reach kReach = kOf;
    ATTNLANG_DEVICE static float slope(const Request&, const Row&, const Column&, float) {
      return 1.0f;
    }
  };
  struct Rows : OfScore<Reach::row> {
    ATTNLANG_DEVICE static bool wanted(const Sums& sums) { return sums.rows.wanted(); }
    ATTNLANG_DEVICE static void add(const Request& r, const Row& row, const Sums& sums, float value,
                                    int count) {
      scatter(sums.rows, value, count, r.b, row.q_row);
    }
  };
  struct Columns : OfScore<Reach::column> {
    ATTNLANG_DEVICE static bool wanted(const Sums& sums) { return sums.columns.wanted(); }
    ATTNLANG_DEVICE static void add(const Request&, const Column& column, const Sums& sums,
                                    float value, int count) {
      scatter(sums.columns, value, count, column.kv_col);
    }
  };
  struct Table : OfScore<Reach::element> {
    ATTNLANG_DEVICE static bool wanted(const Sums& sums) { return sums.table.wanted(); }
    ATTNLANG_DEVICE static void add(const Request& r, const Row& row, const Column& column,
                                    const Sums& sums, float value, int count) {
      scatter(sums.table, value, count, r.h, column.kv_idx - row.q_idx + 3);
    }
  };
  struct Pairs : OfScore<Reach::element> {
    ATTNLANG_DEVICE static bool wanted(const Sums& sums) { return sums.pairs.wanted(); }
    ATTNLANG_DEVICE static void add(const Request& r, const Row& row, const Column& column,
                                    const Sums& sums, float value, int count) {
      scatter(sums.pairs, value, count, r.h, row.q_row, column.kv_col);
    }
  };
  struct Sinks {
    static constexpr Source kSource = Source::sink;
    static constexpr Reach kReach = Reach::request;
    ATTNLANG_DEVICE static bool wanted(const Sums& sums) { return sums.sinks.wanted(); }
    ATTNLANG_DEVICE static float slope(const Request&, const Row&) { return 1.0f; }
    ATTNLANG_DEVICE static void add(const Request& r, const Sums& sums, float value) {
      sums.sinks.add(value, r.h);
    }
  };
  using Partials = PartialList<Rows, Columns, Table, Pairs, Sinks>;
};
using BiasedGradient = Biased;

}  // namespace attnlang::cuda
