// Hand-written functors with their derivatives, as the emitter would print them, for kernel tests.
#pragma once

#include "kernels/cpu_backward_attention.h"
#include "variants.h"

namespace attnlang::cpu {

// What functors without parameters to differentiate share.
struct NoSums {};
template <class Base>
struct NoPartials : Base {
  static constexpr bool kDropout = false;
  static constexpr int kScalarCount = 0, kTensorCount = 0;
  static constexpr bool kOwned[] = {false};
  using Sums = NoSums;
  using Partials = PartialList<>;
  static Sums no_sums() { return {}; }
  template <class At>
  static Sums sums(const Gradients&, const At&) {
    return {};
  }
  static Coverage query_ranges(const typename Base::Request&, int64_t, int64_t) {
    return Coverage::unknown();
  }
  static F dot_gradient(const typename Base::Request& r, const typename Base::Row&,
                        const typename Base::Column&, F, F argument, F) {
    return argument * r.p.scale;
  }
};

struct PlainGradient : NoPartials<Plain> {};
struct PaddingGradient : NoPartials<Padding> {};

struct SinkGradient : NoPartials<CausalWindowSink> {
  static constexpr int kScalarCount = 1, kTensorCount = 1;
  static constexpr bool kOwned[] = {true};
  struct Sums {
    SumView<1> sink;
  };
  struct Sink {
    static constexpr Source kSource = Source::sink;
    static constexpr Reach kReach = Reach::request;
    static bool wanted(const Sums& sums) { return sums.sink.wanted(); }
    static F slope(const Request&, const Row&) { return splat_f(1.0f); }
    static void add(const Request& r, const Sums& sums, float value) { sums.sink.add(value, r.h); }
  };
  using Partials = PartialList<Sink>;
  static Sums no_sums() { return {}; }
  template <class At>
  static Sums sums(const Gradients& g, const At& at) {
    return {sum_view<1>(g.tensors[0], at(1))};
  }
};

// The cap is a 0-d parameter, the slopes have one entry a head.
struct CapAlibiGradient : NoPartials<CapAlibi> {
  static constexpr int kScalarCount = 1, kTensorCount = 1;
  static constexpr bool kOwned[] = {true};
  struct Sums {
    SumView<0> cap;
    SumView<1> slopes;
  };
  static float cap(const Request& r) { return float(r.p.call.scalars[0].real); }
  static F dot_gradient(const Request& r, const Row&, const Column&, F dot, F argument, F) {
    const F t = tanh(dot * (r.p.scale / cap(r)));
    return argument * r.p.scale * (1.0f - t * t);
  }
  struct Cap {
    static constexpr Source kSource = Source::argument;
    static constexpr Reach kReach = Reach::request;
    static bool wanted(const Sums& sums) { return sums.cap.wanted(); }
    static F slope(const Request& r, const Row&, const Column&, F dot) {
      const F x = dot * (r.p.scale / cap(r)), t = tanh(x);
      return t - x * (1.0f - t * t);
    }
    static void add(const Request&, const Sums& sums, float value) { sums.cap.add(value); }
  };
  struct Slope {
    static constexpr Source kSource = Source::argument;
    static constexpr Reach kReach = Reach::request;
    static bool wanted(const Sums& sums) { return sums.slopes.wanted(); }
    static F slope(const Request&, const Row& row, const Column& column, F) {
      return to_float(column.kv_idx - row.q_idx);
    }
    static void add(const Request& r, const Sums& sums, float value) {
      sums.slopes.add(value, r.h);
    }
  };
  using Partials = PartialList<Cap, Slope>;
  static Sums no_sums() { return {}; }
  template <class At>
  static Sums sums(const Gradients& g, const At& at) {
    return {sum_view<0>(g.scalars[0], at(0)), sum_view<1>(g.tensors[0], at(1))};
  }
};

// sigmoid(scale * dot + rows[b, q_row] + columns[kv_col] + table[h, clamp(kv_idx - q_idx + 3)]),
// not normalised, causal: tensors read by the row, by the column, by both.
struct Biases : CapAlibi {
  static constexpr bool kSoftmax = false;
  static F biased(const Request& r, const Row& row, const Column& column, F dot) {
    const Tensor* t = r.p.call.tensors;
    F x = dot * r.p.scale;
    x += load(view<float, 2>(t[0]), r.b, row.q_row);
    x += load(view<float, 1>(t[1]), column.kv_col);
    return x + load(view<float, 2>(t[2]), r.h, column.kv_idx - row.q_idx + 3);
  }
  static F score(const Request& r, const Row&, const Column&, F dot) { return dot * r.p.scale; }
  static F weight(const Request& r, const Row& row, const Column& column, F dot) {
    return sigmoid(biased(r, row, column, dot));
  }
};

struct BiasesGradient : NoPartials<Biases> {
  static constexpr int kTensorCount = 3;
  static constexpr bool kOwned[] = {false, false, true};
  struct Sums {
    SumView<2> rows;
    SumView<1> columns;
    SumView<2> table;
  };
  static F sigmoid_slope(const Request& r, const Row& row, const Column& column, F dot) {
    const F s = weight(r, row, column, dot);
    return s * (1.0f - s);
  }
  static F dot_gradient(const Request& r, const Row& row, const Column& column, F dot, F argument,
                        F) {
    return argument * r.p.scale * sigmoid_slope(r, row, column, dot);
  }
  struct Element {
    static constexpr Source kSource = Source::argument;
    static F slope(const Request& r, const Row& row, const Column& column, F dot) {
      return sigmoid_slope(r, row, column, dot);
    }
  };
  struct Rows : Element {
    static constexpr Reach kReach = Reach::row;
    static bool wanted(const Sums& sums) { return sums.rows.wanted(); }
    static void add(const Request& r, const Row& row, const Sums& sums, F values, int count) {
      scatter(sums.rows, values, count, r.b, row.q_row);
    }
  };
  struct Columns : Element {
    static constexpr Reach kReach = Reach::column;
    static bool wanted(const Sums& sums) { return sums.columns.wanted(); }
    static void add(const Request&, const Column& column, const Sums& sums, F values, int count) {
      scatter(sums.columns, values, count, column.kv_col);
    }
  };
  struct Table : Element {
    static constexpr Reach kReach = Reach::element;
    static bool wanted(const Sums& sums) { return sums.table.wanted(); }
    static void add(const Request& r, const Row& row, const Column& column, const Sums& sums,
                    F values, int count) {
      scatter(sums.table, values, count, r.h, column.kv_idx - row.q_idx + 3);
    }
  };
  using Partials = PartialList<Rows, Columns, Table>;
  static Sums no_sums() { return {}; }
  template <class At>
  static Sums sums(const Gradients& g, const At& at) {
    return {sum_view<2>(g.tensors[0], at(0)), sum_view<1>(g.tensors[1], at(1)),
            sum_view<2>(g.tensors[2], at(2))};
  }
};

}  // namespace attnlang::cpu
