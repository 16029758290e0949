// The two sides of a backward on wgmma, of sm_90a: describes tensors to the copy engine, copies
// those that it cannot take, and enqueues the skeleton. What adds up parameters' gradients goes to
// the kernels for mma.sync.
#pragma once

#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/device/tma.cuh"
#include "attnlang/host/call.h"
#include "attnlang/host/gradients.h"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_transforms.cuh"
#include "kernels/sm80_backward_sides.cuh"
#include "kernels/sm90_attention.cuh"
#include "kernels/sm90_backward.cuh"

namespace attnlang::cuda {

namespace sm90 {

constexpr int kPackWarps = 8;

// Rows of any strides, side by side: a warp a row.
template <class Element, int kWidth>
__global__ void __launch_bounds__(kPackWarps* kWarp)
    pack_rows(const VectorRows<const Element> from, const VectorRows<Element> to, int heads,
              int rows, int64_t count) {
  const int64_t index = int64_t{blockIdx.x} * kPackWarps + warp_index();
  if (index >= count) return;
  const int64_t head = index / rows, row = index % rows;
  const Element* source = from.row(head / heads, head % heads, row);
  Element* target = to.row(head / heads, head % heads, row);
  for (int e = static_cast<int>(threadIdx.x) % kWarp; e < kWidth; e += kWarp) {
    target[e] = source[e * from.stride[3]];
  }
}

// Rows as the copy engine reads them.
template <class Element>
struct MappedRows {
  VectorRows<const Element> rows;
  int64_t batch, heads, count;
  int width;

  // A dimension that is not there has no tiles, and its map is not looked at.
  bool map(TensorMap* to, int box_rows) const {
    return batch * heads * count == 0 || make_map(to, rows, batch, heads, count, width, box_rows);
  }
};

}  // namespace sm90

// `Tiles`: those of Sm80Sides, and of blocks on wgmma kHopperKeyRows keys and tiles of
// kHopperQueryTile queries, in kHopperQueryStages; kHopperQueryRows, kHopperKeyTile and
// kHopperKeyStages the other way.
template <class Variant, class Element, int kD, int kDV, class Tiles>
class Sm90Sides {
  using MmaSync = Sm80Sides<Variant, Element, kD, kDV, Tiles>;
  using Mapped = sm90::MappedRows<Element>;
  static constexpr sm90::BackwardBlock kKeyBlock{Tiles::kHopperKeyRows, Tiles::kHopperQueryTile,
                                                 Tiles::kHopperQueryStages};
  static constexpr sm90::BackwardBlock kQueryBlock{Tiles::kHopperQueryRows, Tiles::kHopperKeyTile,
                                                   Tiles::kHopperKeyStages};
  static_assert(kAnchorRows % kKeyBlock.tile == 0 && kAnchorRows % kQueryBlock.rows == 0,
                "rows of a tile have one anchor");

 public:
  using Work = BackwardWork<Variant, Element>;

  static const char* run(const Call& call, const Gradients& gradients, Workspace& workspace,
                         const Work* work, bool sums) {
    if constexpr (Variant::Partials::kOfElements) {
      if (sums) return MmaSync::run(call, gradients, workspace, work, sums);
    }
    const Problem<Element> problem =
        work == nullptr ? problem_of<Variant, Element>(call) : work->problem;
    Mapped q{problem.q, problem.batch, problem.heads, problem.queries, kD};
    Mapped k{problem.k, problem.batch, problem.kv_heads, problem.keys, kD};
    Mapped v{problem.v, problem.batch, problem.kv_heads, problem.keys, kDV};
    const bool enqueues = work != nullptr;
    const char* wrong = pack<kD>(call, workspace, enqueues, q);
    if (wrong == nullptr) wrong = pack<kD>(call, workspace, enqueues, k);
    if (wrong == nullptr) wrong = pack<kDV>(call, workspace, enqueues, v);
    if (wrong != nullptr || !enqueues) return wrong;
    const Mapped grads{work->out_grad, problem.batch, problem.heads, problem.queries, kDV};
    wrong = start<Side::keys, kKeyBlock>(call, *work, k, v, q, grads);
    return wrong == nullptr ? start<Side::queries, kQueryBlock>(call, *work, q, grads, k, v)
                            : wrong;
  }

 private:
  // Rows that the copy engine cannot take are copied into the workspace.
  template <int kWidth>
  static const char* pack(const Call& call, Workspace& workspace, bool enqueues, Mapped& mapped) {
    TensorMap map;
    if (mapped.map(&map, sm90::kConsumerRows)) return nullptr;
    const int64_t count = mapped.batch * mapped.heads * mapped.count;
    auto* data = static_cast<Element*>(
        workspace.take(count * kWidth * static_cast<int64_t>(sizeof(Element))));
    if (!enqueues) return nullptr;
    const auto rows = VectorRows<Element>::packed(data, mapped.heads, mapped.count, kWidth);
    const dim3 grid(static_cast<unsigned>((count + sm90::kPackWarps - 1) / sm90::kPackWarps));
    const char* wrong = launch(sm90::pack_rows<Element, kWidth>, grid, sm90::kPackWarps * kWarp, 0,
                               call.stream, mapped.rows, rows, static_cast<int>(mapped.heads),
                               static_cast<int>(mapped.count), count);
    mapped.rows = VectorRows<const Element>::packed(data, mapped.heads, mapped.count, kWidth);
    return wrong;
  }

  template <Side kSide, sm90::BackwardBlock kBlock>
  static const char* start(const Call& call, Work work, const Mapped& first_rows,
                           const Mapped& second_rows, const Mapped& first_tiles,
                           const Mapped& second_tiles) {
    using Kernel = sm90::BackwardKernel<Variant, Element, kD, kDV, kBlock, kSide>;
    const int64_t tiles = (first_rows.count + kBlock.rows - 1) / kBlock.rows;
    const int64_t heads = first_rows.heads;
    const int64_t bytes = first_tiles.count * (kD + kDV) * int64_t{sizeof(Element)};
    work.order = TileOrder::of(first_rows.batch, heads,
                               first_tiles.heads < heads ? first_tiles.heads : heads, tiles, bytes);
    const int64_t items = work.order.items();
    if (items == 0) return nullptr;
    sm90::BackwardMaps maps{};
    const bool mapped = first_rows.map(&maps.first_rows, kBlock.rows) &&
                        second_rows.map(&maps.second_rows, kBlock.rows) &&
                        first_tiles.map(&maps.first_tiles, kBlock.tile) &&
                        second_tiles.map(&maps.second_tiles, kBlock.tile);
    if (!mapped) return "the copy engine does not take rows in the workspace";
    return launch(sm90::backward<Kernel>, dim3(static_cast<unsigned>(items)), Kernel::L::kThreads,
                  Kernel::L::kBytes, call.stream, maps, work);
  }
};

}  // namespace attnlang::cuda
