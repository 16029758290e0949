// What a packed call passes, brought to the form of a `Call`: rows of all requests one after
// another, as an axis of tensors that have the rank of dense ones.
//
//   attnlang::<name>_packed   q [sum Q, HQ, D], k [sum KV, HKV, D], v [sum KV, HKV, DV],
//                             q_indptr and kv_indptr int[B + 1], a tensor with `B` and one of `Q`,
//                             `KV` as [rows, the other axes]
//   ->                        out [sum Q, HQ, DV], lse [sum Q, HQ], max [B, HQ]
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

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

// Offsets int[B + 1]; their values are compared with the rows later.
inline PerRequest offsets_of(const Tensor& t, const char* name, int64_t& requests) {
  if (t.rank != 1 || t.size[0] < 1 || (t.dtype != DType::i32 && t.dtype != DType::i64)) {
    refuse_argument(name, "expected int32 or int64 offsets [B + 1]");
  }
  requests = t.size[0] - 1;
  return {.data = t.data, .dtype = t.dtype, .stride = t.stride[0], .value = 0};
}

// The longest request of offsets from 0 to `rows`. Refuses others.
inline int64_t expect_offsets(const PerRequest& indptr, int64_t requests, int64_t rows,
                              const char* name) {
  int64_t longest = 0, end = indptr[0];
  if (end != 0) refuse_argument(name, "expected 0 first, found " + std::to_string(end));
  for (int64_t b = 0; b < requests; ++b) {
    const int64_t length = indptr[b + 1] - end;
    if (length < 0) refuse_argument(name, "decreases after request " + std::to_string(b));
    longest = std::max(longest, length);
    end += length;
  }
  if (end != rows) {
    refuse_argument(name, "expected " + std::to_string(rows) + " rows at the end, found " +
                              std::to_string(end));
  }
  return longest;
}

// Where a parameter's rows are; `rows` and `longest` count those of all and of one request.
inline PackedAxis expect_rows(const Tensor& tensor, const TensorParam& param, const char* name,
                              int64_t rows, int64_t longest) {
  if (!param.packs) refuse_argument(name, "a packed call cannot pass a tensor of this shape");
  if (param.row_axis < 0) return {.rows = PackedAxis::shared, .axis = 0};
  const int64_t size = tensor.size[param.row_axis];
  if (param.batch_axis < 0) {
    if (size < longest) {
      refuse_argument(
          name, "expected one of " + std::to_string(longest) + " or more, for the longest request");
    }
    return {.rows = PackedAxis::shared, .axis = 0};
  }
  if (size != rows) refuse_argument(name, "expected " + std::to_string(rows) + " rows");
  return {.rows = param.rows, .axis = param.row_axis};
}

}  // namespace attnlang::op
