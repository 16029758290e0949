// What lies where in the shared memory of a Hopper forward kernel, and who may touch it when.
//
// Q, K and V tiles are panels of 64 columns: rows of 128 bytes, swizzled, as TMA writes them and
// wgmma reads them. Four rings connect the warps: batches of tile numbers from the scout to the
// loader; tiles of Q, stages of K, each with the message that says which tile it is, and stages of
// V from the loader to the consumers. Each side runs ahead as far as its ring is long.
#pragma once

#include <cstdint>

#include "attnlang/device/mbarrier.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_tiles.cuh"

namespace attnlang::cuda::sm90 {

constexpr int kPanelColumns = 64;
constexpr int kPanelRowBytes = 128;
constexpr int kWarpgroup = 128;
constexpr int kConsumerRows = 64;  // of a warpgroup
constexpr int kWarpRows = 16;      // of one of its warps
constexpr int kSharedLimit = 227 * 1024;

constexpr int round_up(int x, int unit) { return (x + unit - 1) / unit * unit; }

// Zeros in a row of panels, by a warp; fence_async_shared makes products see them.
template <int kColumns, int kPanelBytes>
ATTNLANG_DEVICE void clear_row(char* panels, int row, int lane) {
  char* at = panels + row * kPanelRowBytes + lane * 4;
#pragma unroll
  for (int panel = 0; panel < kColumns / kPanelColumns; ++panel) {
    *reinterpret_cast<uint32_t*>(at + panel * kPanelBytes) = 0;
  }
}

// A query tile of one (request, head).
struct Item {
  int32_t b, h, q0;
};

// What the scout finds for the loader: some key tiles of an item, those that are full after the
// others.
struct Batch {
  static constexpr int kTiles = 32;

  Item item;      // b < 0: there are no more
  int32_t count;  // 0: the item has none
  int32_t first, last;
  int32_t tiles[kTiles];  // twice the first column, and 1 where elements ask the mask
};

// What the loader says to consumers with a stage of keys: of the tile, and how many tiles that are
// full come in the stages after it, so that their messages need not be read.
struct alignas(16) Message {
  static constexpr int kMasked = 1;  // elements ask the mask and the end of the keys
  static constexpr int kEnds = 2;    // the item has no tile after these
  static constexpr int kEmpty = 4;   // the item has no tile; neither has the stage
  static constexpr int kEnd = 8;     // there are no more items; empty too

  int32_t k0, flags;
  int32_t full;  // tiles after this one
  Item item;

  ATTNLANG_DEVICE bool masked() const { return (flags & kMasked) != 0; }
  ATTNLANG_DEVICE bool ends() const { return (flags & kEnds) != 0; }
  ATTNLANG_DEVICE bool last() const { return ends() && full == 0; }
  ATTNLANG_DEVICE bool empty() const { return (flags & kEmpty) != 0; }
  ATTNLANG_DEVICE bool end() const { return (flags & kEnd) != 0; }
};

// Barriers of the rings: `full`, what is in a stage may be read; `empty`, all readers are done.
template <int kStages>
struct Control {
  static constexpr int kBatches = 4;
  static constexpr int kMostQueries = 2;

  uint64_t q_full[kMostQueries], q_empty[kMostQueries];
  uint64_t v_landed;  // a V stage that the loader looks through before it passes it on
  uint64_t k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
  uint64_t batch_full[kBatches], batch_empty[kBatches];
  Message message[kStages];
  Batch batch[kBatches];
  TileRanges ranges;  // of the scout's item
};

// kD, kDV: the dimensions of the products; tiles hold them rounded up to whole panels. kWithin:
// from which entry on the row of a key holds its value; negative: it does not. kMoreBytes: that the
// kernel wants for itself, at `more`.
template <int kD_, int kDV_, class Tiles, int kWithin, int kMoreBytes = 0>
struct Layout {
  static constexpr int kD = round_up(kD_, kPanelColumns);
  static constexpr int kDV = round_up(kDV_, kPanelColumns);
  static constexpr int kQueryTile = Tiles::kQueryTile;
  static constexpr int kKeyTile = Tiles::kKeyTile;
  static constexpr int kStages = Tiles::kStages;
  // Values too wide for one accumulator are shared out by warpgroups of the same rows, each of
  // which makes the weights for itself; of keys that hold their values one tile is both.
  static constexpr int kParts = kDV > 256 ? 2 : 1;
  static constexpr int kPartColumns = kDV / kParts;
  static constexpr bool kShared = kParts > 1 && kWithin >= 0 && kWithin % kPanelColumns == 0;
  static constexpr int kConsumers = kQueryTile / kConsumerRows * kParts;
  static constexpr int kThreads = (1 + kConsumers) * kWarpgroup;
  // A multiprocessor has 512 registers for each of a warpgroup's threads. Two warpgroups start with
  // enough of them; of more, the producer hands some over, in units of 8.
  static constexpr bool kHandsOver = kConsumers > 1;
  static constexpr int kConsumerRegisters = kConsumers == 2 ? 232 : 160;
  static constexpr int kProducerRegisters = kConsumers == 2 ? 40 : 32;

  static constexpr int kQueryPanel = kQueryTile * kPanelRowBytes;
  static constexpr int kKeyPanel = kKeyTile * kPanelRowBytes;
  static constexpr int kQueryBytes = kD / kPanelColumns * kQueryPanel;
  static constexpr int kKeyBytes = kD / kPanelColumns * kKeyPanel;
  static constexpr int kValueBytes = kShared ? 0 : kDV / kPanelColumns * kKeyPanel;

  static constexpr int kRingBytes =
      kStages * (kKeyBytes + kValueBytes) + int{sizeof(sm90::Control<kStages>)} + kMoreBytes;
  // Where there is room the next item's queries are loaded beside those in use.
  static constexpr int kQueryStages = kRingBytes + 2 * kQueryBytes <= kSharedLimit ? 2 : 1;

  static constexpr int kKeys = kQueryStages * kQueryBytes;
  static constexpr int kValues = kKeys + kStages * kKeyBytes;
  static constexpr int kControl = kValues + kStages * kValueBytes;
  static constexpr int kMore = kControl + int{sizeof(sm90::Control<kStages>)};
  static constexpr int kBytes = kMore + kMoreBytes;

  static_assert(kQueryTile % kConsumerRows == 0 && 1 <= kConsumers && kConsumers <= 3,
                "one to three consumer warpgroups, of 64 rows");
  static_assert(kKeyTile % 16 == 0 && kKeyTile <= 256, "a key tile is one wgmma wide");
  static_assert(kPartColumns <= 256 && kPartColumns % kPanelColumns == 0,
                "an accumulator is one wgmma wide");
  static_assert(kStages >= 2, "the next key tile is loaded while this one is used");
  static_assert(kBytes <= kSharedLimit, "the tiles do not fit in shared memory");
  static_assert(!kHandsOver || kConsumers * kConsumerRegisters + kProducerRegisters <= 512);

  using Control = sm90::Control<kStages>;
  char* base;

  ATTNLANG_DEVICE char* queries(int stage) const { return base + stage * kQueryBytes; }
  ATTNLANG_DEVICE char* keys(int stage) const { return base + kKeys + stage * kKeyBytes; }
  ATTNLANG_DEVICE char* values(int stage) const {
    if constexpr (kShared) return keys(stage) + kWithin / kPanelColumns * kKeyPanel;
    else return base + kValues + stage * kValueBytes;
  }
  ATTNLANG_DEVICE Control& control() const { return *reinterpret_cast<Control*>(base + kControl); }
  ATTNLANG_DEVICE char* more() const { return base + kMore; }
};

// `arrivals` fill a stage, of `loaders` warps.
template <class L>
ATTNLANG_DEVICE void start_barriers(L layout, int arrivals, int loaders) {
  if (threadIdx.x == 0) {
    auto& control = layout.control();
    constexpr int kConsumerWarps = L::kConsumers * 4;
    for (int stage = 0; stage < L::kQueryStages; ++stage) {
      mbarrier_init(&control.q_full[stage], arrivals);
      mbarrier_init(&control.q_empty[stage], kConsumerWarps);
    }
    mbarrier_init(&control.v_landed, 1);
    for (int stage = 0; stage < L::kStages; ++stage) {
      mbarrier_init(&control.k_full[stage], arrivals);
      mbarrier_init(&control.v_full[stage], arrivals);
      mbarrier_init(&control.k_empty[stage], kConsumerWarps);
      mbarrier_init(&control.v_empty[stage], kConsumerWarps);
    }
    for (int i = 0; i < L::Control::kBatches; ++i) {
      mbarrier_init(&control.batch_full[i], 1);
      mbarrier_init(&control.batch_empty[i], loaders);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
}

// A place in a ring: the stage, and the parity of its current round.
template <int kStages>
struct Place {
  int stage = 0;
  int round = 0;

  ATTNLANG_DEVICE void advance() {
    if (++stage == kStages) {
      stage = 0;
      round ^= 1;
    }
  }
  ATTNLANG_DEVICE int full() const { return round; }
  ATTNLANG_DEVICE int empty() const { return round ^ 1; }  // passes at once in the first round
};

}  // namespace attnlang::cuda::sm90
