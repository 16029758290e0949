// What a generated unit says of its op: the arguments of the schema, and what each is for.
#pragma once

#include <cstdint>

#include "attnlang/host/call.h"

namespace attnlang::op {

// Python's `//` and `%`, by 0 giving 0, as in the language.
inline int64_t floor_div(int64_t a, int64_t b) {
  if (b == 0) return 0;
  return a / b - static_cast<int64_t>(a % b != 0 && (a < 0) != (b < 0));
}
inline int64_t floor_mod(int64_t a, int64_t b) { return b == 0 ? 0 : a - floor_div(a, b) * b; }

// The sizes of a call, as a spec's own unit sees them (`op_extents.h` fills them): it holds what a
// spec declares and none of the code that reports.
class Extents {
 public:
  int64_t B, HQ, HKV, Q, KV, D;
  int64_t DV;      // the width of v, also where the call passes none
  int64_t out;     // of a row of the result
  int64_t* bound;  // in the order of Variant.sizes

  // Solves extent(tensor, axis) == factor * size + offset; an absent tensor leaves the size as it
  // is.
  virtual void solve(int64_t& size, int32_t tensor, int32_t axis, int64_t factor,
                     int64_t offset) const = 0;
  // Refuses a tensor of another size in this dimension.
  virtual void expect(int32_t tensor, int32_t axis, int64_t size) const = 0;

 protected:
  ~Extents() = default;
};

// What an argument of the schema is for.
enum class Role : int32_t {
  q,
  k,
  v,
  real,
  integer,
  boolean,  // a 0-d parameter as a number
  real_tensor,
  integer_tensor,  // the same as a 0-d tensor, optional
  tensor,
  optional_tensor,  // a tensor parameter
  scale,
  scale_tensor,
  q_offset,
  q_offset_tensor,
  kv_offset,
  kv_offset_tensor,
  kv_lens,
  seed,
  seed_tensor,
  kv_indices,
  kv_block,
  return_lse,
  return_max,
  wide_out,
  q_indptr,  // of a packed call alone, as the next
  kv_indptr,
  page_indptr,
  page_indices,
  k_scale,
  v_scale,
  part,
  schedule,
  split_tokens,
  workers,  // of the op that makes schedules
};

constexpr bool is_tensor(Role role) {
  switch (role) {
    case Role::q:
    case Role::k:
    case Role::v:
    case Role::real_tensor:
    case Role::integer_tensor:
    case Role::tensor:
    case Role::optional_tensor:
    case Role::scale_tensor:
    case Role::q_offset_tensor:
    case Role::kv_offset_tensor:
    case Role::kv_lens:
    case Role::seed_tensor:
    case Role::kv_indices:
    case Role::q_indptr:
    case Role::kv_indptr:
    case Role::page_indptr:
    case Role::page_indices:
    case Role::k_scale:
    case Role::v_scale:
    case Role::schedule:
      return true;
    default:
      return false;
  }
}

constexpr bool is_optional(Role role) {
  switch (role) {
    case Role::q:
    case Role::k:
    case Role::v:
    case Role::real:
    case Role::integer:
    case Role::boolean:
    case Role::tensor:
    case Role::kv_offset:
    case Role::kv_block:
    case Role::return_lse:
    case Role::return_max:
    case Role::wide_out:
    case Role::q_indptr:
    case Role::part:
    case Role::workers:
    case Role::split_tokens:
      return false;
    default:
      return true;
  }
}

// What the others of a call are compared with.
constexpr bool comes_first(Role role) {
  switch (role) {
    case Role::q:
    case Role::q_indptr:
    case Role::kv_indptr:
    case Role::page_indptr:
    case Role::page_indices:
      return true;
    default:
      return false;
  }
}

struct Argument {
  const char* name;
  Role role;
  int32_t index;  // of the scalar or tensor parameter
};

enum class TensorKind : int32_t { real, integer, boolean };

// `row_axis` is the one axis `Q` or `KV` of a tensor. A packed call passes a tensor that has an
// axis `B` too without that one, the rows of all requests first, or by pages [pages, page, the
// other axes]; another one is for all requests.
struct TensorParam {
  TensorKind kind;
  int32_t rank;
  PackedAxis::Rows rows;
  int32_t batch_axis, row_axis;  // -1: none
  bool packs;                    // whether a packed call can pass it
};

// Everything about an op that its generated unit knows; arrays have a spare element where empty.
struct Spec {
  const char* name;
  const char* schema;
  const char* tiles_schema;
  const char* packed_schema;
  const char* schedule_schema;
  const char* api_schema;
  const Argument* arguments;
  int32_t argument_count;
  const Argument* packed_arguments;  // the last two are of the op that makes schedules
  int32_t packed_argument_count;     // without those
  int32_t scalar_count;
  const TensorParam* tensors;
  const char* const* tensor_names;
  int32_t tensor_count;
  int32_t size_count;
  bool has_dropout;                // a call needs a seed
  void (*bind)(Extents& extents);  // solves the bound sizes and compares the declared shapes
};

}  // namespace attnlang::op
