// The requests of a packed call, whose rows lie one after another: which of them a block works on,
// and where their rows are.
//
// Offsets lie in the GPU's memory and are read there. A grid is as large as shapes alone allow:
// tiles of all requests are numbered so that a request's first number follows from its first row,
// and numbers that no tile has are left at once. Whatever the offsets hold, no row outside the
// call's tensors is touched.
#pragma once

#include <cstdint>

#include "attnlang/device/ptx.cuh"
#include "attnlang/host/call.h"
#include "attnlang/host/order.h"
#include "attnlang/host/target.h"
#include "attnlang/host/tensor_view.h"
#include "kernels/cuda_problem.cuh"

namespace attnlang::cuda {

struct RowSpan {
  int32_t begin, count;

  // No more rows than these.
  ATTNLANG_HD void limit(int64_t rows) {
    count = static_cast<int32_t>(bounded<int64_t>(rows, 0, count));
  }
};

// The rows of request b: of queries, of keys, and of tensors over KV, which beside pages have no
// others than these.
struct RequestRows {
  int32_t b;
  RowSpan queries, keys, columns;
};

// Of the rows of all requests those of one, along `axis`.
template <class T, int kRank>
ATTNLANG_HD void take_rows(View<T, kRank>& view, int axis, const RowSpan& rows) {
  if (view.data == nullptr) return;
  const int64_t begin = least<int64_t>(rows.begin, view.size[axis]);
  view.data += begin * view.stride[axis];
  view.size[axis] = least<int64_t>(rows.count, view.size[axis] - begin);
}

// `stride[0]` would count requests.
template <class T>
ATTNLANG_HD void take_rows(VectorRows<T>& vectors, const RowSpan& rows) {
  if (vectors.data == nullptr) return;
  vectors.data += rows.begin * vectors.stride[2];
  vectors.stride[0] = 0;
}

class Requests {
 public:
  explicit Requests(const Call& call)
      : q_indptr_(call.packed->q_indptr),
        kv_indptr_(call.packed->is_paged() ? call.packed->page_indptr : call.packed->kv_indptr),
        kv_lens_(call.kv_lens),
        starts_(call.packed->is_paged() ? call.packed->kv_indptr : PerRequest{}),
        count_(static_cast<int32_t>(call.packed->requests)),
        queries_(static_cast<int32_t>(call.q.size[2])),
        keys_(call.k.size[0] == 0 ? 0 : static_cast<int32_t>(key_rows(call))),
        page_size_(call.packed->is_paged() ? static_cast<int32_t>(call.packed->page_size) : 0) {}

  ATTNLANG_HD int count() const { return count_; }

  // Has the tables of the first requests brought near, one after another of which is read soon. All
  // threads of a block call it.
  ATTNLANG_DEVICE void fetch() const {
    constexpr int kLines = 8;
    const int table = static_cast<int>(threadIdx.x) / kLines;
    const int line = static_cast<int>(threadIdx.x) % kLines;
    if (table == 0) fetch(q_indptr_, line);
    if (table == 1) fetch(kv_indptr_, line);
    if (table == 2) fetch(kv_lens_, line);
  }

  // Of a paged call `keys` begin where they would if pages lay in the order of their numbers.
  ATTNLANG_DEVICE RequestRows rows(int b) const {
    RequestRows rows{.b = b,
                     .queries = span(queries_starts(), b),
                     .keys = span(keys_starts(), b),
                     .columns = {}};
    if (page_size_ != 0) rows.keys.limit(kv_lens_[b]);
    rows.columns = rows.keys;
    if (starts_.data != nullptr) rows.columns.begin = static_cast<int32_t>(starts_[b]);
    return rows;
  }

  // A request, and one of its rows; b negative: none.
  struct Place {
    int32_t b, row;
  };
  // Tiles of `tile` rows of all requests have numbers below this.
  ATTNLANG_HD int64_t query_tiles(int tile) const {
    return count_ == 0 ? 0 : queries_ / tile + count_;
  }
  int64_t key_tiles(int tile) const { return count_ == 0 ? 0 : keys_ / tile + count_; }
  // The first row of a tile.
  ATTNLANG_DEVICE Place query_tile(int number, int tile) const {
    return place(queries_starts(), number, tile);
  }
  ATTNLANG_DEVICE Place key_tile(int number, int tile) const {
    return place(keys_starts(), number, tile);
  }
  // A row of all of them.
  ATTNLANG_DEVICE Place query(int row) const {
    const Starts starts = queries_starts();
    const int b = last(row, [&](int i) { return starts[i]; });
    const RowSpan rows = span(starts, b);
    const bool inside = row >= rows.begin && row - rows.begin < rows.count;
    return {.b = inside ? b : -1, .row = row - rows.begin};
  }

 private:
  ATTNLANG_DEVICE void fetch(const PerRequest& table, int line) const {
    constexpr int kLineBytes = 128;
    const int64_t entry = table.stride * (table.dtype == DType::i32 ? 4 : 8);
    if (table.data == nullptr || int64_t{line} * kLineBytes >= entry * count_) return;
    prefetch(static_cast<const char*>(table.data) + line * kLineBytes);
  }

  // The first row of each request, and the end.
  struct Starts {
    const PerRequest& indptr;
    int64_t unit, rows;  // rows of what `indptr` counts; of all requests

    ATTNLANG_DEVICE int64_t operator[](int b) const {
      return bounded<int64_t>(indptr[b], 0, rows / unit) * unit;
    }
  };
  ATTNLANG_DEVICE Starts queries_starts() const { return {q_indptr_, 1, queries_}; }
  ATTNLANG_DEVICE Starts keys_starts() const {
    return {kv_indptr_, page_size_ == 0 ? 1 : page_size_, keys_};
  }

  static ATTNLANG_DEVICE RowSpan span(const Starts& starts, int b) {
    const int64_t begin = starts[b], end = greatest(begin, starts[b + 1]);
    return {.begin = static_cast<int32_t>(begin), .count = static_cast<int32_t>(end - begin)};
  }

  // A request has no more tiles than lie between the numbers of its first row and the next one's.
  ATTNLANG_DEVICE Place place(const Starts& starts, int number, int tile) const {
    const int b = last(number, [&](int i) { return starts[i] / tile + i; });
    const RowSpan own = span(starts, b);
    const int64_t row = int64_t{number - (own.begin / tile + b)} * tile;
    return {.b = row >= 0 && row < own.count ? b : -1, .row = static_cast<int32_t>(row)};
  }

  // The last request whose number is not above `number`.
  template <class NumberOf>
  ATTNLANG_DEVICE int last(int number, const NumberOf& number_of) const {
    int low = 0, high = count_;
    while (high - low > 1) {
      const int middle = low + (high - low) / 2;
      if (number_of(middle) <= number) low = middle;
      else high = middle;
    }
    return low;
  }

  PerRequest q_indptr_, kv_indptr_, kv_lens_;
  PerRequest starts_;  // of tensors over KV, beside pages
  int32_t count_, queries_, keys_;
  int32_t page_size_;  // 0: there are no pages
};

// Rows in pages stay: they are looked up.
template <class Variant, class Element>
ATTNLANG_DEVICE void take_rows(Problem<Element>& problem, const RequestRows& rows) {
  problem.queries = rows.queries.count;
  problem.keys = rows.keys.count;
  const bool paged = problem.pages.size != 0;
  take_rows(problem.q, rows.queries);
  if (!paged || Variant::kKey) take_rows(problem.k, rows.keys);
  if (!paged || Variant::kValue || Variant::kValueSharesKey) take_rows(problem.v, rows.keys);
  problem.pages.begin = rows.keys.begin;
  take_rows(problem.out, rows.queries);
  take_rows(problem.wide_out, rows.queries);
  if (problem.lse.data != nullptr) problem.lse.data += rows.queries.begin * problem.lse.stride[2];
}

// The rows of request b; `arguments`: of the whole call.
template <class Variant>
ATTNLANG_DEVICE RequestRows rows_of(const Requests& requests,
                                    const typename Variant::Arguments& arguments, int b) {
  RequestRows rows = requests.rows(b);
  Variant::limit_rows(rows, arguments);
  rows.columns.count = rows.keys.count;
  return rows;
}

}  // namespace attnlang::cuda
