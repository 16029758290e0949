// The gradients of q, k and v on wgmma, of sm_90a: describes tensors to the copy engine, copies
// those that it cannot take, and enqueues what finds tiles, the skeleton and what rounds queries.
// What adds up parameters' gradients goes to the kernels for mma.sync.
#pragma once

#include <cstdint>
#include <string>

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

// `Tiles`: those of Sm80Sides, and of a block on wgmma kHopperRows keys, kHopperTile queries a
// tile, in kHopperStages.
template <class Variant, class Element, int kD, int kDV, class Tiles>
class Sm90Sides {
  using MmaSync = Sm80Sides<Variant, Element, kD, kDV, Tiles>;
  using Mapped = sm90::MappedRows<Element>;
  static constexpr sm90::BackwardBlock kBlock{Tiles::kHopperRows, Tiles::kHopperTile,
                                              Tiles::kHopperStages};
  using Kernel = sm90::BackwardKernel<Variant, Element, kD, kDV, kBlock>;
  using L = typename Kernel::L;
  using Pieces = typename L::Pieces;
  static_assert(kAnchorRows % kBlock.tile == 0, "rows of a tile have one anchor");

 public:
  static constexpr bool kPacked = false;
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
    const sm90::QuerySums queries = take(problem, workspace);
    if (wrong != nullptr || !enqueues) return wrong;
    const Mapped grads{work->out_grad, problem.batch, problem.heads, problem.queries, kDV};
    return enqueue(call, {*work, queries}, q, k, v, grads);
  }

 private:
  static int64_t pieces(const Problem<Element>& problem, int tiles) {
    return int64_t{problem.batch} * problem.heads * tiles * L::kConsumers;
  }

  static sm90::QuerySums take(const Problem<Element>& problem, Workspace& workspace) {
    sm90::QuerySums queries{};
    queries.tiles = (problem.queries + L::kTile - 1) / L::kTile;
    queries.blocks = (problem.keys + L::kRows - 1) / L::kRows;
    const int64_t count = pieces(problem, queries.tiles);
    queries.sums = reinterpret_cast<float*>(workspace.take(count * Pieces::kBytes));
    queries.passed = reinterpret_cast<uint32_t*>(workspace.take(count * int64_t{sizeof(uint32_t)}));
    if constexpr (Variant::kMask) {
      const int64_t entries = int64_t{problem.batch} * problem.kv_heads * queries.blocks *
                              queries.tiles * int64_t{sizeof(sm90::TileEntry)};
      queries.entries = reinterpret_cast<sm90::TileEntry*>(workspace.take(entries));
    }
    return queries;
  }

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

  static const char* enqueue(const Call& call, sm90::HopperWork<Variant, Element> work,
                             const Mapped& q, const Mapped& k, const Mapped& v,
                             const Mapped& grads) {
    const Problem<Element>& problem = work.problem;
    if (problem.kv_heads == 0) return nullptr;  // without heads of queries, keys still get zeros
    const int64_t count = pieces(problem, work.queries.tiles);
    if (work.queries.blocks > sm90::TileEntry::kMostTurns) return too_many_keys();
    if (count > INT32_MAX) return "more than 2^31 tiles of queries";
    const char* wrong = fill_bytes(work.queries.passed, 0, count * sizeof(uint32_t), call.stream);
    const int64_t bytes = q.count * (kD + kDV) * int64_t{sizeof(Element)};
    work.order = TileOrder::of(problem.batch, problem.kv_heads, problem.kv_heads,
                               work.queries.blocks, bytes);
    const int64_t items = work.order.items();
    if (wrong == nullptr && items > 0) {
      if constexpr (Variant::kMask) wrong = find(call, work);
      if (wrong == nullptr) wrong = multiply(call, work, q, k, v, grads, items);
    }
    if (wrong != nullptr || count == 0) return wrong;
    return launch(sm90::round_queries<Variant, Element, kD, Pieces>,
                  dim3(static_cast<unsigned>(count)), sm90::kWarpgroup, 0, call.stream, work,
                  L::kTile, L::kConsumers);
  }

  static const char* too_many_keys() {
    constexpr int64_t kMost = int64_t{sm90::TileEntry::kMostTurns} * L::kRows;
    static const std::string text = "more than " + std::to_string(kMost) + " keys of a head";
    return text.c_str();
  }

  static const char* find(const Call& call, const sm90::HopperWork<Variant, Element>& work) {
    const int64_t tiles = int64_t{work.problem.batch} * work.problem.kv_heads * work.queries.tiles;
    if (tiles == 0) return nullptr;
    const dim3 grid(static_cast<unsigned>((tiles + sm90::kFindWarps - 1) / sm90::kFindWarps));
    return launch(sm90::find_tiles<Variant, Element, L::kRows, L::kTile>, grid,
                  sm90::kFindWarps * kWarp, 0, call.stream, work, tiles);
  }

  static const char* multiply(const Call& call, const sm90::HopperWork<Variant, Element>& work,
                              const Mapped& q, const Mapped& k, const Mapped& v,
                              const Mapped& grads, int64_t items) {
    sm90::BackwardMaps maps{};
    const bool mapped = k.map(&maps.keys, L::kRows) && v.map(&maps.values, L::kRows) &&
                        q.map(&maps.queries, L::kTile) && grads.map(&maps.out_grads, L::kTile);
    if (!mapped) return "the copy engine does not take rows in the workspace";
    return launch(sm90::backward<Kernel>, dim3(static_cast<unsigned>(items)), L::kThreads,
                  L::kBytes, call.stream, maps, work);
  }
};

}  // namespace attnlang::cuda
