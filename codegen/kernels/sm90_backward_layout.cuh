// What lies where in the shared memory of a Hopper backward kernel, and who may touch it when.
//
// A block keeps rows of keys and values and goes through tiles of queries: `first` is of k or q,
// which the scores are made of, `second` of v, or of what reached out. All are panels of 64
// columns, as sm90_layout.cuh says. Tiles have a ring of stages, each with a barrier
// that the first is there, with a message which it is, one that the second is, and one that both
// are free. Slopes pass between the warpgroups in two
// buffers, by turns; what a tile's queries get lies in a third until the copy engine has read it.
#pragma once

#include <cstdint>

#include "attnlang/host/target.h"
#include "kernels/cuda_problem.cuh"
#include "kernels/sm80_backward_work.cuh"
#include "kernels/sm90_backward_queries.cuh"
#include "kernels/sm90_layout.cuh"

namespace attnlang::cuda::sm90 {

// Of a block: rows that stay, 64 a consumer warpgroup, rows of a tile, and stages of tiles.
struct BackwardBlock {
  int rows, tile, stages;
};

// The keys of one block.
struct BlockPlace {
  Extent extent;
  int32_t b, head, number;  // of keys; which of the head's blocks
  int32_t row0, rows;       // how many exist

  template <class Work>
  static ATTNLANG_DEVICE BlockPlace of(const Work& work, int index, int block_rows) {
    const auto& problem = work.problem;
    const auto place = work.order[index];
    BlockPlace at{};
    at.b = place.head / problem.kv_heads;
    at.head = place.head % problem.kv_heads;
    // The first are seen by most rows, and long blocks come first; what a block waits for is made
    // by those before it.
    at.number = work.order.tiles - 1 - place.tile;
    at.row0 = at.number * block_rows;
    at.extent = problem.extent(at.b);
    const int all = at.extent.keys;
    at.rows = at.row0 >= all ? 0 : all - at.row0 < block_rows ? all - at.row0 : block_rows;
    return at;
  }
};

// What the loader says with a stage.
struct alignas(16) TileMessage {
  static constexpr int kMasked = 1;   // elements ask the mask, and the ends of both sides
  static constexpr int kNewRows = 2;  // the block's keys are loaded anew, for another head

  int32_t head;  // of queries; negative: there are no more tiles
  int32_t first, flags;

  ATTNLANG_DEVICE bool masked() const { return (flags & kMasked) != 0; }
  ATTNLANG_DEVICE bool new_rows() const { return (flags & kNewRows) != 0; }
};

template <int kTile, int kStages, int kConsumers>
struct BackwardControl {
  uint64_t rows_full, rows_empty, landed;
  uint64_t first_full[kStages], second_full[kStages], empty[kStages];
  uint64_t slopes_full[2];
  uint64_t sums_full[kConsumers], sums_empty[kConsumers];
  TileMessage message[kStages];
  alignas(16) float base[kStages][kTile], delta[kStages][kTile];
  BlockPlace place;
};

template <int kD_, int kDV_, BackwardBlock kBlock>
struct BackwardLayout {
  static constexpr int kD = round_up(kD_, kPanelColumns);
  static constexpr int kDV = round_up(kDV_, kPanelColumns);
  static constexpr int kRows = kBlock.rows;
  static constexpr int kTile = kBlock.tile;
  static constexpr int kStages = kBlock.stages;
  static constexpr int kConsumers = kRows / kConsumerRows;
  static constexpr int kThreads = (1 + kConsumers) * kWarpgroup;
  static constexpr bool kHandsOver = kConsumers > 1;
  static constexpr int kConsumerRegisters = 240;
  static constexpr int kProducerRegisters = 24;
  using Pieces = QueryPieces<kD, kTile, kConsumers>;

  static constexpr int kRowPanel = kRows * kPanelRowBytes;
  static constexpr int kTilePanel = kTile * kPanelRowBytes;
  static constexpr int kFirstRowBytes = kD / kPanelColumns * kRowPanel;
  static constexpr int kSecondRowBytes = kDV / kPanelColumns * kRowPanel;
  static constexpr int kFirstBytes = kD / kPanelColumns * kTilePanel;
  static constexpr int kSecondBytes = kDV / kPanelColumns * kTilePanel;
  static constexpr int kSlopeBytes = kConsumers * kTilePanel;

  static constexpr int kTiles = kFirstRowBytes + kSecondRowBytes;
  static constexpr int kSlopes = kTiles + kStages * (kFirstBytes + kSecondBytes);
  static constexpr int kSums = kSlopes + 2 * kSlopeBytes;
  static constexpr int kControl = kSums + kConsumers * Pieces::kBytes;
  using Control = BackwardControl<kTile, kStages, kConsumers>;
  static constexpr int kBytes = kControl + int{sizeof(Control)};

  static_assert(kRows % kConsumerRows == 0 && 1 <= kConsumers && kConsumers <= 2,
                "one or two consumer warpgroups, of 64 rows");
  static_assert(kD <= 256 && kDV <= 256, "a result is one wgmma wide");
  static_assert(kStages >= 2, "the next tile is loaded while this one is used");
  static_assert(kBytes <= kSharedLimit, "the tiles do not fit in shared memory");
  static_assert(!kHandsOver || kConsumers * kConsumerRegisters + kProducerRegisters <= 512);

  char* base;

  ATTNLANG_DEVICE char* first_rows() const { return base; }
  ATTNLANG_DEVICE char* second_rows() const { return base + kFirstRowBytes; }
  ATTNLANG_DEVICE char* first_tile(int stage) const { return base + kTiles + stage * kFirstBytes; }
  ATTNLANG_DEVICE char* second_tile(int stage) const {
    return base + kTiles + kStages * kFirstBytes + stage * kSecondBytes;
  }
  // dS of a tile: rows are queries, a panel has the 64 keys of a warpgroup.
  ATTNLANG_DEVICE char* slopes(int buffer) const { return base + kSlopes + buffer * kSlopeBytes; }
  // What a warpgroup has for the queries of a tile.
  ATTNLANG_DEVICE char* sums(int group) const { return base + kSums + group * Pieces::kBytes; }
  ATTNLANG_DEVICE Control& control() const { return *reinterpret_cast<Control*>(base + kControl); }
};

}  // namespace attnlang::cuda::sm90
