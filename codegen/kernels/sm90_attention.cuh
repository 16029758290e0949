// The entry points of a Hopper unit: checks the call, describes its tensors to the copy engine,
// enqueues the kernel. Nothing synchronises or allocates.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/device/tma.cuh"
#include "attnlang/host/call.h"
#include "kernels/call_check.h"
#include "kernels/cuda_problem.cuh"
#include "kernels/sm90_forward.cuh"

namespace attnlang::cuda {

namespace sm90 {

constexpr int64_t kCounterBytes = 256;

// Boxes of one panel of `box_rows` rows. Null, or why the copy engine cannot take the tensor.
template <class Element>
const char* make_map(TensorMap* map, const VectorRows<const Element>& rows, int64_t batch,
                     int64_t heads, int64_t count, int width, int box_rows) {
  if (!rows.vectorised) return "rows are not aligned";
  if (batch == 0 || heads == 0 || count == 0) return "the tensor is empty";
  const uint64_t sizes[] = {static_cast<uint64_t>(width), static_cast<uint64_t>(count),
                            static_cast<uint64_t>(heads), static_cast<uint64_t>(batch)};
  // The stride of a dimension of one entry is never followed, but must be a legal one.
  const auto bytes = [&](int dimension, int64_t entries) {
    const int64_t stride = rows.stride[dimension] * int64_t{sizeof(Element)};
    return static_cast<uint64_t>(entries == 1 ? kVectorBytes : stride);
  };
  const uint64_t strides[] = {bytes(2, count), bytes(1, heads), bytes(0, batch)};
  const uint32_t box[] = {kPanelColumns, static_cast<uint32_t>(box_rows), 1, 1};
  return make_tensor_map(map, dtype_of<Element>(), rows.data, 4, sizes, strides, box);
}

template <class Variant, class Element, int kD, int kDV, class Tiles>
const char* make_maps(Maps* maps, const Problem<Element>& problem) {
  const auto &q = problem.q, &k = problem.k, &v = problem.v;
  const char* error = make_map(&maps->q, q, problem.batch, problem.heads, problem.queries, kD,
                               Tiles::kQueryTile);
  if (error == nullptr) {
    error = make_map(&maps->k, k, problem.batch, problem.kv_heads, problem.keys, kD,
                     Tiles::kKeyTile);
  }
  if (error == nullptr) {
    error = make_map(&maps->v, v, problem.batch, problem.kv_heads, problem.keys, kDV,
                     Tiles::kKeyTile);
  }
  return error;
}

}  // namespace sm90

// Bytes of call.workspace that sm90_run needs.
template <class Variant, class Element, int kD, int kDV, class Tiles>
int64_t sm90_workspace(const Call&) {
  return sm90::kCounterBytes;
}

// 0, or -1 and a message in `error` (kErrorSize).
template <class Variant, class Element, int kD, int kDV, class Tiles>
int sm90_run(const Call& call, char* error) {
  using L = sm90::Layout<kD, kDV, Tiles>;
  error[0] = '\0';
  if (check_call<Variant, Element, kD, kDV>(call, error) != 0) return -1;
  const Problem<Element> problem = problem_of<Variant, Element>(call);
  const int64_t tiles = (int64_t{problem.queries} + L::kQueryTile - 1) / L::kQueryTile;
  const int64_t items = int64_t{problem.batch} * problem.heads * tiles;
  if (items == 0) return 0;
  if (items > INT32_MAX / 2) return fail(error, "more than 2^30 tiles of queries");

  const int64_t kv_bytes = int64_t{problem.keys} * (kD + kDV) * int64_t{sizeof(Element)};
  const int64_t ctas = std::min<int64_t>(items, multiprocessors());
  sm90::Work work{.order = TileOrder::of(problem.batch, problem.heads, problem.kv_heads, tiles,
                                         kv_bytes),
                  .items = static_cast<int32_t>(items),
                  .heads = problem.heads,
                  .group = problem.group(),
                  .counter = nullptr};
  sm90::Maps maps{};
  const bool gather = sm90::make_maps<Variant, Element, kD, kDV, Tiles>(&maps, problem) != nullptr;
  if (!gather && items > ctas) {
    work.counter = static_cast<int32_t*>(call.workspace);
    if (const char* text = fill_bytes(work.counter, 0, sizeof(int32_t), call.stream)) {
      return fail(error, "%s", text);
    }
  }
  const auto kernel = gather ? sm90::forward<Variant, Element, kD, kDV, Tiles, true>
                             : sm90::forward<Variant, Element, kD, kDV, Tiles, false>;
  const char* text = launch(kernel, dim3(static_cast<unsigned>(ctas)), L::kThreads, L::kBytes,
                            call.stream, maps, problem, work, Variant::arguments(call));
  return text == nullptr ? 0 : fail(error, "%s", text);
}

}  // namespace attnlang::cuda
