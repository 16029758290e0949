// Which tiles a block of a Hopper backward kernel visits, and the producer warp that has the copy
// engine bring them.
//
// All warps look for tiles, before registers are handed over: verdicts need more of them than a
// producer keeps. What is hidden is zeros in shared memory before a product sums over it: queries
// that see nothing, whatever they hold, and keys that no row may see.
#pragma once

#include <cstdint>

#include "attnlang/device/mbarrier.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/device/tma.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_tiles.cuh"
#include "kernels/gradient_variant.h"
#include "kernels/sm80_backward_work.cuh"
#include "kernels/sm90_backward_layout.cuh"
#include "kernels/sm90_loaders.cuh"

namespace attnlang::cuda::sm90 {

struct BackwardMaps {
  TensorMap first_rows, second_rows, first_tiles, second_tiles;
};

template <class Variant, class Element>
ATTNLANG_DEVICE typename Variant::Request block_request(const BackwardWork<Variant, Element>& work,
                                                        const typename Variant::Params& params,
                                                        const BlockPlace& place, int h, int q_row) {
  return work.problem.template request<Variant>(params, place.extent, h,
                                                anchor_of(q_row, work.problem.queries));
}

// The heads of queries that a block goes through.
struct HeadRange {
  int begin, end;

  template <Side kSide>
  static ATTNLANG_DEVICE HeadRange of(const BlockPlace& place, int group) {
    if constexpr (kSide == Side::queries) return {place.head, place.head + 1};
    else return {place.head * group, (place.head + 1) * group};
  }
};

// By all warps, a word of tiles each at a time. What lies beyond the words counts as masked.
template <class Variant, class Element, class L, Side kSide>
ATTNLANG_DEVICE void find_tiles(L layout, const BackwardWork<Variant, Element>& work,
                                const typename Variant::Params& params) {
  constexpr bool kOfKeys = kSide == Side::keys;
  constexpr int kWarps = L::kThreads / kWarp;
  auto& control = layout.control();
  const BlockPlace& place = control.place;
  const int tiles = (place.others + L::kTile - 1) / L::kTile;
  const int r0 = place.row0, r1 = r0 + place.rows;
  const auto heads = HeadRange::of<kSide>(place, work.problem.group());
#pragma unroll 1
  for (int word = warp_index(); word < TileBits::kWords && word * kWarp < tiles; word += kWarps) {
    const int o0 = (word * kWarp + static_cast<int>(threadIdx.x % kWarp)) * L::kTile;
    const int o1 = o0 + L::kTile < place.others ? o0 + L::kTile : place.others;
    uint32_t some = 0, all = ~0u, masked = 0;
#pragma unroll 1
    for (int h = heads.begin; h < heads.end; ++h) {
      Verdict verdict = Verdict::empty;
      if (o0 < place.others) {
        const auto request = block_request(work, params, place, h, kOfKeys ? o0 : r0);
        verdict = kOfKeys ? tile_verdict<Variant>(request, o0, o1, r0, r1)
                          : tile_verdict<Variant>(request, r0, r1, o0, o1);
      }
      const uint32_t visited = __ballot_sync(~0u, !is_empty(verdict));
      some |= visited, all &= visited;
      masked |= __ballot_sync(~0u, !is_empty(verdict) && !is_full(verdict));
    }
    control.tiles.visited[word] = some;
    control.tiles.masked[word] = masked | (some & ~all);
  }
}

// One warp; all lanes call together, one of them issues.
template <class Variant, class Element, class L, Side kSide>
class BackwardLoader {
 public:
  using Request = typename Variant::Request;
  using Params = typename Variant::Params;
  using Work = BackwardWork<Variant, Element>;
  static constexpr bool kOfKeys = kSide == Side::keys;
  static constexpr bool kTerms = Variant::kSoftmax;

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
    copy<L::kD, L::kRowPanel>(layout_.first_rows(), maps_.first_rows, full, place_.row0,
                              place_.head);
    copy<L::kDV, L::kRowPanel>(layout_.second_rows(), maps_.second_rows, full, place_.row0,
                               place_.head);
  }

  ATTNLANG_DEVICE void run(const Params& params) {
    if (place_.rows > 0) {
      const auto heads = HeadRange::of<kSide>(place_, work_.problem.group());
      for (int h = heads.begin; h < heads.end; ++h) go_through(params, h);
    }
    mbarrier_wait(&layout_.control().first_empty[stage_.stage], stage_.empty());
    if (lane_ == 0) {
      layout_.control().message[stage_.stage] = {.head = -1, .first = 0, .flags = 0};
      mbarrier_arrive(&layout_.control().first_full[stage_.stage]);
    }
  }

 private:
  static constexpr int kEach = (L::kTile + kWarp - 1) / kWarp;  // rows of a tile, of a lane

  ATTNLANG_DEVICE void go_through(const Params& params, int h) {
    const TileBits& found = layout_.control().tiles;
    const int tiles = (place_.others + L::kTile - 1) / L::kTile;
    for (int word = 0; word * kWarp < tiles; ++word) {
      const int left = tiles - word * kWarp;
      uint32_t visited = left < kWarp ? (1u << left) - 1 : ~0u, masked = Variant::kMask ? ~0u : 0u;
      if (Variant::kMask && word < TileBits::kWords) {
        visited = found.visited[word], masked = found.masked[word];
      }
      for (; visited != 0; visited &= visited - 1) {
        const int bit = __ffs(static_cast<int>(visited)) - 1;
        load_tile(params, h, (word * kWarp + bit) * L::kTile, (masked >> bit & 1u) != 0);
        stage_.advance();
      }
    }
  }

  // Panels of a box of rows; by one lane.
  template <int kColumns, int kPanelBytes>
  ATTNLANG_DEVICE void copy(char* to, const TensorMap& map, uint64_t* barrier, int row, int head) {
#pragma unroll
    for (int panel = 0; panel < kColumns / kPanelColumns; ++panel) {
      tma_load<4>(to + panel * kPanelBytes, &map, barrier, panel * kPanelColumns, row, head,
                  place_.b);
    }
  }

  ATTNLANG_DEVICE void load_tile(const Params& params, int h, int first, bool masked) {
    auto& control = layout_.control();
    const int stage = stage_.stage;
    const int head = kOfKeys ? h : h / work_.problem.group();
    float base[kEach], delta[kEach];
    bool hides = false;
    masked = masked || first + L::kTile > place_.others || (kOfKeys && place_.rows < L::kRows);
    if constexpr (kOfKeys && kTerms) hides = load_terms(h, first, base, delta);
    if constexpr (!kOfKeys) {
      hides = masked && (Variant::kColumnMask || place_.others < work_.problem.keys);
    }
    // The second tile is done with before the first.
    mbarrier_wait(&control.second_empty[stage], stage_.empty());
    if (lane_ == 0) {
      mbarrier_expect(&control.second_full[stage], L::kSecondBytes);
      copy<L::kDV, L::kTilePanel>(layout_.second_tile(stage), maps_.second_tiles,
                                  &control.second_full[stage], first, head);
    }
    mbarrier_wait(&control.first_empty[stage], stage_.empty());
    if constexpr (kOfKeys && kTerms) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int row = i * kWarp + lane_;
        if (row < L::kTile)
          control.base[stage][row] = base[i], control.delta[stage][row] = delta[i];
      }
    }
    __syncwarp();
    uint64_t* landed = hides ? &control.landed : &control.first_full[stage];
    if (lane_ == 0) {
      control.message[stage] = {
          .head = h, .first = first, .flags = masked ? TileMessage::kMasked : 0};
      mbarrier_expect(landed, L::kFirstBytes);
      copy<L::kD, L::kTilePanel>(layout_.first_tile(stage), maps_.first_tiles, landed, first, head);
    }
    if (hides) clear(params, h, first, stage);
  }

  // Whether some row of the tile sees nothing.
  ATTNLANG_DEVICE bool load_terms(int h, int q0, float (&base)[kEach],
                                  float (&delta)[kEach]) const {
    const int64_t first = work_.terms.at(work_.problem.heads * place_.b + h, q0);
    bool sees = true;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int row = i * kWarp + lane_;
      const bool exists = row < L::kTile && q0 + row < work_.problem.queries;
      base[i] = exists ? work_.terms.base[first + row] : -kInfinity;
      delta[i] = exists ? work_.terms.delta[first + row] : 0.0f;
      sees = sees && (!exists || base[i] != -kInfinity);
    }
    return __all_sync(~0u, sees) == 0;
  }

  // Once the first tile has landed: zeros in the rows that are hidden, then it is full.
  ATTNLANG_DEVICE void clear(const Params& params, int h, int o0, int stage) {
    auto& control = layout_.control();
    const Request request = block_request(work_, params, place_, h, place_.row0);
    mbarrier_wait(&control.landed, landed_round_);
    landed_round_ ^= 1;
#pragma unroll 1
    for (int i = 0; i < kEach; ++i) {
      const int row = i * kWarp + lane_;
      bool hidden = false;
      if constexpr (kOfKeys) hidden = row < L::kTile && control.base[stage][row] == -kInfinity;
      else hidden = row < L::kTile && is_hidden<Variant>(request, o0 + row, place_.others);
      for (uint32_t bits = __ballot_sync(~0u, hidden); bits != 0; bits &= bits - 1) {
        const int at = i * kWarp + __ffs(static_cast<int>(bits)) - 1;
        char* chunk = layout_.first_tile(stage) + at * kPanelRowBytes + lane_ * 4;
#pragma unroll
        for (int panel = 0; panel < L::kD / kPanelColumns; ++panel) {
          *reinterpret_cast<uint32_t*>(chunk + panel * L::kTilePanel) = 0;
        }
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

}  // namespace attnlang::cuda::sm90
