// Rows of q', k' and v' that the spec's transforms make, rounded to the element type: one linear
// pass into the workspace before attention, a warp a row. What the products then read is strided
// rows like any other's. Keys that no row may see are not transformed.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_problem.cuh"

namespace attnlang::cuda {

constexpr int kTransformWarps = 8;
constexpr int kTransformTile = 64;

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

// Rows into shared memory, as float32, by a warp.
template <int kWidth, class Element>
ATTNLANG_DEVICE void load_floats(float* row, const Element* source, int64_t inner, int lane) {
  for (int d = lane; d < kWidth; d += kWarp) row[d] = to_float32(source[d * inner]);
}

template <class Element, int kWidth>
ATTNLANG_DEVICE void load_converted(float* row, const char* source, int64_t inner,
                                    const Stored& stored, float scale, int lane) {
  for (int d = lane; d < kWidth; d += kWarp) {
    row[d] = converted_entry<Element>(source, d * inner, stored, scale);
  }
}

template <int kWidth, class Element>
ATTNLANG_DEVICE void store_floats(Element* target, const float* row, int lane) {
  for (int d = lane; d < kWidth; d += kWarp) target[d] = from_float32<Element>(row[d]);
}

template <int kWidth, class Element>
ATTNLANG_DEVICE void store_zeros(Element* target, int lane) {
  for (int d = lane; d < kWidth; d += kWarp) target[d] = Element{};
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

// q' of one row by one warp.
template <class Variant, class Element, int kD, int kDV>
ATTNLANG_DEVICE void transform_query(const Passed<Variant, Element, kD, kDV>& passed, int b, int h,
                                     int query) {
  using Pass = Passed<Variant, Element, kD, kDV>;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float* row = dynamic_shared<float>() + warp_index() * Pass::kFloats;
  const typename Variant::Params params = Variant::params(passed.arguments);
  const auto request = passed.problem.template request<Variant>(params, b, h, query);
  load_floats<Pass::Width::kHead>(row, passed.q.row(b, h, query), passed.q.stride[3], lane);
  __syncwarp();
  Variant::query(request, query, row, row + Pass::kWidest);
  __syncwarp();
  store_floats<kD>(passed.new_q.row(b, h, query), row + Pass::kWidest, lane);
}

template <class Variant, class Element, int kD, int kDV>
__global__ void __launch_bounds__(kTransformWarps* kWarp)
    transform_queries(const __grid_constant__ Passed<Variant, Element, kD, kDV> passed) {
  const int64_t index = int64_t{blockIdx.x} * kTransformWarps + warp_index();
  const Problem<Element>& problem = passed.problem;
  if (index >= int64_t{problem.batch} * problem.heads * problem.queries) return;
  const int query = static_cast<int>(index % problem.queries);
  const int head = static_cast<int>(index / problem.queries);
  transform_query(passed, head / problem.heads, head % problem.heads, query);
}

// Whether some row of the group's heads may see columns [k0, k1); a head a lane.
template <class Variant, class Element>
ATTNLANG_DEVICE bool is_visited(const Problem<Element>& problem,
                                const typename Variant::Params& params, const Extent& extent,
                                int h_kv, int k0, int k1, int lane) {
  if constexpr (!Variant::kMask) {
    return true;
  } else {
    const int first = h_kv * problem.group(), last = first + problem.group();
    bool visited = false;
    for (int h = first + lane; h < last; h += kWarp) {
      const auto request = problem.template request<Variant>(params, extent, h, 0);
      visited = visited || !is_empty(Variant::tile(request, 0, problem.queries, k0, k1));
    }
    return __any_sync(~0u, visited) != 0;
  }
}

// k' and v' of one column by one warp. `load.operator()<kKeys, kWidth>(row, b, h_kv, column,
// lane)` brings the row of k (of v) that is at a column.
template <class Variant, class Element, int kD, int kDV, class Load>
ATTNLANG_DEVICE void transform_column(const Passed<Variant, Element, kD, kDV>& passed,
                                      const typename Variant::Request& request, int b, int h_kv,
                                      int column, const Load& load, float* row, int lane) {
  using Pass = Passed<Variant, Element, kD, kDV>;
  float* result = row + Pass::kWidest;
  if constexpr (Variant::kKey || Variant::kValueFromKey) {
    load.template operator()<true, Pass::Width::kHead>(row, b, h_kv, column, lane);
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
      load.template operator()<false, Pass::Width::kValue>(row, b, h_kv, column, lane);
      __syncwarp();
    }
    Variant::value(request, column, row, result);
    __syncwarp();
    store_floats<kDV>(passed.new_v.row(b, h_kv, column), result, lane);
    __syncwarp();
  }
}

// A block makes kTransformTile columns of a head from k0 on. Where no row may see them they become
// zeros: the verdict of fewer rows may be the looser one, and finds them, masked. Columns that the
// request does not have are never read.
template <class Variant, class Element, int kD, int kDV, class Load>
ATTNLANG_DEVICE void transform_tile(const Passed<Variant, Element, kD, kDV>& passed, int b,
                                    int h_kv, int k0, const Load& load) {
  const Problem<Element>& problem = passed.problem;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const Extent extent = problem.extent(b);
  const int k1 = k0 + kTransformTile < extent.keys ? k0 + kTransformTile : extent.keys;
  if (k0 >= k1) return;
  const typename Variant::Params params = Variant::params(passed.arguments);
  const bool visited = is_visited<Variant>(problem, params, extent, h_kv, k0, k1, lane);
  const auto request = problem.template request<Variant>(params, extent, h_kv * problem.group(), 0);
  float* row = dynamic_shared<float>() + warp_index() * Passed<Variant, Element, kD, kDV>::kFloats;
  for (int column = k0 + warp_index(); column < k1; column += kTransformWarps) {
    if (visited) {
      transform_column(passed, request, b, h_kv, column, load, row, lane);
      continue;
    }
    if constexpr (Variant::kKey) store_zeros<kD>(passed.new_k.row(b, h_kv, column), lane);
    if constexpr (Variant::kValue) store_zeros<kDV>(passed.new_v.row(b, h_kv, column), lane);
  }
}

template <class Variant, class Element, int kD, int kDV>
__global__ void __launch_bounds__(kTransformWarps* kWarp)
    transform_keys(const __grid_constant__ Passed<Variant, Element, kD, kDV> passed) {
  const int tiles = (passed.problem.keys + kTransformTile - 1) / kTransformTile;
  const int head = static_cast<int>(blockIdx.x) / tiles, kv_heads = passed.problem.kv_heads;
  const int tile = static_cast<int>(blockIdx.x) % tiles;
  const auto load = [&]<bool kKeys, int kWidth>(float* row, int b, int h, int i, int lane) {
    const VectorRows<const Element>& vectors = kKeys ? passed.k : passed.v;
    load_floats<kWidth>(row, vectors.row(b, h, i), vectors.stride[3], lane);
  };
  transform_tile(passed, head / kv_heads, head % kv_heads, tile * kTransformTile, load);
}

// The passes over the rows of a dense call.
template <class Variant, class Element, int kD, int kDV>
struct DensePasses {
  using Pass = Passed<Variant, Element, kD, kDV>;

  static const char* queries(const Call& call, const Pass& pass) {
    const int64_t rows = call.q.size[0] * call.q.size[1] * call.q.size[2];
    return start(call, transform_queries<Variant, Element, kD, kDV>, pass,
                 (rows + kTransformWarps - 1) / kTransformWarps);
  }
  static const char* keys(const Call& call, const Pass& pass) {
    const int64_t tiles = (call.k.size[2] + kTransformTile - 1) / kTransformTile;
    return start(call, transform_keys<Variant, Element, kD, kDV>, pass,
                 call.q.size[0] * call.k.size[1] * tiles);
  }

 private:
  template <class Kernel>
  static const char* start(const Call& call, Kernel kernel, const Pass& pass, int64_t blocks) {
    if (blocks == 0) return nullptr;
    return launch(kernel, dim3(static_cast<unsigned>(blocks)), kTransformWarps * kWarp,
                  Pass::kSharedBytes, call.stream, pass);
  }
};

// Takes room for what the spec transforms, and, unless only the room is counted, makes it and lets
// `problem` see it. Null, or what is wrong. `passes`: as DensePasses.
template <class Variant, class Element, int kD, int kDV, class Passes>
const char* transform(const Call& call, Workspace& workspace, Problem<Element>* problem,
                      const Passes& passes) {
  const int64_t heads = call.q.size[1], queries = call.q.size[2];
  const int64_t kv_heads = call.k.size[1], keys = key_rows(call);
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
    if constexpr (Variant::kQuery) {
      const char* wrong = passes.queries(call, passed);
      if (wrong != nullptr) return wrong;
      problem->q = VectorRows<const Element>::packed(q, heads, queries, kD);
    }
    if constexpr (Pass::kKeyOrValue) {
      const char* wrong = passes.keys(call, passed);
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
