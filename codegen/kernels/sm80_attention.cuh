// A CUDA unit on mma.sync, of sm_80 and later: the shape of its skeleton for many query rows.
#pragma once

#include <cstdint>

#include "attnlang/host/call.h"
#include "kernels/cuda_attention.cuh"
#include "kernels/cuda_items.cuh"
#include "kernels/sm80_forward.cuh"

namespace attnlang::cuda {

// `Tiles`: kQueryTile rows and kKeyTile keys of a tile, kStages of them in flight, kWarps of a
// block, kBlocks of these on a multiprocessor at least.
template <class Tiles, int kDV>
constexpr Sm80Shape forward_shape() {
  constexpr int kValueWarps = (kDV + 255) / 256;
  constexpr int kRowWarps = Tiles::kWarps / kValueWarps;
  static_assert(Tiles::kWarps % kValueWarps == 0, "value warps share out the entries of v");
  static_assert(Tiles::kQueryTile % (16 * kRowWarps) == 0, "a warp's rows are whole tiles of 16");
  return {.row_warps = kRowWarps,
          .key_warps = 1,
          .value_warps = kValueWarps,
          .row_tiles = Tiles::kQueryTile / (16 * kRowWarps),
          .key_tile = Tiles::kKeyTile,
          .stages = Tiles::kStages,
          .blocks = Tiles::kBlocks,
          .packed = false};
}

template <class Variant, class Element, int kD, int kDV, class Tiles>
struct Sm80ForwardDoor {
  static constexpr bool kLargeShared = false;

  static const char* run(const Call& call, Workspace& workspace, const Problem<Element>* problem) {
    using Kernel = Sm80Forward<Variant, Element, kD, kDV, forward_shape<Tiles, kDV>()>;
    const int64_t batch = call.q.size[0], heads = call.q.size[1], queries = call.q.size[2];
    const int64_t kv_heads = call.k.size[1], keys = call.k.size[2];
    const int64_t tiles = (queries + Kernel::kRows - 1) / Kernel::kRows;
    const int64_t items = batch * heads * tiles;
    // Cutting keys costs a merge of whole tiles: only where half of the machine would stand idle.
    constexpr int64_t kAtOnce = int64_t{Kernel::kBlocks} * kProcessors;
    const int count = 2 * items <= kAtOnce ? parts_of(items, keys / kLeastOfMany, kAtOnce) : 1;
    const Parts parts = take_parts<kDV>(workspace, items, Kernel::kRows, count);
    if (problem == nullptr) return nullptr;
    const int64_t kv_bytes = keys * (kD + kDV) * static_cast<int64_t>(sizeof(Element));
    const Work<Variant, Element> work{
        .problem = *problem,
        .arguments = Variant::arguments(call),
        .order = TileOrder::of(batch, heads, kv_heads, tiles, kv_bytes),
        .unit = 1,
        .chunks = 1,
        .parts = parts,
        .selection = {}};
    return launch_items<Kernel>(work, items, call.stream);
  }
};

template <class Variant, class Element, int kD, int kDV, class Tiles>
using Sm80Attention =
    Attention<Variant, Element, kD, kDV, Sm80ForwardDoor<Variant, Element, kD, kDV, Tiles>>;

// Bytes that `sm80_run` needs in the call's workspace.
template <class Variant, class Element, int kD, int kDV, class Tiles>
int64_t sm80_workspace(const Call& call) {
  return Sm80Attention<Variant, Element, kD, kDV, Tiles>::workspace(call);
}

// 0, or -1 and a message in `error` (kErrorSize).
template <class Variant, class Element, int kD, int kDV, class Tiles>
int sm80_run(const Call& call, char* error) {
  return Sm80Attention<Variant, Element, kD, kDV, Tiles>::run(call, error);
}

}  // namespace attnlang::cuda
