// What lies where in the shared memory of a Hopper backward kernel, and who may touch it when.
//
// A block keeps rows of one side, keys or queries, and goes through tiles of the other: `first` is
// of q or k, which the scores are made of, `second` of what reached out, or of v. All are panels of
// 64 columns, as sm90_layout.cuh says. Both tiles have a ring of stages, with a full and an empty
// barrier each; the first's tells which tile it is.
#pragma once

#include <cstdint>

#include "attnlang/host/target.h"
#include "kernels/cuda_problem.cuh"
#include "kernels/sm80_backward_work.cuh"
#include "kernels/sm90_layout.cuh"

namespace attnlang::cuda::sm90 {

// Of a block: rows that stay, 64 a consumer warpgroup, rows of a tile, and stages of tiles.
struct BackwardBlock {
  int rows, tile, stages;
};

// The rows of one block: of a head of keys or of queries.
struct BlockPlace {
  Extent extent;
  int32_t b, head;
  int32_t row0, rows;  // how many exist
  int32_t others;      // rows of the other side

  template <Side kSide, class Variant, class Element>
  static ATTNLANG_DEVICE BlockPlace of(const BackwardWork<Variant, Element>& work, int number,
                                       int block_rows) {
    constexpr bool kOfKeys = kSide == Side::keys;
    const auto& problem = work.problem;
    const auto place = work.order[number];
    const int heads = kOfKeys ? problem.kv_heads : problem.heads;
    BlockPlace at{};
    at.b = place.head / heads;
    at.head = place.head % heads;
    // Of keys the first are seen by most rows; long blocks come first.
    at.row0 = (kOfKeys ? work.order.tiles - 1 - place.tile : place.tile) * block_rows;
    at.extent = problem.extent(at.b);
    const int all = kOfKeys ? at.extent.keys : problem.queries;
    at.rows = at.row0 >= all ? 0 : all - at.row0 < block_rows ? all - at.row0 : block_rows;
    at.others = kOfKeys ? problem.queries : at.extent.keys;
    return at;
  }
};

// What the loader says with a stage.
struct alignas(16) TileMessage {
  static constexpr int kMasked = 1;  // elements ask the mask, and the ends of both sides

  int32_t head;  // of queries; negative: there are no more tiles
  int32_t first, flags;

  ATTNLANG_DEVICE bool masked() const { return (flags & kMasked) != 0; }
};

// Which tiles some head of the block visits, a bit each, and which of them some head masks.
struct TileBits {
  static constexpr int kWords = 128;

  uint32_t visited[kWords], masked[kWords];
};

template <int kTile, int kStages>
struct BackwardControl {
  uint64_t rows_full, landed;
  uint64_t first_full[kStages], first_empty[kStages], second_full[kStages], second_empty[kStages];
  TileMessage message[kStages];
  alignas(16) float base[kStages][kTile], delta[kStages][kTile];  // where a tile is of queries
  BlockPlace place;
  TileBits tiles;
};

template <int kD_, int kDV_, BackwardBlock kBlock, Side kSide>
struct BackwardLayout {
  static constexpr int kD = round_up(kD_, kPanelColumns);
  static constexpr int kDV = round_up(kDV_, kPanelColumns);
  static constexpr int kRows = kBlock.rows;
  static constexpr int kTile = kBlock.tile;
  static constexpr int kStages = kBlock.stages;
  static constexpr int kConsumers = kRows / kConsumerRows;
  static constexpr int kThreads = (1 + kConsumers) * kWarpgroup;
  static constexpr bool kHandsOver = kConsumers > 1;
  // Floats of a consumer's thread: results, two products, and what is packed for the others.
  static constexpr int kFloats =
      kSide == Side::keys ? (kD + kDV + 3 * kTile) / 2 : (2 * kD + 5 * kTile) / 4;
  static constexpr bool kMany = kFloats > 192;
  static constexpr int kConsumerRegisters = kConsumers == 3 ? 160 : kMany ? 240 : 216;
  static constexpr int kProducerRegisters = kConsumers == 3 ? 32 : kMany ? 24 : 72;

  static constexpr int kRowPanel = kRows * kPanelRowBytes;
  static constexpr int kTilePanel = kTile * kPanelRowBytes;
  static constexpr int kFirstRowBytes = kD / kPanelColumns * kRowPanel;
  static constexpr int kSecondRowBytes = kDV / kPanelColumns * kRowPanel;
  static constexpr int kFirstBytes = kD / kPanelColumns * kTilePanel;
  static constexpr int kSecondBytes = kDV / kPanelColumns * kTilePanel;

  static constexpr int kTiles = kFirstRowBytes + kSecondRowBytes;
  static constexpr int kControl = kTiles + kStages * (kFirstBytes + kSecondBytes);
  using Control = BackwardControl<kTile, kStages>;
  static constexpr int kBytes = kControl + int{sizeof(Control)};

  static_assert(kRows % kConsumerRows == 0 && 1 <= kConsumers && kConsumers <= 3,
                "one to three consumer warpgroups, of 64 rows");
  static_assert(kTile % 16 == 0 && 64 <= kTile && kTile <= 256, "a tile is one wgmma wide");
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
  ATTNLANG_DEVICE Control& control() const { return *reinterpret_cast<Control*>(base + kControl); }
};

}  // namespace attnlang::cuda::sm90
