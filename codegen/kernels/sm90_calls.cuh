// Whose call an item of a Hopper kernel is of: the one call of a dense launch. Packed launches have
// another class in its place, with the call of the item's request (sm90_packed.cuh).
//
// Scout, loaders and consumers each have a copy, and go through the items in the same order:
// `leave` says that its owner is done with one.
#pragma once

#include <cstdint>

#include "attnlang/host/target.h"
#include "kernels/cuda_problem.cuh"
#include "kernels/sm90_layout.cuh"

namespace attnlang::cuda::sm90 {

template <class Variant, class Element>
class OneCall {
 public:
  using Params = typename Variant::Params;
  static constexpr bool kPacked = false;

  ATTNLANG_DEVICE OneCall(const Problem<Element>& problem, const Params& params)
      : problem_(problem), params_(params) {}

  ATTNLANG_DEVICE const Problem<Element>& problem() const { return problem_; }
  ATTNLANG_DEVICE const Params& params() const { return params_; }
  ATTNLANG_DEVICE typename Variant::Request request(const Item& item) const {
    return problem().template request<Variant>(params(), item.b, item.h, item.q0);
  }
  // Where the item's request begins in the tensors that the copy engine knows.
  ATTNLANG_DEVICE int first_query() const { return 0; }
  ATTNLANG_DEVICE int first_key() const { return 0; }
  ATTNLANG_DEVICE int batch(const Item& item) const { return item.b; }
  // Whether tensors have rows past a request's `kv_len` keys.
  ATTNLANG_DEVICE bool has_rows_past(int kv_len) const { return kv_len < problem_.keys; }

  ATTNLANG_DEVICE void leave() {}
  ATTNLANG_DEVICE void release() {}

 private:
  const Problem<Element>& problem_;
  const Params& params_;
};

}  // namespace attnlang::cuda::sm90
