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
#include "kernels/sm90_layout.cuh"

namespace attnlang::cuda::sm90 {

struct Maps {
  TensorMap q, k, v;
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
template <class Variant, class Element, class L>
class TmaLoader {
 public:
  using Request = typename Variant::Request;
  static constexpr int kWarps = 1;
  static constexpr int kArrivals = 1;  // that fill a stage

  ATTNLANG_DEVICE TmaLoader(L layout, const Maps& maps, const Problem<Element>& problem)
      : layout_(layout), maps_(maps), problem_(problem), leader_(threadIdx.x % kWarp == 0) {
    if (leader_) tma_prefetch(&maps.q), tma_prefetch(&maps.k), tma_prefetch(&maps.v);
  }

  ATTNLANG_DEVICE void finish() const {}

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
                  panel * kPanelColumns, item.q0, item.h, item.b);
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
    copy_keys(place, message, full);
  }

  // Keys whose rows hold their values, too.
  ATTNLANG_DEVICE void shared(Place<L::kStages> place, const Message& message,
                              const Request& request, int kv_len) {
    auto& control = layout_.control();
    const bool hides = may_hide(message.masked(), kv_len);
    uint64_t* full = &control.k_full[place.stage];
    mbarrier_wait(&control.k_empty[place.stage], place.empty());
    if (leader_) {
      control.message[place.stage] = message;
      uint64_t* landed = hides ? &control.v_landed : full;
      mbarrier_expect(landed, L::kKeyBytes);
      copy_keys(place, message, landed);
    }
    if (hides) clear<L::kD>(layout_.keys(place.stage), request, message.k0, kv_len, full);
  }

  ATTNLANG_DEVICE void values(Place<L::kStages> place, const Request& request, const Item& item,
                              const KeyTile& tile, int kv_len) {
    auto& control = layout_.control();
    const bool hides = may_hide(tile.masked, kv_len);
    uint64_t* full = &control.v_full[place.stage];
    uint64_t* landed = hides ? &control.v_landed : full;
    mbarrier_wait(&control.v_empty[place.stage], place.empty());
    if (leader_) {
      mbarrier_expect(landed, L::kValueBytes);
#pragma unroll
      for (int panel = 0; panel < L::kDV / kPanelColumns; ++panel) {
        tma_load<4>(layout_.values(place.stage) + panel * L::kKeyPanel, &maps_.v, landed,
                    panel * kPanelColumns, tile.k0, item.h / problem_.group(), item.b);
      }
    }
    if (hides) clear<L::kDV>(layout_.values(place.stage), request, tile.k0, kv_len, full);
  }

 private:
  // Beyond the tensor's end TMA writes zeros; within it anything may lie.
  ATTNLANG_DEVICE bool may_hide(bool masked, int kv_len) const {
    return masked && (Variant::kColumnMask || kv_len < problem_.keys);
  }

  ATTNLANG_DEVICE void copy_keys(Place<L::kStages> place, const Message& message,
                                 uint64_t* barrier) const {
#pragma unroll
    for (int panel = 0; panel < L::kD / kPanelColumns; ++panel) {
      tma_load<4>(layout_.keys(place.stage) + panel * L::kKeyPanel, &maps_.k, barrier,
                  panel * kPanelColumns, message.k0, message.item.h / problem_.group(),
                  message.item.b);
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
        char* at = rows + (first + __ffs(static_cast<int>(bits)) - 1) * kPanelRowBytes + lane * 4;
#pragma unroll
        for (int panel = 0; panel < kColumns / kPanelColumns; ++panel) {
          *reinterpret_cast<uint32_t*>(at + panel * L::kKeyPanel) = 0;
        }
      }
    }
    fence_async_shared();
    __syncwarp();
    if (leader_) mbarrier_arrive(full);
  }

  L layout_;
  const Maps& maps_;
  const Problem<Element>& problem_;
  bool leader_;
  Place<L::kQueryStages> queries_;
  int landed_round_ = 0;
};

// Three warps, each thread a 16-byte chunk of a row at a time. A thread's copies are
// announced when the next batch is under way, or when it would wait for the consumers.
template <class Variant, class Element, class L, int kWidth, int kValueWidth>
class GatherLoader {
 public:
  using Request = typename Variant::Request;
  static constexpr int kWarps = 3;
  static constexpr int kArrivals = kWarps * kWarp;

  ATTNLANG_DEVICE GatherLoader(L layout, const Problem<Element>& problem)
      : layout_(layout), problem_(problem) {}

  ATTNLANG_DEVICE void finish() { settle<0>(); }

  ATTNLANG_DEVICE void queries(const Item& item) {
    auto& control = layout_.control();
    const Place<L::kQueryStages> place = queries_;
    queries_.advance();
    wait(&control.q_empty[place.stage], place.empty());
    const auto there = [&](int row) { return item.q0 + row < problem_.queries; };
    copy<L::kD, kWidth, L::kQueryTile>(layout_.queries(place.stage), problem_.q, item.b, item.h,
                                       item.q0, there);
    commit(&control.q_full[place.stage]);
  }

  ATTNLANG_DEVICE void shared(Place<L::kStages> place, const Message& message,
                              const Request& request, int kv_len) {
    auto& control = layout_.control();
    wait(&control.k_empty[place.stage], place.empty());
    if (threadIdx.x == 0) control.message[place.stage] = message;
    const auto there = [&](int row) {
      return message.masked() ? !is_hidden<Variant>(request, message.k0 + row, kv_len) : true;
    };
    copy<L::kD, kWidth, L::kKeyTile>(layout_.keys(place.stage), problem_.k, message.item.b,
                                     message.item.h / problem_.group(), message.k0, there);
    commit(&control.k_full[place.stage]);
  }

  ATTNLANG_DEVICE void keys(Place<L::kStages> place, const Message& message) {
    auto& control = layout_.control();
    wait(&control.k_empty[place.stage], place.empty());
    if (threadIdx.x == 0) control.message[place.stage] = message;
    if (!message.empty()) {
      const auto there = [&](int row) { return message.k0 + row < problem_.keys; };
      copy<L::kD, kWidth, L::kKeyTile>(layout_.keys(place.stage), problem_.k, message.item.b,
                                       message.item.h / problem_.group(), message.k0, there);
    }
    commit(&control.k_full[place.stage]);
  }

  ATTNLANG_DEVICE void values(Place<L::kStages> place, const Request& request, const Item& item,
                              const KeyTile& tile, int kv_len) {
    auto& control = layout_.control();
    wait(&control.v_empty[place.stage], place.empty());
    const auto there = [&](int row) {
      return tile.masked ? !is_hidden<Variant>(request, tile.k0 + row, kv_len) : true;
    };
    copy<L::kDV, kValueWidth, L::kKeyTile>(layout_.values(place.stage), problem_.v, item.b,
                                           item.h / problem_.group(), tile.k0, there);
    commit(&control.v_full[place.stage]);
  }

 private:
  static constexpr int kEntries = 8;  // of a chunk

  // Rows first .. first + kRows - 1 of one head: `kEntriesOfRow` entries, zeros up to kColumns.
  template <int kColumns, int kEntriesOfRow, int kRows, class There>
  ATTNLANG_DEVICE void copy(char* to, const VectorRows<const Element>& rows, int b, int h,
                            int first, const There& there) const {
    constexpr int kChunks = kColumns / kEntries;
    const bool whole = rows.vectorised && kEntriesOfRow % kEntries == 0;
    const Element* from = rows.row(b, h, first);
    for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += kArrivals) {
      const int row = i / kChunks, chunk = i % kChunks, column = chunk * kEntries;
      char* at = to + chunk / 8 * kRows * kPanelRowBytes + row * kPanelRowBytes +
                 ((chunk ^ row) & 7) * kVectorBytes;
      const bool valid = column < kEntriesOfRow && there(row);
      const Element* source = from + row * rows.stride[2] + column * rows.stride[3];
      if (whole) {
        cp_async<kVectorBytes>(at, source, valid);
      } else {
        uint32_t words[kEntries / 2] = {};
        if (valid) gather(words, source, rows.stride[3], kEntriesOfRow - column);
#pragma unroll
        for (int word = 0; word < kEntries / 2; ++word) {
          reinterpret_cast<uint32_t*>(at)[word] = words[word];
        }
      }
    }
  }

  static ATTNLANG_DEVICE void gather(uint32_t (&words)[kEntries / 2], const Element* from,
                                     int64_t stride, int entries) {
#pragma unroll
    for (int e = 0; e < kEntries; ++e) {
      if (e < entries) words[e / 2] |= uint32_t{from[e * stride].bits} << (e % 2 * 16);
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
  const Problem<Element>& problem_;
  uint64_t* unannounced_ = nullptr;
  Place<L::kQueryStages> queries_;
};

}  // namespace attnlang::cuda::sm90
