// Attention of few query rows: the rows of a group's heads share 16-row tiles, warps share out the
// keys, and enough parts of the keys run at once to keep memory busy. It reads as fast as memory
// does, so every architecture runs it with mma.sync. Selected columns (`kv_indices`) are the same
// work over gathered rows, an item a query row.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "kernels/cuda_items.cuh"
#include "kernels/cuda_selection.cuh"
#include "kernels/cuda_transforms.cuh"
#include "kernels/sm80_forward.cuh"

namespace attnlang::cuda {

constexpr int kDecodeQueries = 16;  // more rows fill the tiles of the other skeletons well enough

// Heads may share a tile's rows: no column is hidden from one and not from another of them. A
// functor that does not say whether its column mask knows heads is taken to.
template <class V>
constexpr bool kSharesRows = [] {
  if constexpr (requires { V::kHeadColumnMask; }) return !V::kHeadColumnMask;
  else return !V::kColumnMask;
}();

// Eight warps of a multiprocessor have some 192 KiB of keys and values on their way between them,
// in one block or in two; 128 KiB where a block may not have 100. One: fewer parts of the keys keep
// memory as busy, and wait for their merge. Two: one works while the other starts or ends an item.
// `entry`: bytes of one that is stored. Of narrow ones twelve warps, in three blocks: they have
// more to do for each byte.
template <int kD, int kDV>
constexpr Sm80Shape decode_shape(bool large, int blocks, int entry = 2) {
  constexpr bool kWide = kD + kDV > 320;
  large = large && !kWide;
  if (large && entry == 1 && kD + kDV <= 256) blocks = 3;
  Sm80Shape shape{.row_warps = 1,
                  .key_warps = kWide                  ? 2
                               : large && blocks == 1 ? 8
                                                      : 4,
                  .value_warps = (kDV + 255) / 256,
                  .row_tiles = 1,
                  .key_tile = 0,
                  .stages = 2,
                  .blocks = large ? blocks : 2,
                  .packed = true};
  // A warp takes twice as many narrow keys at once: it has more to do for each.
  shape.key_tile = (kWide || entry == 2 ? 16 : 32) * shape.key_warps;
  const int bytes = (kWide ? 2 : entry) * (kD + kDV) * shape.key_tile;
  shape.stages = std::clamp((large ? (192 << 10) / blocks : 64 << 10) / bytes, 2, 6);
  return shape;
}

// kLargeShared: a block may have 200 KiB and more.
template <class Variant, class Element, int kD, int kDV, bool kLargeShared>
class Decode {
  using Kernel = Sm80Forward<Variant, Element, kD, kDV, decode_shape<kD, kDV>(kLargeShared, 1)>;
  using Launch = Work<Variant, Element>;

 public:
  static bool takes(const Call& call) {
    return call.q.size[2] <= kDecodeQueries || call.kv_indices.data != nullptr;
  }

  // Takes room, and unless `problem` is null enqueues. Null, or what is wrong.
  static const char* run(const Call& call, Workspace& workspace, const Problem<Element>* problem) {
    const int64_t group = call.q.size[1] / call.k.size[1], unit = kSharesRows<Variant> ? group : 1;
    const bool selects = call.kv_indices.data != nullptr;
    const int64_t queries = call.q.size[2];
    const int64_t rows = selects ? unit : unit * queries;
    const int64_t chunks = (rows + Kernel::kRows - 1) / Kernel::kRows;
    const int64_t units = call.q.size[0] * call.q.size[1] / unit * (selects ? queries : 1);
    const int64_t columns =
        selects ? Selection::most_blocks(call) * Selection::block_size(call) : call.k.size[2];
    const int64_t items = units * chunks;
    void* lists = workspace.take(Selection::bytes(call));
    const Parts parts = take_parts<kDV>(
        workspace, items, Kernel::kRows,
        parts_of(items, columns / kLeastOfFew, int64_t{Kernel::kBlocks} * kProcessors));
    if (problem == nullptr) return nullptr;
    Launch work{.problem = *problem,
                .arguments = Variant::arguments(call),
                .order = {},
                .unit = static_cast<int32_t>(unit),
                .chunks = static_cast<int32_t>(chunks),
                .parts = parts,
                .selection = {}};
    if (selects) {
      const char* wrong = start_selection(call, *problem, lists, work.selection);
      if (wrong != nullptr) return wrong;
    }
    return launch_items<Kernel>(work, items, call.stream);
  }
};

}  // namespace attnlang::cuda
