// The gradients of queries, which blocks of keys add up tile by tile in the workspace, and the pass
// that rounds them.
//
// A tile is one piece a warpgroup, as its threads hold it: four floats of each, thread after
// thread, so that shared memory has no conflicts and the copy engine moves a piece at once. Blocks
// add to a piece in the order of their keys, each when its turn has come, so sums are the same, bit
// for bit, every time; the first one stores.
#pragma once

#include <cstdint>

#include "attnlang/device/ptx.cuh"
#include "attnlang/device/softmax.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_gradient_rows.cuh"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_tiles.cuh"
#include "kernels/sm80_backward_work.cuh"
#include "kernels/sm90_epilogue.cuh"
#include "kernels/sm90_layout.cuh"

namespace attnlang::cuda::sm90 {

// How warpgroups share out the queries of a tile: 64 rows each, or columns of 64 rows.
template <int kD, int kTile, int kConsumers>
struct QueryPieces {
  static constexpr bool kByRows = kTile == kConsumerRows * kConsumers;
  static constexpr int kColumns = kByRows ? kD : kD / kConsumers;  // of a piece
  static constexpr int kFloats = kColumns / 2;                     // of a thread
  static constexpr int kBytes = kFloats * kWarpgroup * int{sizeof(float)};
  static_assert(kByRows || kTile == kConsumerRows, "a piece has 64 rows");

  static ATTNLANG_DEVICE int row(int piece) { return kByRows ? kConsumerRows * piece : 0; }
  static ATTNLANG_DEVICE int column(int piece) { return kByRows ? 0 : kColumns * piece; }
};

// Whether a block visits a tile, whether its elements ask the mask, and whose turn comes after how
// many others'.
struct TileEntry {
  static constexpr int kMasked = 1 << 15, kMostTurns = kMasked - 2;

  uint16_t bits;  // 0: not visited; else 1 and the turn, and kMasked

  static ATTNLANG_DEVICE TileEntry of(int turn, bool masked) {
    return {static_cast<uint16_t>((turn + 1) | (masked ? kMasked : 0))};
  }
  ATTNLANG_DEVICE bool visited() const { return bits != 0; }
  ATTNLANG_DEVICE bool masked() const { return (bits & kMasked) != 0; }
  ATTNLANG_DEVICE int turn() const { return (bits & (kMasked - 1)) - 1; }
};

// In the workspace: `passed`, how many blocks have added to a piece; entries of each block of each
// head of keys, where there is a mask.
struct QuerySums {
  float* sums;
  uint32_t* passed;
  TileEntry* entries;
  int32_t tiles, blocks;  // of a head of queries, of a head of keys

  template <class Pieces>
  ATTNLANG_HD float* piece(int64_t index) const {
    return sums + index * (Pieces::kBytes / int64_t{sizeof(float)});
  }
  // `head`: b * heads + h.
  ATTNLANG_HD int64_t index(int64_t head, int tile, int piece, int pieces) const {
    return (head * tiles + tile) * pieces + piece;
  }
  ATTNLANG_HD TileEntry* block_entries(int64_t kv_head, int block) const {
    return entries + (kv_head * blocks + block) * tiles;
  }
};

template <class Variant, class Element>
struct HopperWork : BackwardWork<Variant, Element> {
  QuerySums queries;
};

constexpr int kFindWarps = 4;

// Which blocks of keys visit a tile of queries: a warp a tile of a head of keys, a block a lane.
template <class Variant, class Element, int kRows, int kTile>
__global__ void __launch_bounds__(kFindWarps* kWarp)
    find_tiles(const __grid_constant__ HopperWork<Variant, Element> work, int64_t count) {
  const int64_t index = int64_t{blockIdx.x} * kFindWarps + warp_index();
  if (index >= count) return;
  const auto& problem = work.problem;
  const QuerySums& queries = work.queries;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int kv_head = static_cast<int>(index / queries.tiles);
  const int tile = static_cast<int>(index % queries.tiles);
  const int b = kv_head / problem.kv_heads, h_kv = kv_head % problem.kv_heads;
  const int q0 = tile * kTile, q1 = least(q0 + kTile, problem.queries);
  const auto params = Variant::params(work.arguments);
  const Extent extent = problem.extent(b);
  int before = 0;
#pragma unroll 1
  for (int n0 = 0; n0 < queries.blocks; n0 += kWarp) {
    const int n = n0 + lane, k0 = n * kRows, k1 = least(k0 + kRows, extent.keys);
    bool some = false, all = true, masked = false;
#pragma unroll 1
    for (int i = 0; i < problem.group() && k0 < k1; ++i) {
      const auto request = problem.template request<Variant>(
          params, extent, h_kv * problem.group() + i, anchor_of(q0, problem.queries));
      const Verdict verdict = tile_verdict<Variant>(request, q0, q1, k0, k1);
      some = some || !is_empty(verdict), all = all && !is_empty(verdict);
      masked = masked || !is_full(verdict);
    }
    const uint32_t visited = __ballot_sync(~0u, some);
    const int turn = before + __popc(visited & ((1u << lane) - 1));
    if (n < queries.blocks) {
      queries.block_entries(kv_head, n)[tile] =
          some ? TileEntry::of(turn, masked || !all) : TileEntry{0};
    }
    before += __popc(visited);
  }
}

// Goes through the tiles that a block visits, the last one first: under a causal mask, where the
// last are seen from everywhere, blocks then come to a tile in the order of their turns. A whole
// warp; visit(tile, entry).
template <class Variant, class Visit>
ATTNLANG_DEVICE void each_tile(const QuerySums& queries, int64_t kv_head, int block,
                               const Visit& visit) {
  if constexpr (!Variant::kMask) {
    for (int tile = queries.tiles - 1; tile >= 0; --tile) visit(tile, TileEntry::of(block, false));
  } else {
    const TileEntry* entries = queries.block_entries(kv_head, block);
    const int lane = static_cast<int>(threadIdx.x % kWarp);
#pragma unroll 1
    for (int word = (queries.tiles - 1) / kWarp; word >= 0; --word) {
      const int mine = word * kWarp + lane;
      const int bits = mine < queries.tiles ? entries[mine].bits : 0;
      uint32_t visited = __ballot_sync(~0u, bits != 0);
#pragma unroll 1
      while (visited != 0) {
        const int bit = kWarp - 1 - __clz(static_cast<int>(visited));
        visited &= ~(1u << bit);
        visit(word * kWarp + bit, TileEntry{static_cast<uint16_t>(__shfl_sync(~0u, bits, bit))});
      }
    }
  }
}

// Rounds what a piece has, a warpgroup each. Rows that see nothing get zeros, whatever keys hold.
template <class Variant, class Element, int kWidth, class Pieces>
__global__ void __launch_bounds__(kWarpgroup)
    round_queries(const __grid_constant__ HopperWork<Variant, Element> work, int tile_rows,
                  int pieces) {
  const auto& problem = work.problem;
  const QuerySums& queries = work.queries;
  const int64_t index = blockIdx.x;
  const int piece = static_cast<int>(index % pieces);
  const int tile = static_cast<int>(index / pieces % queries.tiles);
  const int head = static_cast<int>(index / pieces / queries.tiles);
  const int b = head / problem.heads, h = head % problem.heads;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int q0 = tile * tile_rows + Pieces::row(piece) + warp_index() * 16 + lane / 4;
  const auto* from = reinterpret_cast<const float4*>(queries.piece<Pieces>(index)) + threadIdx.x;
  const bool any = queries.passed[index] != 0;
  float sums[Pieces::kFloats] = {};
  if (any) {
#pragma unroll
    for (int n = 0; n < Pieces::kFloats / 4; ++n) {
      const float4 x = from[n * kWarpgroup];
      sums[4 * n] = x.x, sums[4 * n + 1] = x.y, sums[4 * n + 2] = x.z, sums[4 * n + 3] = x.w;
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int q_row = q0 + 8 * i;
    const bool exists = q_row < problem.queries;
    if (Variant::kSoftmax && exists && work.terms.base[work.terms.at(b, h, q_row)] == -kInfinity) {
#pragma unroll
      for (int n = 0; n < Pieces::kFloats / 4; ++n) {
        sums[fragment_index(n, i, 0)] = sums[fragment_index(n, i, 1)] = 0.0f;
      }
    }
    const int column = Pieces::column(piece);
    Element* row = work.q.row(b, h, q_row) + column * work.q.stride[3];
    store_fragment_row<Element, kWidth>(work.q, row, exists, kWidth - column, i, sums, lane);
  }
}

}  // namespace attnlang::cuda::sm90
