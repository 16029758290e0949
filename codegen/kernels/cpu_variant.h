// What a CPU kernel asks of the functor that it is instantiated with (docs/cpu-variant.md).
#pragma once

#include <concepts>
#include <cstdint>

#include "attnlang/cpu/gather.h"
#include "attnlang/cpu/integer_math.h"
#include "attnlang/cpu/math.h"
#include "attnlang/cpu/philox.h"
#include "attnlang/cpu/simd.h"
#include "attnlang/host/call.h"
#include "attnlang/host/coverage.h"
#include "attnlang/host/float_interval.h"
#include "attnlang/host/interval_load.h"
#include "kernels/cpu_lines.h"

namespace attnlang::cpu {

template <class V>
concept HasFlags = requires {
  { V::kSoftmax } -> std::convertible_to<bool>;
  { V::kMask } -> std::convertible_to<bool>;
  { V::kColumnMask } -> std::convertible_to<bool>;
  { V::kSink } -> std::convertible_to<bool>;
  { V::kShift } -> std::convertible_to<bool>;
  { V::kFactor } -> std::convertible_to<bool>;
  { V::kRowSum } -> std::convertible_to<bool>;
  { V::kReadsColumns } -> std::convertible_to<bool>;
  { V::kMaskReadsScore } -> std::convertible_to<bool>;
};

// A view reads q, k or v from an entry on; kValueFromKey: the call passes no v; kValueSharesKey: v'
// is a part of k' from kValueStart on.
template <class V>
concept HasVectorFlags = requires {
  { V::kQuery } -> std::convertible_to<bool>;
  { V::kKey } -> std::convertible_to<bool>;
  { V::kValue } -> std::convertible_to<bool>;
  { V::kOut } -> std::convertible_to<bool>;
  { V::kValueFromKey } -> std::convertible_to<bool>;
  { V::kValueSharesKey } -> std::convertible_to<bool>;
  { V::kQueryStart } -> std::convertible_to<int>;
  { V::kKeyStart } -> std::convertible_to<int>;
  { V::kValueStart } -> std::convertible_to<int>;
};

template <class V>
concept HasQuery = !V::kQuery || requires(const typename V::Request& r, const float* x, float* y) {
  V::query(r, int64_t{}, x, y);
};

template <class V>
concept HasKey = !V::kKey || requires(const typename V::Request& r, const float* x, float* y) {
  V::key(r, int64_t{}, x, y);
};

template <class V>
concept HasValue = !V::kValue || requires(const typename V::Request& r, const float* x, float* y) {
  V::value(r, int64_t{}, x, y);
};

template <class V>
concept HasOut = !V::kOut || requires(const typename V::Request& r, const float* x, float* y) {
  V::out(r, int64_t{}, x, float{}, float{}, y);
};

template <class V>
concept HasRequest = requires(const Call& call, const typename V::Params& p, int64_t i) {
  { V::params(call) } -> std::same_as<typename V::Params>;
  { V::request(p, i, i, i, i, i, i, i, i) } -> std::same_as<typename V::Request>;
};

template <class V>
concept HasRow = requires(const typename V::Request& r, I rows) {
  { V::row(r, rows) } -> std::same_as<typename V::Row>;
};

template <class V>
concept HasColumn = requires(const typename V::Request& r, I columns, typename V::ColumnTile& tile,
                             const typename V::Column& column) {
  { V::column(r, columns) } -> std::same_as<typename V::Column>;
  V::store(tile, 0, column);
  { V::broadcast(tile, 0) } -> std::same_as<typename V::Column>;
};

template <class V>
concept HasScore = requires(const typename V::Request& r, const typename V::Row& row,
                            const typename V::Column& column, F dot) {
  { V::score(r, row, column, dot) } -> std::same_as<F>;
};

template <class V>
concept HasWeight =
    V::kSoftmax || requires(const typename V::Request& r, const typename V::Row& row,
                            const typename V::Column& column, F dot) {
      { V::weight(r, row, column, dot) } -> std::same_as<F>;
    };

template <class V>
concept HasFactor =
    !V::kFactor || requires(const typename V::Request& r, const typename V::Row& row,
                            const typename V::Column& column, F dot) {
      { V::factor(r, row, column, dot) } -> std::same_as<F>;
    };

template <class V>
concept HasMask = !V::kMask || requires(const typename V::Request& r, const typename V::Row& row,
                                        const typename V::Column& column, F dot, int64_t i) {
  { V::keep(r, row, column, dot) } -> std::same_as<M>;
  { V::tile(r, i, i, i, i) } -> std::same_as<Verdict>;
  { V::ranges(r, i, i) } -> std::same_as<Coverage>;
};

template <class V>
concept HasColumnMask =
    !V::kColumnMask || requires(const typename V::Request& r, const typename V::Column& column) {
      { V::column_keep(r, column) } -> std::same_as<M>;
    };

template <class V>
concept HasSink = !V::kSink || requires(const typename V::Request& r, const typename V::Row& row) {
  { V::sink(r, row) } -> std::same_as<F>;
};

template <class V>
concept HasShift =
    !V::kShift || requires(const typename V::Request& r, const typename V::Row& row) {
      { V::shift(r, row) } -> std::same_as<F>;
    };

template <class V>
constexpr bool check_variant() {
  static_assert(HasFlags<V>,
                "a Variant says kSoftmax, kMask, kColumnMask, kSink, kShift, kFactor, kRowSum, "
                "kReadsColumns and kMaskReadsScore");
  static_assert(HasRequest<V>, "a Variant has params(Call) and request(Params, b, h, ...)");
  static_assert(HasRow<V>, "a Variant has row(Request, I) -> Row");
  static_assert(HasColumn<V>, "a Variant has column(Request, I), store and broadcast of a tile");
  static_assert(HasScore<V>, "a Variant has score -> F");
  static_assert(HasWeight<V>, "a Variant without kSoftmax has weight -> F");
  static_assert(HasFactor<V>, "a Variant with kFactor has factor -> F");
  static_assert(HasMask<V>,
                "a Variant with kMask has keep -> M, tile -> Verdict, ranges -> Coverage");
  static_assert(HasColumnMask<V>, "a Variant with kColumnMask has column_keep -> M");
  static_assert(HasSink<V>, "a Variant with kSink has sink(Request, Row) -> F");
  static_assert(HasVectorFlags<V>, "a Variant says kQuery, kKey, kValue, kOut and their views");
  static_assert(HasQuery<V>, "a Variant with kQuery has query(Request, q_row, q, result)");
  static_assert(HasKey<V>, "a Variant with kKey has key(Request, kv_col, k, result)");
  static_assert(HasValue<V>, "a Variant with kValue has value(Request, kv_col, v or k, result)");
  static_assert(HasOut<V>, "a Variant with kOut has out(Request, q_row, acc, row_sum, lse, ...)");
  static_assert(!V::kValueSharesKey || (V::kKey && !V::kValue), "v' is a part of a transformed k'");
  static_assert(HasShift<V>, "a Variant with kShift has shift(Request, Row) -> F");
  static_assert(!V::kColumnMask || V::kMask, "column_keep is a conjunct of the mask");
  static_assert(!V::kSink || V::kSoftmax, "a sink belongs to a softmax");
  static_assert(!V::kShift || V::kSoftmax, "a shift belongs to a softmax");
  static_assert(!V::kFactor || V::kSoftmax, "weights without a softmax are one expression");
  return true;
}

// Whether the sum of the final weights is read, and another one than the softmax's.
template <class V>
constexpr bool kWeighted = V::kFactor && V::kRowSum;

// The columns of a block of rows, as far as the closed form tells; without a mask all of them.
template <class V>
Coverage tile_coverage(const typename V::Request& request, int64_t q0, int64_t q1) {
  if constexpr (V::kMask) return V::ranges(request, q0, q1);
  else return Coverage::all();
}

// The verdict of a range of tiles; without a mask everything is kept.
template <class V>
Verdict tile_verdict(const typename V::Request& request, int64_t q0, int64_t q1, int64_t k0,
                     int64_t k1) {
  if constexpr (V::kMask) return V::tile(request, q0, q1, k0, k1);
  else return Verdict::full;
}

}  // namespace attnlang::cpu
