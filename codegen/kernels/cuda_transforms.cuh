// Rows of q', k' and v' that the spec's transforms make, rounded to the element type: one linear
// pass into the workspace before attention, a warp a row. What the products then read is strided
// rows like any other's.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_problem.cuh"

namespace attnlang::cuda {

constexpr int kTransformWarps = 8;

// A workspace is cut into pieces of whole 256 bytes, which all kernels' alignments divide.
class Workspace {
 public:
  explicit Workspace(void* base) : base_(static_cast<char*>(base)) {}

  // The next piece; with a null base only the size counts.
  void* take(int64_t bytes) {
    char* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (bytes + 255) / 256 * 256;
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

// How rows are made: `kInput` entries as passed, `kOutput` transformed.
template <int kWidth, class Element>
ATTNLANG_DEVICE void load_floats(float* row, const Element* source, int64_t inner, int lane) {
  for (int d = lane; d < kWidth; d += kWarp) row[d] = to_float32(source[d * inner]);
}

template <int kWidth, class Element>
ATTNLANG_DEVICE void store_floats(Element* target, const float* row, int lane) {
  for (int d = lane; d < kWidth; d += kWarp) target[d] = from_float32<Element>(row[d]);
}

// What a transform pass reads: the call's tensors, from their first entries on.
template <class Variant, class Element, int kD, int kDV>
struct Passed {
  using Width = Widths<Variant, kD, kDV>;
  static constexpr bool kKeyOrValue = Variant::kKey || Variant::kValue;
  static constexpr int kWidest = std::max(std::max(Width::kHead, Width::kValue), std::max(kD, kDV));
  // Of a warp: a row, what it becomes, and a program's scratch.
  static constexpr int kFloats = 2 * kWidest + kProgramScratch<Variant>;
  static constexpr int kSharedBytes = kTransformWarps * kFloats * static_cast<int>(sizeof(float));

  Problem<Element> problem;
  typename Variant::Arguments arguments;
  VectorRows<const Element> q, k, v;
  VectorRows<Element> new_q, new_k, new_v;
};

template <class Variant, class Element, int kD, int kDV>
__global__ void __launch_bounds__(kTransformWarps* kWarp)
    transform_queries(const __grid_constant__ Passed<Variant, Element, kD, kDV> passed) {
  using Pass = Passed<Variant, Element, kD, kDV>;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t index = int64_t{blockIdx.x} * kTransformWarps + warp_index();
  const Problem<Element>& problem = passed.problem;
  if (index >= int64_t{problem.batch} * problem.heads * problem.queries) return;
  const int query = static_cast<int>(index % problem.queries);
  const int head = static_cast<int>(index / problem.queries);
  const int b = head / problem.heads, h = head % problem.heads;
  float* row = dynamic_shared<float>() + warp_index() * Pass::kFloats;
  const typename Variant::Params params = Variant::params(passed.arguments);
  const auto request = problem.template request<Variant>(params, b, h, query);
  load_floats<Pass::Width::kHead>(row, passed.q.row(b, h, query), passed.q.stride[3], lane);
  __syncwarp();
  Variant::query(request, query, row, row + Pass::kWidest);
  __syncwarp();
  store_floats<kD>(passed.new_q.row(b, h, query), row + Pass::kWidest, lane);
}

// Keys and values of columns that exist; the others' rows of the workspace are never read.
template <class Variant, class Element, int kD, int kDV>
__global__ void __launch_bounds__(kTransformWarps* kWarp)
    transform_keys(const __grid_constant__ Passed<Variant, Element, kD, kDV> passed) {
  using Pass = Passed<Variant, Element, kD, kDV>;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t index = int64_t{blockIdx.x} * kTransformWarps + warp_index();
  const Problem<Element>& problem = passed.problem;
  if (index >= int64_t{problem.batch} * problem.kv_heads * problem.keys) return;
  const int column = static_cast<int>(index % problem.keys);
  const int head = static_cast<int>(index / problem.keys);
  const int b = head / problem.kv_heads, h_kv = head % problem.kv_heads;
  if (column >= problem.kv_len(b)) return;
  float* row = dynamic_shared<float>() + warp_index() * Pass::kFloats;
  float* result = row + Pass::kWidest;
  const typename Variant::Params params = Variant::params(passed.arguments);
  const auto request = problem.template request<Variant>(params, b, h_kv * problem.group(), 0);
  if constexpr (Variant::kKey || Variant::kValueFromKey) {
    load_floats<Pass::Width::kHead>(row, passed.k.row(b, h_kv, column), passed.k.stride[3], lane);
    __syncwarp();
  }
  if constexpr (Variant::kKey) {
    Variant::key(request, column, row, result);
    __syncwarp();
    store_floats<kD>(passed.new_k.row(b, h_kv, column), result, lane);
    __syncwarp();
  }
  if constexpr (Variant::kValue) {
    if constexpr (!Variant::kValueFromKey) {
      load_floats<Pass::Width::kValue>(row, passed.v.row(b, h_kv, column), passed.v.stride[3],
                                       lane);
      __syncwarp();
    }
    Variant::value(request, column, row, result);
    __syncwarp();
    store_floats<kDV>(passed.new_v.row(b, h_kv, column), result, lane);
  }
}

// Takes room for what the spec transforms, and, unless only the room is counted, makes it and lets
// `problem` see it. Null, or what is wrong.
template <class Variant, class Element, int kD, int kDV>
const char* transform(const Call& call, Workspace& workspace, Problem<Element>* problem) {
  const int64_t heads = call.q.size[1], queries = call.q.size[2];
  const int64_t kv_heads = call.k.size[1], keys = call.k.size[2];
  const int64_t q_rows = call.q.size[0] * heads * queries;
  const int64_t kv_rows = call.q.size[0] * kv_heads * keys;
  const auto take = [&](bool wanted, int64_t rows, int64_t width) {
    return static_cast<Element*>(wanted ? workspace.take(rows * width * sizeof(Element)) : nullptr);
  };
  Element* q = take(Variant::kQuery, q_rows, kD);
  Element* k = take(Variant::kKey, kv_rows, kD);
  Element* v = take(Variant::kValue, kv_rows, kDV);
  if constexpr (Variant::kQuery || Variant::kKey || Variant::kValue) {
    if (problem == nullptr) return nullptr;
    using Pass = Passed<Variant, Element, kD, kDV>;
    const Pass passed = {.problem = *problem,
                         .arguments = Variant::arguments(call),
                         .q = VectorRows<const Element>::of(call.q, 0),
                         .k = VectorRows<const Element>::of(call.k, 0),
                         .v = VectorRows<const Element>::of(call.v, 0),
                         .new_q = VectorRows<Element>::packed(q, heads, queries, kD),
                         .new_k = VectorRows<Element>::packed(k, kv_heads, keys, kD),
                         .new_v = VectorRows<Element>::packed(v, kv_heads, keys, kDV)};
    const auto enqueue = [&](auto kernel, int64_t rows) -> const char* {
      if (rows == 0) return nullptr;
      const auto blocks = static_cast<unsigned>((rows + kTransformWarps - 1) / kTransformWarps);
      return launch(kernel, dim3(blocks), kTransformWarps * kWarp, Pass::kSharedBytes, call.stream,
                    passed);
    };
    if constexpr (Variant::kQuery) {
      const char* wrong = enqueue(transform_queries<Variant, Element, kD, kDV>, q_rows);
      if (wrong != nullptr) return wrong;
      problem->q = VectorRows<const Element>::packed(q, heads, queries, kD);
    }
    if constexpr (Pass::kKeyOrValue) {
      const char* wrong = enqueue(transform_keys<Variant, Element, kD, kDV>, kv_rows);
      if (wrong != nullptr) return wrong;
      if constexpr (Variant::kKey) {
        problem->k = VectorRows<const Element>::packed(k, kv_heads, keys, kD);
      }
      if constexpr (Variant::kValue) {
        problem->v = VectorRows<const Element>::packed(v, kv_heads, keys, kDV);
      }
    }
    if constexpr (Variant::kValueSharesKey) {
      problem->v = VectorRows<const Element>::packed(k, kv_heads, keys, kD);
      problem->v.data += Variant::kValueStart;
      problem->v.vectorised = problem->v.vectorised && Variant::kValueStart % 8 == 0;
    }
  }
  return nullptr;
}

}  // namespace attnlang::cuda
