// Two ways to fill the stages of a Hopper kernel: TMA, by one warp, where rows are 16-byte aligned;
// and a gather, by three, for any other layout.
//
// What is in a stage is the same, bit for bit: rows past the end of a tensor and columns beside the
// vectors are zeros, and so are the values of keys that no row may see, for their weight of 0 does
// not make a NaN harmless.
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

// One warp; all lanes call together, one of them issues.
template <class Variant, class Element, class L, class Calls>
class TmaLoader {
 public:
  using Request = typename Variant::Request;
  static constexpr int kWarps = 1;
  static constexpr int kArrivals = 1;  // that fill a stage

  ATTNLANG_DEVICE TmaLoader(L layout, const Maps& maps, const Calls& calls)
      : layout_(layout), maps_(maps), calls_(calls), leader_(threadIdx.x % kWarp == 0) {
    if (leader_) tma_prefetch(&maps.q), tma_prefetch(&maps.k), tma_prefetch(&maps.v);
  }

  ATTNLANG_DEVICE void finish() const {}
  ATTNLANG_DEVICE Calls& calls() { return calls_; }

  ATTNLANG_DEVICE void queries(const Item& item) {
    auto& control = layout_.control();
    const Place<L::kQueryStages> place = queries_;
    queries_.advance();
    uint64_t* full = &control.q_full[place.stage];
    mbarrier_wait(&control.q_empty[place.stage], place.empty());
    if (!leader_) return;
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
    mbarrier_wait(&control.k_empty[place.stage], place.empty());
    if (!leader_) return;
    control.message[place.stage] = message;
    if (message.empty()) {
      mbarrier_arrive(full);
      return;
    }
    mbarrier_expect(full, L::kKeyBytes);
    copy<L::kD>(layout_.keys(place.stage), &maps_.k, message.item, message.k0, full);
  }

  // Keys whose rows hold their values, too.
  ATTNLANG_DEVICE void shared(Place<L::kStages> place, const Message& message,
                              const Request& request, int kv_len) {
    auto& control = layout_.control();
    const bool hides = may_hide(message.k0, message.masked(), kv_len);
    uint64_t* full = &control.k_full[place.stage];
    mbarrier_wait(&control.k_empty[place.stage], place.empty());
    if (leader_) {
      control.message[place.stage] = message;
      uint64_t* landed = hides ? &control.v_landed : full;
      mbarrier_expect(landed, L::kKeyBytes);
      copy<L::kD>(layout_.keys(place.stage), &maps_.k, message.item, message.k0, landed);
    }
    if (hides) clear<L::kD>(layout_.keys(place.stage), request, message.k0, kv_len, full);
  }

  ATTNLANG_DEVICE void values(Place<L::kStages> place, const Request& request, const Item& item,
                              const KeyTile& tile, int kv_len) {
    auto& control = layout_.control();
    const bool hides = may_hide(tile.k0, tile.masked, kv_len);
    uint64_t* full = &control.v_full[place.stage];
    uint64_t* landed = hides ? &control.v_landed : full;
    mbarrier_wait(&control.v_empty[place.stage], place.empty());
    if (leader_) {
      mbarrier_expect(landed, L::kValueBytes);
      copy<L::kDV>(layout_.values(place.stage), &maps_.v, item, tile.k0, landed);
    }
    if (hides) clear<L::kDV>(layout_.values(place.stage), request, tile.k0, kv_len, full);
  }

 private:
  // Beyond the tensor's end TMA writes zeros; within it anything may lie.
  ATTNLANG_DEVICE bool may_hide(int k0, bool masked, int kv_len) const {
    const bool ends = k0 + L::kKeyTile > kv_len && calls_.has_rows_past(kv_len);
    return masked && (Variant::kColumnMask || ends);
  }

  template <int kColumns>
  ATTNLANG_DEVICE void copy(char* to, const TensorMap* map, const Item& item, int k0,
                            uint64_t* barrier) const {
#pragma unroll
    for (int panel = 0; panel < kColumns / kPanelColumns; ++panel) {
      tma_load<4>(to + panel * L::kKeyPanel, map, barrier, panel * kPanelColumns,
                  calls_.first_key() + k0, item.h / calls_.problem().group(), calls_.batch(item));
    }
  }

  // Once the stage has landed: zeros in the rows of hidden columns, then it is full.
  template <int kColumns>
  ATTNLANG_DEVICE void clear(char* rows, const Request& request, int k0, int kv_len,
                             uint64_t* full) {
    mbarrier_wait(&layout_.control().v_landed, landed_round_);
    landed_round_ ^= 1;
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    // Rare; unrolled, its copies had ptxas spill in the consumers of D 64.
#pragma unroll 1
    for (int first = 0; first < L::kKeyTile; first += kWarp) {
      const int row = first + lane;
      const bool hidden = row < L::kKeyTile && is_hidden<Variant>(request, k0 + row, kv_len);
      for (uint32_t bits = __ballot_sync(~0u, hidden); bits != 0; bits &= bits - 1) {
        const int at = first + __ffs(static_cast<int>(bits)) - 1;
        clear_row<kColumns, L::kKeyPanel>(rows, at, lane);
      }
    }
    fence_async_shared();
    __syncwarp();
    if (leader_) mbarrier_arrive(full);
  }

  L layout_;
  const Maps& maps_;
  Calls calls_;
  bool leader_;
  Place<L::kQueryStages> queries_;
  int landed_round_ = 0;
};

// Three warps. Those of a tile's rows that are a warp's are looked up by its lanes, a row a lane;
// then 8 lanes copy 128 bytes of a row at a time, of 4 rows together. A thread's copies are
// announced when the next batch is under way, or when it would wait for the consumers.
template <class Variant, class Element, class L, class Calls, int kWidth, int kValueWidth>
class GatherLoader {
 public:
  using Request = typename Variant::Request;
  static constexpr int kWarps = 3;
  static constexpr int kArrivals = kWarps * kWarp;

  ATTNLANG_DEVICE GatherLoader(L layout, const Calls& calls)
      : layout_(layout),
        calls_(calls),
        warp_(warp_index()),
        lane_(static_cast<int>(threadIdx.x % kWarp)) {}

  ATTNLANG_DEVICE void finish() { settle<0>(); }
  ATTNLANG_DEVICE Calls& calls() { return calls_; }

  ATTNLANG_DEVICE void queries(const Item& item) {
    auto& control = layout_.control();
    const Place<L::kQueryStages> place = queries_;
    queries_.advance();
    wait(&control.q_empty[place.stage], place.empty());
    const VectorRows<const Element>& q = calls_.problem().q;
    const auto offset_of = [&](int row) -> int64_t {
      return item.q0 + row < calls_.problem().queries ? row * q.stride[2] : -1;
    };
    copy<L::kD, kWidth, L::kQueryTile>(layout_.queries(place.stage), q.row(item.b, item.h, item.q0),
                                       q, offset_of);
    commit(&control.q_full[place.stage]);
  }

  ATTNLANG_DEVICE void shared(Place<L::kStages> place, const Message& message,
                              const Request& request, int kv_len) {
    auto& control = layout_.control();
    wait(&control.k_empty[place.stage], place.empty());
    if (threadIdx.x == 0) control.message[place.stage] = message;
    const auto there = [&](int column) {
      return message.masked() ? !is_hidden<Variant>(request, column, kv_len) : true;
    };
    copy_columns<L::kD, kWidth>(layout_.keys(place.stage), calls_.problem().k, message.item,
                                message.k0, there);
    commit(&control.k_full[place.stage]);
  }

  ATTNLANG_DEVICE void keys(Place<L::kStages> place, const Message& message) {
    auto& control = layout_.control();
    wait(&control.k_empty[place.stage], place.empty());
    if (threadIdx.x == 0) control.message[place.stage] = message;
    if (!message.empty()) {
      const int keys = calls_.problem().keys;
      const auto there = [&](int column) { return column < keys; };
      copy_columns<L::kD, kWidth>(layout_.keys(place.stage), calls_.problem().k, message.item,
                                  message.k0, there);
    }
    commit(&control.k_full[place.stage]);
  }

  ATTNLANG_DEVICE void values(Place<L::kStages> place, const Request& request, const Item& item,
                              const KeyTile& tile, int kv_len) {
    auto& control = layout_.control();
    wait(&control.v_empty[place.stage], place.empty());
    const auto there = [&](int column) {
      return tile.masked ? !is_hidden<Variant>(request, column, kv_len) : true;
    };
    copy_columns<L::kDV, kValueWidth>(layout_.values(place.stage), calls_.problem().v, item,
                                      tile.k0, there);
    commit(&control.v_full[place.stage]);
  }

 private:
  static constexpr int kEntries = 8;                // of a chunk
  static constexpr int kTogether = 4;               // rows that a warp copies from at once
  static constexpr int kTurns = kWarp / kTogether;  // until all rows of its lanes are copied

  // The row of a tile that is copied by lane `lane` / 8 in turn `turn`.
  ATTNLANG_DEVICE int row_of(int turn, int place) const {
    return kTogether * (warp_ + kWarps * turn) + place;
  }

  // Keys or values of a tile; There: column -> whether its row is copied. Others become zeros.
  template <int kColumns, int kEntriesOfRow, class There>
  ATTNLANG_DEVICE void copy_columns(char* to, const VectorRows<const Element>& rows,
                                    const Item& item, int k0, const There& there) const {
    const auto offset_of = [&](int row) -> int64_t {
      return there(k0 + row) ? row * rows.stride[2] : -1;
    };
    const int head = item.h / calls_.problem().group();
    copy<kColumns, kEntriesOfRow, L::kKeyTile>(to, rows.row(item.b, head, k0), rows, offset_of);
  }

  // kRows rows of one head, `kEntriesOfRow` entries each and zeros up to kColumns. OffsetOf: row ->
  // where it begins behind `from`; negative: the row becomes zeros.
  template <int kColumns, int kEntriesOfRow, int kRows, class OffsetOf>
  ATTNLANG_DEVICE void copy(char* to, const Element* from, const VectorRows<const Element>& rows,
                            const OffsetOf& offset_of) const {
    constexpr int kOfWarps = (kRows + kTogether * kWarps - 1) / (kTogether * kWarps);  // turns
    const bool whole = rows.vectorised && kEntriesOfRow % kEntries == 0;
    const int64_t inner = rows.stride[3];
#pragma unroll 1
    for (int first = 0; first < kOfWarps; first += kTurns) {
      const int own = row_of(first + lane_ / kTogether, lane_ % kTogether);
      const int64_t offset = own < kRows ? offset_of(own) : -1;
#pragma unroll 1
      for (int turn = 0; turn < kTurns; ++turn) {
        const int row = row_of(first + turn, lane_ / kEntries);
        if (row_of(first + turn, 0) >= kRows) break;
        const int64_t at = __shfl_sync(~0u, offset, kTogether * turn + lane_ / kEntries);
        char* line = to + row * kPanelRowBytes + ((lane_ ^ row) & 7) * kVectorBytes;
#pragma unroll
        for (int panel = 0; panel < kColumns / kPanelColumns; ++panel) {
          const int column = panel * kPanelColumns + lane_ % kEntries * kEntries;
          const bool valid = column < kEntriesOfRow && at >= 0;
          const Element* source = from + at + column * inner;
          char* chunk = line + panel * kRows * kPanelRowBytes;
          if (whole) cp_async<kVectorBytes>(chunk, valid ? source : nullptr, valid);
          else gather(chunk, source, inner, valid ? kEntriesOfRow - column : 0);
        }
      }
    }
  }

  // A chunk of entries that lie apart, `count` of them or less.
  static ATTNLANG_DEVICE void gather(char* chunk, const Element* from, int64_t stride, int count) {
#pragma unroll 1
    for (int e = 0; e < kEntries; ++e) {
      reinterpret_cast<Element*>(chunk)[e] = e < count ? from[e * stride] : Element{};
    }
  }

  ATTNLANG_DEVICE void wait(uint64_t* barrier, int parity) {
    if (mbarrier_try_wait(barrier, parity)) return;
    settle<0>();
    mbarrier_wait(barrier, parity);
  }
  ATTNLANG_DEVICE void commit(uint64_t* full) {
    cp_async_commit();
    settle<1>();
    unannounced_ = full;
  }
  // What this thread wrote for a stage, once it is there, is seen by wgmma.
  template <int kPending>
  ATTNLANG_DEVICE void settle() {
    if (unannounced_ == nullptr) return;
    cp_async_wait<kPending>();
    fence_async_shared();
    mbarrier_arrive(unannounced_);
    unannounced_ = nullptr;
  }

  L layout_;
  Calls calls_;
  const int warp_, lane_;
  uint64_t* unannounced_ = nullptr;
  Place<L::kQueryStages> queries_;
};

}  // namespace attnlang::cuda::sm90
