// What a packed call passes, brought to the form of a `Call`: rows of all requests one after
// another, as an axis of tensors that have the rank of dense ones.
//
//   attnlang::<name>_packed   q [sum Q, HQ, D], k [sum KV, HKV, D], v [sum KV, HKV, DV],
//                             q_indptr and kv_indptr int[B + 1], a tensor with `B` and one of `Q`,
//                             `KV` as [rows, the other axes]; or instead of kv_indptr
//                             page_indptr int[B + 1], page_indices int[n] and kv_lens int[B], k
//                             [pages, page, HKV, D], v likewise, and a tensor with `KV` by rows or
//                             by pages [pages, page, the other axes]
//   ->                        out [sum Q, HQ, DV], lse [sum Q, HQ], max [B, HQ]
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "attnlang/host/call.h"
#include "attnlang/host/op_extents.h"
#include "attnlang/host/op_spec.h"

namespace attnlang::op {

// [rows, heads, d] as [1, heads, rows, d].
inline Tensor packed_rows(const Tensor& t, const char* name) {
  if (t.rank != 3) refuse_argument(name, "expected 3 dimensions [rows, heads, head dim]");
  return {.data = t.data,
          .dtype = t.dtype,
          .rank = 4,
          .size = {1, t.size[1], t.size[0], t.size[2]},
          .stride = {0, t.stride[1], t.stride[0], t.stride[2]}};
}

// [pages, page, heads, d] as [pages, heads, page, d].
inline Tensor paged_rows(const Tensor& t, const char* name) {
  if (t.rank != 4) refuse_argument(name, "expected 4 dimensions [pages, page, heads, head dim]");
  if (t.size[1] < 1) refuse_argument(name, "expected pages of 1 slot or more");
  Tensor rows = t;
  std::swap(rows.size[1], rows.size[2]);
  std::swap(rows.stride[1], rows.stride[2]);
  return rows;
}

// A tensor parameter [rows, the other axes] with the axes that the spec declares.
inline Tensor unfolded(const Tensor& passed, const TensorParam& param, int64_t requests) {
  Tensor tensor = passed;
  tensor.rank = param.rank;
  for (int32_t axis = 0, from = 1; axis < param.rank; ++axis) {
    if (axis == param.batch_axis) {
      tensor.size[axis] = requests, tensor.stride[axis] = 0;
    } else {
      const int32_t at = axis == param.row_axis ? 0 : from++;
      tensor.size[axis] = passed.size[at], tensor.stride[axis] = passed.stride[at];
    }
  }
  return tensor;
}

// A tensor parameter [pages, page, the other axes] with the axes that the spec declares.
inline Tensor paged_tensor(const Tensor& passed, const TensorParam& param, const char* name,
                           const Call& call, PackedAxis& paged) {
  if (passed.size[0] != call.k.size[0] || passed.size[1] != call.k.size[2]) {
    refuse_argument(name, "expected pages like those of k");
  }
  Tensor rows = passed;
  rows.rank -= 1;
  std::copy(passed.size + 1, passed.size + passed.rank, rows.size);
  std::copy(passed.stride + 1, passed.stride + passed.rank, rows.stride);
  paged = {.rows = PackedAxis::pages, .axis = param.row_axis, .page_stride = passed.stride[0]};
  return unfolded(rows, param, call.packed->requests);
}

// Page numbers int[n].
inline PerRequest page_numbers_of(const Tensor& t, const char* name, int64_t& count) {
  if (t.rank != 1 || (t.dtype != DType::i32 && t.dtype != DType::i64)) {
    refuse_argument(name, "expected int32 or int64 page numbers");
  }
  count = t.size[0];
  return {.data = t.data, .dtype = t.dtype, .stride = t.stride[0], .value = 0};
}

// A number for all key/value heads, or one a head.
inline Tensor scales_of(const Tensor& t, const char* name, int64_t heads) {
  if (t.dtype != DType::f32 || t.rank > 1 || (t.rank == 1 && t.size[0] != heads)) {
    refuse_argument(name, "expected float32, one number or one a key/value head");
  }
  Tensor scales = t;
  scales.rank = 1, scales.size[0] = heads, scales.stride[0] = t.rank == 0 ? 0 : t.stride[0];
  return scales;
}

// Offsets int[B + 1]; their values are compared with the rows later.
inline PerRequest offsets_of(const Tensor& t, const char* name, int64_t& requests) {
  if (t.rank != 1 || t.size[0] < 1 || (t.dtype != DType::i32 && t.dtype != DType::i64)) {
    refuse_argument(name, "expected int32 or int64 offsets [B + 1]");
  }
  requests = t.size[0] - 1;
  return {.data = t.data, .dtype = t.dtype, .stride = t.stride[0], .value = 0};
}

// The longest request of offsets from 0 to `rows`, or to fewer where there may be `spare` ones.
// Refuses others.
inline int64_t expect_offsets(const PerRequest& indptr, int64_t requests, int64_t rows,
                              const char* name, bool spare = false) {
  int64_t longest = 0, end = indptr[0];
  if (end != 0) refuse_argument(name, "expected 0 first, found " + std::to_string(end));
  for (int64_t b = 0; b < requests; ++b) {
    const int64_t length = indptr[b + 1] - end;
    if (length < 0) refuse_argument(name, "decreases after request " + std::to_string(b));
    longest = std::max(longest, length);
    end += length;
  }
  if (spare ? end > rows : end != rows) {
    refuse_argument(name, "expected " + std::to_string(rows) + " rows at the end, found " +
                              std::to_string(end));
  }
  return longest;
}

// Compares lengths and page numbers with the pages that there are. Returns the longest request,
// and where the rows of each one would begin: packed tensors beside the pages have them so.
inline int64_t expect_pages(Packed& packed, const Call& call, int64_t count,
                            std::vector<int64_t>& starts) {
  const PerRequest &indptr = packed.page_indptr, &lens = call.kv_lens;
  if (indptr[0] != 0) refuse_argument("page_indptr", "expected 0 first");
  int64_t longest = 0;
  starts.assign(1, 0);
  for (int64_t b = 0; b < packed.requests; ++b) {
    const std::string request = " of request " + std::to_string(b);
    const int64_t first = indptr[b], end = indptr[b + 1], length = lens[b];
    if (end < first || end > count) {
      refuse_argument("page_indptr",
                      "not within the " + std::to_string(count) + " numbers" + request);
    }
    if (length < 0 || length > (end - first) * packed.page_size) {
      refuse_argument("kv_lens", std::to_string(length) + request + ", whose pages have " +
                                     std::to_string((end - first) * packed.page_size) + " slots");
    }
    for (int64_t i = 0; i * packed.page_size < length; ++i) {
      const int64_t page = packed.page_indices[first + i];
      if (page < 0 || page >= call.k.size[0]) {
        refuse_argument("page_indices", "page " + std::to_string(page) + request + ", of " +
                                            std::to_string(call.k.size[0]));
      }
    }
    longest = std::max(longest, length);
    starts.push_back(starts.back() + length);
  }
  packed.kv_indptr = {.data = starts.data(), .dtype = DType::i64, .stride = 1, .value = 0};
  return longest;
}

// Where a parameter's rows are; `rows` and `longest` count those of all and of one request.
inline PackedAxis expect_rows(const Tensor& tensor, const TensorParam& param, const char* name,
                              int64_t rows, int64_t longest) {
  if (!param.packs) refuse_argument(name, "a packed call cannot pass a tensor of this shape");
  constexpr PackedAxis kShared{.rows = PackedAxis::shared, .axis = 0, .page_stride = 0};
  if (param.row_axis < 0) return kShared;
  const int64_t size = tensor.size[param.row_axis];
  if (param.batch_axis < 0) {
    if (size < longest) {
      refuse_argument(
          name, "expected one of " + std::to_string(longest) + " or more, for the longest request");
    }
    return kShared;
  }
  if (size != rows) refuse_argument(name, "expected " + std::to_string(rows) + " rows");
  return {.rows = param.rows, .axis = param.row_axis, .page_stride = 0};
}

}  // namespace attnlang::op
