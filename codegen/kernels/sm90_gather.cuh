// Rows of any layout into the stages of a Hopper kernel, by copies of 16 bytes, of entries, or of
// narrow entries that are converted on their way.
#pragma once

#include <cstdint>

#include "attnlang/device/mbarrier.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_stored.cuh"
#include "kernels/cuda_tiles.cuh"
#include "kernels/sm90_calls.cuh"
#include "kernels/sm90_layout.cuh"
#include "kernels/sm90_loaders.cuh"
#include "kernels/sm90_pages.cuh"

namespace attnlang::cuda::sm90 {

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
  ATTNLANG_DEVICE bool loads_keys() const { return true; }
  ATTNLANG_DEVICE bool loads_values() const { return true; }

  // As TmaLoader::look_up.
  ATTNLANG_DEVICE void look_up(int k0, int after, int kv_len) {
    if constexpr (kInPages<Variant, Calls, true> || kInPages<Variant, Calls, false>) {
      const Pages& pages = calls_.problem().pages;
      if (pages.size == 0) return;
      numbers_.turn(pages, k0, after, kv_len, [&](int e) { return own_row(e); });
    }
  }

  ATTNLANG_DEVICE void queries(const Item& item) {
    auto& control = layout_.control();
    const Place<L::kQueryStages> place = queries_;
    queries_.advance();
    wait(&control.q_empty[place.stage], place.empty());
    const VectorRows<const Element>& q = calls_.problem().q;
    const auto offset_of = [&](int, int row) -> int64_t {
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
    copy_columns<true, L::kD, kWidth>(layout_.keys(place.stage), calls_.problem().k, message.item,
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
      copy_columns<true, L::kD, kWidth>(layout_.keys(place.stage), calls_.problem().k, message.item,
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
    copy_columns<false, L::kDV, kValueWidth>(layout_.values(place.stage), calls_.problem().v, item,
                                             tile.k0, there);
    commit(&control.v_full[place.stage]);
  }

 private:
  static constexpr int kEntries = 8;                // of a chunk
  static constexpr int kTogether = 4;               // rows that a warp copies from at once
  static constexpr int kTurns = kWarp / kTogether;  // until all rows of its lanes are copied

  template <int kColumns>
  static constexpr int kPanels = kColumns / kPanelColumns;
  static constexpr int kOfLane =  // rows of a key tile that a lane looks up
      (L::kKeyTile + kWarps * kWarp - 1) / (kWarps * kWarp);

  // Row `place` of the four that the warp copies in turn `turn`.
  ATTNLANG_DEVICE int row_of(int turn, int place) const {
    return kTogether * (warp_ + kWarps * turn) + place;
  }
  // The row that the lane looks up for the turns from e * kTurns on.
  ATTNLANG_DEVICE int own_row(int e) const {
    return row_of(e * kTurns + lane_ / kTogether, lane_ % kTogether);
  }

  // Keys or values of a tile; There: column -> whether its row is copied. Others become zeros.
  template <bool kKeys, int kColumns, int kEntriesOfRow, class There>
  ATTNLANG_DEVICE void copy_columns(char* to, const VectorRows<const Element>& rows,
                                    const Item& item, int k0, const There& there) const {
    const int head = item.h / calls_.problem().group();
    const auto offset_of = [&](int e, int row) -> int64_t {
      const int column = k0 + row;
      if (!there(column)) return -1;
      if constexpr (kInPages<Variant, Calls, kKeys>) {
        const Pages& pages = calls_.problem().pages;
        if (pages.size != 0) {
          const int64_t page = numbers_.number(pages, k0, e);
          return page * rows.stride[0] + column % pages.size * rows.stride[2];
        }
      }
      return item.b * rows.stride[0] + column * rows.stride[2];
    };
    const int64_t of_head = head * rows.stride[1];
    if constexpr (kInPages<Variant, Calls, kKeys>) {
      const Pages& pages = calls_.problem().pages;
      const Stored& stored = kKeys ? pages.keys : pages.values;
      if (pages.size != 0 && stored.converted) {
        const char* from = reinterpret_cast<const char*>(rows.data) + of_head;
        convert<kColumns, kEntriesOfRow, L::kKeyTile>(to, from, rows, stored, stored.scale(head),
                                                      offset_of);
        return;
      }
    }
    copy<kColumns, kEntriesOfRow, L::kKeyTile>(to, rows.data + of_head, rows, offset_of);
  }

  // kRows rows of one head, `kEntriesOfRow` entries each and zeros up to kColumns. OffsetOf: (e,
  // row) -> where the lane's own row e begins behind `from`; negative: the row becomes zeros.
  template <int kColumns, int kEntriesOfRow, int kRows, class OffsetOf>
  ATTNLANG_DEVICE void copy(char* to, const Element* from, const VectorRows<const Element>& rows,
                            const OffsetOf& offset_of) const {
    const int first = lane_ % kEntries * kEntries;
    if (rows.vectorised && kEntriesOfRow % kEntries == 0) {
      each_row<kRows, 1>(to, offset_of, [&](char*(&lines)[1], const int64_t (&at)[1]) {
        const Element* source = from + at[0] + first;
#pragma unroll
        for (int panel = 0; panel < kPanels<kColumns>; ++panel) {
          const int column = panel * kPanelColumns;
          const bool valid = column + first < kEntriesOfRow && at[0] >= 0;
          cp_async<kVectorBytes>(lines[0] + panel * kRows * kPanelRowBytes,
                                 valid ? source + column : nullptr, valid);
        }
      });
      return;
    }
    const int64_t inner = rows.stride[3];
    each_row<kRows, 1>(to, offset_of, [&](char*(&lines)[1], const int64_t (&at)[1]) {
#pragma unroll 1
      for (int panel = 0; panel < kPanels<kColumns>; ++panel) {
        const int column = panel * kPanelColumns + first;
        gather(lines[0] + panel * kRows * kPanelRowBytes, from + at[0] + column * inner, inner,
               at[0] >= 0 ? kEntriesOfRow - column : 0);
      }
    });
  }

  // The same of rows of narrow entries, which are converted: loads, of which several
  // are to be on their way.
  template <int kColumns, int kEntriesOfRow, int kRows, class OffsetOf>
  ATTNLANG_DEVICE void convert(char* to, const char* from, const VectorRows<const Element>& rows,
                               const Stored& stored, float scale, const OffsetOf& offset_of) const {
    constexpr int kBatch = kPanels<kColumns> > 2 ? 2 : 4;
    const int first = lane_ % kEntries * kEntries;
    each_row<kRows, kBatch>(to, offset_of, [&](char*(&lines)[kBatch], const int64_t (&at)[kBatch]) {
      uint2 chunks[kBatch][kPanels<kColumns>];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
#pragma unroll
        for (int panel = 0; panel < kPanels<kColumns>; ++panel) {
          const int column = panel * kPanelColumns + first;
          const bool valid = column < kEntriesOfRow && at[i] >= 0;
          chunks[i][panel] = make_uint2(0, 0);
          if (!valid) continue;
          const int64_t inner = rows.stride[3];
          chunks[i][panel] = eight_entries(from + at[i] + column * inner, inner, rows.vectorised);
        }
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (lines[i] == nullptr) break;
#pragma unroll
        for (int panel = 0; panel < kPanels<kColumns>; ++panel) {
          *reinterpret_cast<uint4*>(lines[i] + panel * kRows * kPanelRowBytes) =
              converted<Element>(chunks[i][panel], stored, scale);
        }
      }
    });
  }

  // The warp's rows of kRows. CopyRows: where the lane's chunks of kBatch rows go (null: there is
  // no such row), and where these rows begin; 8 lanes have the chunks of 128 bytes of a row.
  template <int kRows, int kBatch, class OffsetOf, class CopyRows>
  ATTNLANG_DEVICE void each_row(char* to, const OffsetOf& offset_of,
                                const CopyRows& copy_rows) const {
    constexpr int kOfWarp = (kRows + kTogether * kWarps - 1) / (kTogether * kWarps);  // turns
    // Rows of one turn and the next are 12 apart: their chunks' places differ by 4.
    static_assert(kTogether * kWarps % 8 == 4);
    const int row = row_of(0, lane_ / kEntries);
    int place = row * kPanelRowBytes + ((lane_ ^ row) & 7) * kVectorBytes;
#pragma unroll 1
    for (int first = 0; first < kOfWarp; first += kTurns) {
      const int own = own_row(first / kTurns);
      const int64_t offset = own < kRows ? offset_of(first / kTurns, own) : -1;
#pragma unroll 1
      for (int turn = 0; turn < kTurns && row_of(first + turn, 0) < kRows; turn += kBatch) {
        char* lines[kBatch];
        int64_t at[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          lines[i] = row_of(first + turn + i, 0) < kRows ? to + place : nullptr;
          at[i] = __shfl_sync(~0u, offset, kTogether * (turn + i) + lane_ / kEntries);
          place = (place + kTogether * kWarps * kPanelRowBytes) ^ (4 * kVectorBytes);
        }
        copy_rows(lines, at);
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
  PageNumbers<kOfLane> numbers_;
};

}  // namespace attnlang::cuda::sm90
