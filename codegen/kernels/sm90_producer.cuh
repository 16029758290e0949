// The producer warpgroup: one warp, the scout, finds out which tiles the CTA's items visit, well
// ahead of those that load them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attnlang/device/mbarrier.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_tiles.cuh"
#include "kernels/sm90_gather.cuh"
#include "kernels/sm90_layout.cuh"
#include "kernels/sm90_loaders.cuh"

namespace attnlang::cuda::sm90 {

constexpr int kScout = 3;  // the warp

// The items of a call. The first round goes by CTA number; the counter hands out the rest, so that
// uneven items leave no gap.
struct Queue {
  TileOrder order;
  int32_t items, heads;
  int32_t* counter;  // 0 before the kernel; null: there is one round

  // By one warp: the CTA's items in turn.
  template <int kQueryTile, class Calls, class Visit>
  ATTNLANG_DEVICE void each(Calls&, const Visit& visit) const {
    int number = static_cast<int>(blockIdx.x);
    while (number < items) {
      visit(item(number, kQueryTile));
      number = next(number);
    }
  }

 private:
  ATTNLANG_DEVICE Item item(int number, int query_tile) const {
    const auto place = order[number];
    const int b = place.head / heads;
    return {.b = b, .h = place.head - b * heads, .q0 = place.tile * query_tile};
  }
  // The item after `number`.
  ATTNLANG_DEVICE int next(int number) const {
    const int ctas = static_cast<int>(gridDim.x);
    if (counter == nullptr) return number + ctas;
    int handed = 0;
    if (threadIdx.x % kWarp == 0) handed = atomicAdd(counter, 1);
    return ctas + __shfl_sync(~0u, handed, 0);
  }
};

template <class Variant, class Element, class L, class Calls>
class Scout {
 public:
  ATTNLANG_DEVICE Scout(L layout, const Calls& calls)
      : control_(layout.control()), calls_(calls), lane_(static_cast<int>(threadIdx.x % kWarp)) {}

  template <class Items>
  ATTNLANG_DEVICE void run(const Items& items) {
    items.template each<L::kQueryTile>(calls_, [&](const Item& item) {
      look(item);
      calls_.leave();
    });
    publish({-1, 0, 0}, 0, true, true, 0);
  }

 private:
  ATTNLANG_DEVICE void look(const Item& item) {
    const int q1 = std::min(item.q0 + L::kQueryTile, calls_.problem().queries);
    const int kv_len = calls_.problem().kv_len(item.b);
    const auto request = calls_.request(item);
    if constexpr (Variant::kMask) {
      __syncwarp();
      if (lane_ == 0) {
        find_ranges<Variant>(control_.ranges, request, item.q0, q1, kv_len, L::kKeyTile);
      }
      __syncwarp();
    }
    const auto verdict_of = [&](int k0, int k1) {
      return tile_verdict<Variant>(request, item.q0, q1, k0, k1);
    };
    TileSpan span{0, (kv_len + L::kKeyTile - 1) / L::kKeyTile};
    if constexpr (Calls::kPacked) {
      if (const Cut& cut = calls_.cut(); cut.count > 1) {
        if constexpr (Variant::kMask) span = span.visited(L::kKeyTile, kv_len, verdict_of);
        span = span.slice(cut.begin, cut.end);
      }
    }
    KeyTiles<Variant::kMask, L::kKeyTile, decltype(verdict_of)> tiles(control_.ranges, span.begin,
                                                                      span.end, kv_len, verdict_of);
    KeyTile tile = tiles.next();
    bool first = true;
    do {
      int found = 0, mine = 0;
      for (; tile.valid() && found < Batch::kTiles; ++found) {
        if (lane_ == found) mine = 2 * tile.k0 + (tile.masked ? 1 : 0);
        tile = tiles.next();
      }
      publish(item, found, first, !tile.valid(), mine);
      first = false;
    } while (tile.valid());
  }

  // `mine`: the lane's tile.
  ATTNLANG_DEVICE void publish(const Item& item, int count, bool first, bool last, int mine) {
    Batch& batch = control_.batch[place_.stage];
    mbarrier_wait(&control_.batch_empty[place_.stage], place_.empty());
    const uint32_t before = (1u << lane_) - 1;
    const uint32_t masked = __ballot_sync(~0u, lane_ < count && mine % 2 != 0);
    const int others = __popc(masked & before);
    const bool is_masked = (masked >> lane_ & 1) != 0;
    if (lane_ < count) batch.tiles[is_masked ? others : __popc(masked) + lane_ - others] = mine;
    if (lane_ == 0) batch.item = item, batch.count = count, batch.first = first, batch.last = last;
    __syncwarp();
    if (lane_ == 0) mbarrier_arrive(&control_.batch_full[place_.stage]);
    place_.advance();
  }

  typename L::Control& control_;
  Calls calls_;
  const int lane_;
  Place<L::Control::kBatches> place_;
};

// Loads what the scout has found. Consumers need the keys of tile n + 1 before the values of tile
// n, and are given them in that order.
template <class Variant, class Element, class L, class Loader>
ATTNLANG_DEVICE void load(L layout, Loader& loader) {
  auto& control = layout.control();
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  Place<L::Control::kBatches> batches;
  Place<L::kStages> keys, values;
  KeyTile before{-1, false};  // its values are not loaded yet
  while (true) {
    mbarrier_wait(&control.batch_full[batches.stage], batches.full());
    const Batch& batch = control.batch[batches.stage];
    const Item item = batch.item;
    const int count = batch.count;
    const bool first = batch.first != 0, last = batch.last != 0;
    if (count == 0) {
      if (Variant::kOut && item.b >= 0 && loader.loads_keys()) loader.queries(item);
      const int end = item.b < 0 ? Message::kEnd : 0;
      const Message message{.k0 = 0, .flags = Message::kEmpty | end, .full = 0, .item = item};
      if (loader.loads_keys()) loader.keys(keys, message);
      keys.advance();
      if (item.b < 0) break;
    } else {
      const int kv_len = loader.calls().problem().kv_len(item.b);
      const auto request = loader.calls().request(item);
      const int masked = __popc(__ballot_sync(~0u, lane < count && batch.tiles[lane] % 2 != 0));
      const int turns = count + (last && !L::kShared ? 1 : 0);  // the last one for values alone
      for (int i = 0; i < turns; ++i) {
        KeyTile tile{-1, false};
        if (i < count) {
          tile = {.k0 = batch.tiles[i] / 2, .masked = i < masked};
          const int full = i + 1 < masked ? 0 : count - 1 - i;
          const int flags = (tile.masked ? Message::kMasked : 0) |
                            (last && i + 1 + full == count ? Message::kEnds : 0);
          const Message message{.k0 = tile.k0, .flags = flags, .full = full, .item = item};
          loader.look_up(tile.k0, i + 1 < count ? batch.tiles[i + 1] / 2 : -1, kv_len);
          if constexpr (L::kShared) loader.shared(keys, message, request, kv_len);
          else if (loader.loads_keys()) loader.keys(keys, message);
          keys.advance();
          if (first && i == 0 && loader.loads_keys()) loader.queries(item);
        }
        if (!L::kShared && before.valid()) {
          if (loader.loads_values()) loader.values(values, request, item, before, kv_len);
          values.advance();
        }
        before = tile;
      }
    }
    if (last) loader.calls().leave();
    __syncwarp();
    if (lane == 0) mbarrier_arrive(&control.batch_empty[batches.stage]);
    batches.advance();
  }
  loader.finish();
}

}  // namespace attnlang::cuda::sm90
