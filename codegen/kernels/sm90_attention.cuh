// A CUDA unit on wgmma, of sm_90a: describes tensors to the copy engine and enqueues the skeleton.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/device/tma.cuh"
#include "attnlang/host/call.h"
#include "kernels/cuda_attention.cuh"
#include "kernels/cuda_problem.cuh"
#include "kernels/sm90_forward.cuh"

namespace attnlang::cuda {

namespace sm90 {

// Boxes of one panel of `box_rows` rows. False: the copy engine cannot take the tensor.
template <class Element>
bool make_map(TensorMap* map, const VectorRows<const Element>& rows, int64_t batch, int64_t heads,
              int64_t count, int width, int box_rows) {
  if (!rows.vectorised || count == 0) return false;
  const uint64_t sizes[] = {static_cast<uint64_t>(width), static_cast<uint64_t>(count),
                            static_cast<uint64_t>(heads), static_cast<uint64_t>(batch)};
  // The stride of a dimension of one entry is never followed, but must be a legal one.
  const auto bytes = [&](int dimension, int64_t entries) {
    const int64_t stride = rows.stride[dimension] * int64_t{sizeof(Element)};
    return static_cast<uint64_t>(entries == 1 ? kVectorBytes : stride);
  };
  const uint64_t strides[] = {bytes(2, count), bytes(1, heads), bytes(0, batch)};
  const uint32_t box[] = {kPanelColumns, static_cast<uint32_t>(box_rows), 1, 1};
  return make_tensor_map(map, dtype_of<Element>(), rows.data, 4, sizes, strides, box) == nullptr;
}

template <class Variant, class Element, int kD, int kDV, class Tiles>
class Forward {
  using L = LayoutOf<Variant, kD, kDV, Tiles>;

 public:
  static constexpr bool kLargeShared = true;

  static const char* run(const Call& call, Workspace& workspace, const Problem<Element>* problem) {
    const int64_t batch = call.q.size[0], heads = call.q.size[1], queries = call.q.size[2];
    const int64_t kv_heads = call.k.size[1], keys = call.k.size[2];
    const int64_t tiles = (queries + L::kQueryTile - 1) / L::kQueryTile;
    const int64_t items = batch * heads * tiles;
    auto* counter = static_cast<int32_t*>(workspace.take(sizeof(int32_t)));
    if (problem == nullptr) return nullptr;
    if (items > INT32_MAX / 2) return "more than 2^30 tiles of queries";
    const int64_t kv_bytes = keys * (kD + kDV) * int64_t{sizeof(Element)};
    const int64_t ctas = std::min<int64_t>(items, multiprocessors());
    Queue queue{.order = TileOrder::of(batch, heads, kv_heads, tiles, kv_bytes),
                .items = static_cast<int32_t>(items),
                .heads = problem->heads,
                .counter = nullptr};
    Maps maps{};
    const bool copied = make_maps(maps, *problem);
    if (items > ctas) {
      queue.counter = counter;
      const char* wrong = fill_bytes(counter, 0, sizeof(int32_t), call.stream);
      if (wrong != nullptr) return wrong;
    }
    return launch(forward<Variant, Element, kD, kDV, Tiles>, dim3(static_cast<unsigned>(ctas)),
                  L::kThreads, L::kBytes, call.stream, maps, !copied, *problem, queue,
                  Variant::arguments(call));
  }

 private:
  static bool make_out_map(TensorMap& map, const Problem<Element>& p) {
    VectorRows<const Element> rows{
        .data = p.out.data, .stride = {}, .vectorised = p.out.vectorised};
    std::copy_n(p.out.stride, 4, rows.stride);
    return make_map(&map, rows, p.batch, p.heads, p.queries, kDV, kWarpRows);
  }
  static bool make_maps(Maps& maps, const Problem<Element>& p) {
    maps.stores = p.wide_out.data == nullptr && make_out_map(maps.out, p);
    return make_map(&maps.q, p.q, p.batch, p.heads, p.queries, kD, L::kQueryTile) &&
           make_map(&maps.k, p.k, p.batch, p.kv_heads, p.keys, kD, L::kKeyTile) &&
           make_map(&maps.v, p.v, p.batch, p.kv_heads, p.keys, kDV, L::kKeyTile);
  }
};

}  // namespace sm90

// `Tiles`: kQueryTile rows, 64 a consumer warpgroup, and kKeyTile keys of a tile, kStages of these.
template <class Variant, class Element, int kD, int kDV, class Tiles>
using Sm90Attention =
    Attention<Variant, Element, kD, kDV, sm90::Forward<Variant, Element, kD, kDV, Tiles>>;

// Bytes that `sm90_run` needs in the call's workspace.
template <class Variant, class Element, int kD, int kDV, class Tiles>
int64_t sm90_workspace(const Call& call) {
  return Sm90Attention<Variant, Element, kD, kDV, Tiles>::workspace(call);
}

// 0, or -1 and a message in `error` (kErrorSize).
template <class Variant, class Element, int kD, int kDV, class Tiles>
int sm90_run(const Call& call, char* error) {
  return Sm90Attention<Variant, Element, kD, kDV, Tiles>::run(call, error);
}

}  // namespace attnlang::cuda
