// The producer's warps of a Hopper backward kernel: one has the copy engine bring the keys of the
// block and the tiles of queries that see them, others have it add what queries get.
//
// What is hidden is zeros in shared memory before a product sums over it: queries that see nothing,
// here; keys that no row may see, by the consumers.
#pragma once

#include <cstdint>

#include "attnlang/device/mbarrier.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/device/tma.cuh"
#include "attnlang/device/turns.cuh"
#include "attnlang/host/target.h"
#include "kernels/gradient_variant.h"
#include "kernels/sm90_backward_layout.cuh"
#include "kernels/sm90_backward_queries.cuh"

namespace attnlang::cuda::sm90 {

struct BackwardMaps {
  TensorMap keys, values, queries, out_grads;
};

// The heads of queries that a block goes through.
struct HeadRange {
  int begin, end;

  static ATTNLANG_DEVICE HeadRange of(const BlockPlace& place, int group) {
    return {place.head * group, (place.head + 1) * group};
  }
};

// Goes through the tiles of all heads in the order of the block: visit(head, tile, entry).
template <class Variant, class Work, class Visit>
ATTNLANG_DEVICE void each_head_tile(const Work& work, const BlockPlace& place, const Visit& visit) {
  if (place.rows == 0) return;
  const auto heads = HeadRange::of(place, work.problem.group());
  const int64_t kv_head = int64_t{place.b} * work.problem.kv_heads + place.head;
#pragma unroll 1
  for (int h = heads.begin; h < heads.end; ++h) {
    each_tile<Variant>(work.queries, kv_head, place.number,
                       [&](int tile, TileEntry entry) { visit(h, tile, entry); });
  }
}

// One warp; all lanes call together, one of them issues.
template <class Variant, class Element, class L>
class BackwardLoader {
 public:
  using Work = HopperWork<Variant, Element>;
  static constexpr bool kTerms = Variant::kSoftmax;
  // The next head may see keys that this one does not.
  static constexpr bool kRenews = Variant::kColumnMask;

  ATTNLANG_DEVICE BackwardLoader(L layout, const BackwardMaps& maps, const Work& work)
      : layout_(layout),
        maps_(maps),
        work_(work),
        place_(layout.control().place),
        lane_(static_cast<int>(threadIdx.x % kWarp)) {}

  // Before any tile; rows of a block that has none are loaded, too.
  ATTNLANG_DEVICE void load_rows() {
    if (lane_ != 0 || place_.rows == 0) return;
    uint64_t* full = &layout_.control().rows_full;
    mbarrier_expect(full, L::kFirstRowBytes + L::kSecondRowBytes);
    copy<L::kD, L::kRowPanel>(layout_.first_rows(), maps_.keys, full, place_.row0, place_.head);
    copy<L::kDV, L::kRowPanel>(layout_.second_rows(), maps_.values, full, place_.row0, place_.head);
  }

  ATTNLANG_DEVICE void run() {
    int rows_head = HeadRange::of(place_, work_.problem.group()).begin, renewed = 0;
    each_head_tile<Variant>(work_, place_, [&](int h, int tile, TileEntry entry) {
      const bool renews = kRenews && h != rows_head;
      load_tile(h, tile * L::kTile, entry.masked(), renews);
      stage_.advance();
      if constexpr (kRenews) {
        if (!renews) return;
        mbarrier_wait(&layout_.control().rows_empty, renewed & 1);
        rows_head = h, ++renewed;
        if (lane_ != 0) return;
        uint64_t* full = &layout_.control().rows_full;
        mbarrier_expect(full, L::kFirstRowBytes);
        copy<L::kD, L::kRowPanel>(layout_.first_rows(), maps_.keys, full, place_.row0, place_.head);
      }
    });
    mbarrier_wait(&layout_.control().empty[stage_.stage], stage_.empty());
    if (lane_ == 0) {
      layout_.control().message[stage_.stage] = {.head = -1, .first = 0, .flags = 0};
      mbarrier_arrive(&layout_.control().first_full[stage_.stage]);
    }
  }

 private:
  static constexpr int kEach = (L::kTile + kWarp - 1) / kWarp;  // rows of a tile, of a lane

  // Panels of a box of rows; by one lane.
  template <int kColumns, int kPanelBytes>
  ATTNLANG_DEVICE void copy(char* to, const TensorMap& map, uint64_t* barrier, int row, int head) {
#pragma unroll
    for (int panel = 0; panel < kColumns / kPanelColumns; ++panel) {
      tma_load<4>(to + panel * kPanelBytes, &map, barrier, panel * kPanelColumns, row, head,
                  place_.b);
    }
  }

  ATTNLANG_DEVICE void load_tile(int h, int first, bool masked, bool renews) {
    auto& control = layout_.control();
    const int stage = stage_.stage;
    float base[kEach], delta[kEach];
    bool hides = false;
    masked = masked || first + L::kTile > work_.problem.queries || place_.rows < L::kRows;
    if constexpr (kTerms) hides = load_terms(h, first, base, delta);
    mbarrier_wait(&control.empty[stage], stage_.empty());
    if (lane_ == 0) {
      mbarrier_expect(&control.second_full[stage], L::kSecondBytes);
      copy<L::kDV, L::kTilePanel>(layout_.second_tile(stage), maps_.out_grads,
                                  &control.second_full[stage], first, h);
    }
    if constexpr (kTerms) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int row = i * kWarp + lane_;
        control.base[stage][row] = base[i], control.delta[stage][row] = delta[i];
      }
    }
    __syncwarp();
    uint64_t* landed = hides ? &control.landed : &control.first_full[stage];
    if (lane_ == 0) {
      const int flags = (masked ? TileMessage::kMasked : 0) | (renews ? TileMessage::kNewRows : 0);
      control.message[stage] = {.head = h, .first = first, .flags = flags};
      mbarrier_expect(landed, L::kFirstBytes);
      copy<L::kD, L::kTilePanel>(layout_.first_tile(stage), maps_.queries, landed, first, h);
    }
    if (hides) clear(stage);
  }

  // Whether some row of the tile sees nothing.
  ATTNLANG_DEVICE bool load_terms(int h, int q0, float (&base)[kEach],
                                  float (&delta)[kEach]) const {
    const int64_t first = work_.terms.at(place_.b, h, q0);
    bool sees = true;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int row = i * kWarp + lane_;
      const bool exists = q0 + row < work_.problem.queries;
      base[i] = exists ? work_.terms.base[first + row] : -kInfinity;
      delta[i] = exists ? work_.terms.delta[first + row] : 0.0f;
      sees = sees && (!exists || base[i] != -kInfinity);
    }
    return __all_sync(~0u, sees) == 0;
  }

  // Once the first tile has landed: zeros in the rows that see nothing, then it is full.
  ATTNLANG_DEVICE void clear(int stage) {
    auto& control = layout_.control();
    mbarrier_wait(&control.landed, landed_round_);
    landed_round_ ^= 1;
#pragma unroll 1
    for (int i = 0; i < kEach; ++i) {
      const bool hidden = control.base[stage][i * kWarp + lane_] == -kInfinity;
      for (uint32_t bits = __ballot_sync(~0u, hidden); bits != 0; bits &= bits - 1) {
        const int at = i * kWarp + __ffs(static_cast<int>(bits)) - 1;
        clear_row<L::kD, L::kTilePanel>(layout_.first_tile(stage), at, lane_);
      }
    }
    fence_async_shared();
    __syncwarp();
    if (lane_ == 0) mbarrier_arrive(&control.first_full[stage]);
  }

  L layout_;
  const BackwardMaps& maps_;
  const Work& work_;
  const BlockPlace& place_;
  const int lane_;
  Place<L::kStages> stage_;
  int landed_round_ = 0;
};

// A warp for each piece of a tile's queries: what a warpgroup has left in shared memory is added to
// the piece when the block's turn has come, and then it is the next block's.
template <class Variant, class Element, class L>
ATTNLANG_DEVICE void add_sums(L layout, const HopperWork<Variant, Element>& work, int piece) {
  auto& control = layout.control();
  const BlockPlace& place = control.place;
  const bool leads = threadIdx.x % kWarp == 0;
  int round = 0;
  each_head_tile<Variant>(work, place, [&](int h, int tile, TileEntry entry) {
    const int64_t head = int64_t{place.b} * work.problem.heads + h;
    const int64_t index = work.queries.index(head, tile, piece, L::kConsumers);
    uint32_t* passed = work.queries.passed + index;
    if (leads) {
      wait_for_turn(passed, static_cast<uint32_t>(entry.turn()));
      mbarrier_wait(&control.sums_full[piece], round);
      float* to = work.queries.template piece<typename L::Pieces>(index);
      if (entry.turn() == 0) bulk_store(to, layout.sums(piece), L::Pieces::kBytes);
      else bulk_add(to, layout.sums(piece), L::Pieces::kBytes);
      tma_store_commit();
      tma_store_wait_read<0>();
      mbarrier_arrive(&control.sums_empty[piece]);
      tma_store_wait<0>();
      pass_turn(passed);
    }
    round ^= 1;
    __syncwarp();
  });
}

}  // namespace attnlang::cuda::sm90
