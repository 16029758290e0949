// Two ways to fill the stages of a Hopper kernel: TMA, by one warp, where rows are 16-byte aligned;
// and a gather, by three, for any other layout (sm90_gather.cuh).
//
// Of rows and keys that exist and are seen, the same is in a stage, bit for bit. Rows past the end
// of a tensor and columns beside the vectors are zeros, and so are the values of keys that no row
// may see, for their weight of 0 does not make a NaN harmless. Where a tile goes past the end of
// its request but not of the tensor, the copy engine brings the rows and keys that lie there, the
// gather zeros, or what a dense k holds past `kv_lens`. No result is made of them, but for the last
// bits of a capped score (Softmax::weigh).
#pragma once

#include <cstdint>

#include "attnlang/device/mbarrier.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/device/tma.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_tiles.cuh"
#include "kernels/sm90_calls.cuh"
#include "kernels/sm90_layout.cuh"
#include "kernels/sm90_pages.cuh"

namespace attnlang::cuda::sm90 {

struct Maps {
  TensorMap q, k, v, out;  // `out`: of a warp's rows
  bool stores;             // rows of `out` leave by its map
};

// Whether the values of a column must not be looked at.
template <class Variant>
ATTNLANG_DEVICE bool is_hidden(const typename Variant::Request& request, int column, int kv_len) {
  if (column >= kv_len) return true;
  if constexpr (Variant::kColumnMask) {
    return !Variant::column_keep(request, Variant::column(request, column));
  } else {
    return false;
  }
}

// One warp, or in packed calls one for keys and one for values, which take their time where pages
// are small; all lanes call together.
template <class Variant, class Element, class L, class Calls>
class TmaLoader {
 public:
  using Request = typename Variant::Request;
  static constexpr int kWarps = Calls::kPacked ? 2 : 1;
  static constexpr int kArrivals = 1;  // that fill a stage

  ATTNLANG_DEVICE TmaLoader(L layout, const Maps& maps, const Calls& calls)
      : layout_(layout), maps_(maps), calls_(calls), lane_(static_cast<int>(threadIdx.x % kWarp)) {
    if (leads()) tma_prefetch(&maps.q), tma_prefetch(&maps.k), tma_prefetch(&maps.v);
  }

  ATTNLANG_DEVICE void finish() const {}
  ATTNLANG_DEVICE Calls& calls() { return calls_; }
  ATTNLANG_DEVICE bool loads_keys() const { return kWarps == 1 || warp_index() == 0; }
  ATTNLANG_DEVICE bool loads_values() const { return kWarps == 1 || warp_index() == 1; }

  // The next tile to load begins with column k0, the one after it with `after`, if not negative.
  ATTNLANG_DEVICE void look_up(int k0, int after, int kv_len) {
    if constexpr (kInPages<Variant, Calls, true> || kInPages<Variant, Calls, false>) {
      const int box = calls_.box_rows();
      if (box == 0) return;
      numbers_.turn(calls_.problem().pages, k0, after, kv_len, [&](int) { return lane_ * box; });
    }
  }

  ATTNLANG_DEVICE void queries(const Item& item) {
    auto& control = layout_.control();
    const Place<L::kQueryStages> place = queries_;
    queries_.advance();
    uint64_t* full = &control.q_full[place.stage];
    mbarrier_wait(&control.q_empty[place.stage], place.empty());
    if (!leads()) return;
    mbarrier_expect(full, L::kQueryBytes);
#pragma unroll
    for (int panel = 0; panel < L::kD / kPanelColumns; ++panel) {
      tma_load<4>(layout_.queries(place.stage) + panel * L::kQueryPanel, &maps_.q, full,
                  panel * kPanelColumns, calls_.first_query() + item.q0, item.h,
                  calls_.batch(item));
    }
  }

  ATTNLANG_DEVICE void keys(Place<L::kStages> place, const Message& message) {
    auto& control = layout_.control();
    uint64_t* full = &control.k_full[place.stage];
    const Source source = message.empty() ? Source{} : source_of<true>(message.item, message.k0);
    mbarrier_wait(&control.k_empty[place.stage], place.empty());
    if (leads()) control.message[place.stage] = message;
    if (message.empty()) {
      if (leads()) mbarrier_arrive(full);
    } else {
      copy<L::kD>(layout_.keys(place.stage), &maps_.k, source, full);
    }
  }

  // Keys whose rows hold their values, too.
  ATTNLANG_DEVICE void shared(Place<L::kStages> place, const Message& message,
                              const Request& request, int kv_len) {
    auto& control = layout_.control();
    const bool hides = may_hide(message.k0, message.masked(), kv_len);
    uint64_t* full = &control.k_full[place.stage];
    mbarrier_wait(&control.k_empty[place.stage], place.empty());
    if (leads()) control.message[place.stage] = message;
    copy<L::kD>(layout_.keys(place.stage), &maps_.k, source_of<true>(message.item, message.k0),
                hides ? &control.v_landed : full);
    if (hides) clear<L::kD>(layout_.keys(place.stage), request, message.k0, kv_len, full);
  }

  ATTNLANG_DEVICE void values(Place<L::kStages> place, const Request& request, const Item& item,
                              const KeyTile& tile, int kv_len) {
    auto& control = layout_.control();
    const bool hides = may_hide(tile.k0, tile.masked, kv_len);
    uint64_t* full = &control.v_full[place.stage];
    const Source source = source_of<false>(item, tile.k0);
    mbarrier_wait(&control.v_empty[place.stage], place.empty());
    copy<L::kDV>(layout_.values(place.stage), &maps_.v, source, hides ? &control.v_landed : full);
    if (hides) clear<L::kDV>(layout_.values(place.stage), request, tile.k0, kv_len, full);
  }

 private:
  ATTNLANG_DEVICE bool leads() const { return lane_ == 0; }

  // Beyond the tensor's end TMA writes zeros; within it anything may lie.
  ATTNLANG_DEVICE bool may_hide(int k0, bool masked, int kv_len) const {
    const bool ends = k0 + L::kKeyTile > kv_len && calls_.has_rows_past(kv_len);
    return masked && (Variant::kColumnMask || ends);
  }

  // Where a tile's keys or values begin, or in pages the rows of it that the lane copies.
  struct Source {
    int box, row, head, place;  // rows; from this one on; of a page or request
  };
  template <bool kKeys>
  ATTNLANG_DEVICE Source source_of(const Item& item, int k0) const {
    const int head = item.h / calls_.problem().group();
    if constexpr (kInPages<Variant, Calls, kKeys>) {
      if (const int box = calls_.box_rows(); box != 0) {
        const Pages& pages = calls_.problem().pages;
        const int column = k0 + lane_ * box;
        // Rows of a page that is not there are zeros.
        const bool there = column < calls_.problem().keys;
        const int page = there ? numbers_.number(pages, k0, 0) : pages.count;
        return {.box = box, .row = column % pages.size, .head = head, .place = page};
      }
    }
    return {.box = L::kKeyTile,
            .row = calls_.first_key() + k0,
            .head = head,
            .place = calls_.batch(item)};
  }

  template <int kColumns>
  ATTNLANG_DEVICE void copy(char* to, const TensorMap* map, const Source& source,
                            uint64_t* barrier) const {
    if (leads()) mbarrier_expect(barrier, kColumns / kPanelColumns * L::kKeyPanel);
    const int first = lane_ * (Calls::kPacked ? source.box : L::kKeyTile);
    if (first >= L::kKeyTile) return;
    to += first * kPanelRowBytes;
#pragma unroll
    for (int panel = 0; panel < kColumns / kPanelColumns; ++panel) {
      tma_load<4>(to + panel * L::kKeyPanel, map, barrier, panel * kPanelColumns, source.row,
                  source.head, source.place);
    }
  }

  // Once the stage has landed: zeros in the rows of hidden columns, then it is full.
  template <int kColumns>
  ATTNLANG_DEVICE void clear(char* rows, const Request& request, int k0, int kv_len,
                             uint64_t* full) {
    mbarrier_wait(&layout_.control().v_landed, landed_round_);
    landed_round_ ^= 1;
    // Rare; unrolled, its copies had ptxas spill in the consumers of D 64.
#pragma unroll 1
    for (int first = 0; first < L::kKeyTile; first += kWarp) {
      const int row = first + lane_;
      const bool hidden = row < L::kKeyTile && is_hidden<Variant>(request, k0 + row, kv_len);
      for (uint32_t bits = __ballot_sync(~0u, hidden); bits != 0; bits &= bits - 1) {
        const int at = first + __ffs(static_cast<int>(bits)) - 1;
        clear_row<kColumns, L::kKeyPanel>(rows, at, lane_);
      }
    }
    fence_async_shared();
    __syncwarp();
    if (leads()) mbarrier_arrive(full);
  }

  L layout_;
  const Maps& maps_;
  Calls calls_;
  const int lane_;
  Place<L::kQueryStages> queries_;
  PageNumbers<1> numbers_;
  int landed_round_ = 0;
};

}  // namespace attnlang::cuda::sm90
