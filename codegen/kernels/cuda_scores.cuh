// A functor over a thread's fragment: dots to scores or weights, columns made once for both rows.
//
// The fragment's layout is that of device/softmax.cuh. ColumnOf: (n, c) -> the logical column of
// values 8 n + c of the thread; `end`: columns from it on do not exist, whatever the tile holds
// there. Tiles that are not masked are kept whole: no mask arithmetic.
#pragma once

#include "attnlang/device/softmax.cuh"
#include "attnlang/host/target.h"

namespace attnlang::cuda {

// Whether the sum of the final weights is read, and another one than the softmax's.
template <class V>
constexpr bool kWeighted = V::kFactor && V::kRowSum;

// The two rows of a thread's fragment. kPacked: of two heads, maybe; else they share a request.
template <class Variant, bool kPacked>
struct ThreadRows {
  using Request = typename Variant::Request;
  using Row = typename Variant::Row;

  Request requests[kPacked ? 2 : 1];
  Row rows[2];

  ATTNLANG_DEVICE const Request& request(int row) const { return requests[kPacked ? row : 0]; }
  // Calls visit(row, request, row values, column values) for both rows of one column.
  template <class Visit>
  ATTNLANG_DEVICE void for_column(int column, const Visit& visit) const {
    const typename Variant::Column first = Variant::column(requests[0], column);
    visit(0, requests[0], rows[0], first);
    if constexpr (kPacked) visit(1, requests[1], rows[1], Variant::column(requests[1], column));
    else visit(1, requests[0], rows[1], first);
  }
};

template <class Variant, bool kMasked, class Column>
ATTNLANG_DEVICE bool is_kept(const typename Variant::Request& request,
                             const typename Variant::Row& row, const Column& column, int kv_col,
                             int end, float dot) {
  if constexpr (!kMasked) return true;
  if constexpr (Variant::kMask) return kv_col < end && Variant::keep(request, row, column, dot);
  else return kv_col < end;
}

// Under softmax: dots to scores, -inf where masked; each row's largest; factors, 0 beside a weight
// of 0 whatever they are there.
template <class Variant, bool kMasked, class Rows, class ColumnOf, int kValues>
ATTNLANG_DEVICE void score_fragment(const Rows& thread_rows, const ColumnOf& column_of, int end,
                                    float (&dots)[kValues], [[maybe_unused]] float* factors,
                                    float (&top)[2]) {
#pragma unroll
  for (int n = 0; n < kValues / 4; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int kv_col = column_of(n, c);
      thread_rows.for_column(
          kv_col, [&](int i, const auto& request, const auto& row, const auto& column) {
            const int at = fragment_index(n, i, c);
            const float dot = dots[at];
            float score = Variant::score(request, row, column, dot);
            if (!is_kept<Variant, kMasked>(request, row, column, kv_col, end, dot))
              score = -kInfinity;
            if constexpr (Variant::kFactor) {
              const float factor = Variant::factor(request, row, column, dot);
              factors[at] = score == -kInfinity ? 0.0f : factor;
            }
            dots[at] = score;
            top[i] = fmaxf(top[i], score);
          });
    }
  }
}

// Without softmax: dots to weights, 0 where masked, and their sums; where the call asks for the
// largest score, `state.max` rises.
template <class Variant, bool kMasked, class Rows, class ColumnOf, int kValues>
ATTNLANG_DEVICE void weigh_fragment(const Rows& thread_rows, const ColumnOf& column_of, int end,
                                    bool wants_max, float (&dots)[kValues], RowState (&state)[2]) {
#pragma unroll
  for (int n = 0; n < kValues / 4; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int kv_col = column_of(n, c);
      thread_rows.for_column(
          kv_col, [&](int i, const auto& request, const auto& row, const auto& column) {
            const int at = fragment_index(n, i, c);
            const float dot = dots[at];
            const bool kept = is_kept<Variant, kMasked>(request, row, column, kv_col, end, dot);
            const float weight = Variant::weight(request, row, column, dot);
            dots[at] = kept ? weight : 0.0f;
            state[i].sum += dots[at];
            if (wants_max && kept) {
              state[i].max = max_or_nan(state[i].max, Variant::score(request, row, column, dot));
            }
          });
    }
  }
}

}  // namespace attnlang::cuda
