// What a block of the backward with mma.sync is: the rows of one side that it keeps, the tiles of
// the other side that it goes through, where they lie in shared memory, and how they come there.
#pragma once

#include <cstdint>

#include "attnlang/device/mma.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/device/softmax.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_gradient_rows.cuh"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_tiles.cuh"
#include "kernels/sm80_backward_work.cuh"
#include "kernels/sm80_load.cuh"

namespace attnlang::cuda {

template <class Variant, class Element, int kD, int kDV, BackwardShape kShape, Side kSide,
          bool kSums>
class Sm80BackwardBlock {
 public:
  static constexpr int kRows = kShape.rows;
  static constexpr int kTile = kShape.tile;
  static constexpr int kWarps = kShape.warps();
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr bool kOfKeys = kSide == Side::keys;

  using Launch = BackwardWork<Variant, Element>;

 protected:
  using Request = typename Variant::Request;
  using Params = typename Variant::Params;
  using First = SharedTile<Element, kD>;    // of q or k
  using Second = SharedTile<Element, kDV>;  // of what reached out, or of v
  static constexpr bool kTerms = Variant::kSoftmax;
  static constexpr int kRowWarps = kRows / 16;
  static_assert(kRows % 16 == 0 && kTile % 16 == 0);
  static_assert(kAnchorRows % (kOfKeys ? kTile : kRows) == 0, "rows of a tile have one anchor");
  static_assert(kD % 16 == 0 && kDV % 16 == 0, "head dimensions are multiples of 16");

  // Bytes of shared memory: the ranges, the rows, then two stages of tiles and of terms.
  static constexpr int kHeader = (sizeof(TileRanges) + 127) / 128 * 128;
  static constexpr int kRowBytes = First::bytes(kRows) + Second::bytes(kRows);
  static constexpr int kTileBytes = First::bytes(kTile) + Second::bytes(kTile);
  static constexpr int kTermBytes = kOfKeys && kTerms ? 2 * kTile * int{sizeof(float)} : 0;
  static constexpr int kStageBytes = (kTileBytes + kTermBytes + 127) / 128 * 128;

 public:
  static constexpr int kSharedBytes = kHeader + kRowBytes + 2 * kStageBytes;

 protected:
  ATTNLANG_DEVICE Sm80BackwardBlock(const Launch& work, const Params& params,
                                    const BackwardPlace& place)
      : work_(work),
        params_(params),
        shared_(dynamic_shared<char>()),
        b_(place.b),
        head_(place.head),
        row0_(place.row0) {
    const int warp = warp_index();
    lane_ = static_cast<int>(threadIdx.x) % kWarp;
    row_ = warp % kRowWarps * 16;
    part_ = warp / kRowWarps;
    extent_ = work.problem.extent(b_);
    const int all = kOfKeys ? extent_.keys : work.problem.queries;
    rows_ = row0_ >= all ? 0 : all - row0_ < kRows ? all - row0_ : kRows;
    others_ = kOfKeys ? work.problem.queries : extent_.keys;
  }

  ATTNLANG_DEVICE int row_of(int i) const { return row_ + lane_ / 4 + 8 * i; }
  ATTNLANG_DEVICE Request request_of(int h, int q_row) const {
    return work_.problem.template request<Variant>(params_, extent_, h,
                                                   anchor_of(q_row, work_.problem.queries));
  }

  // --- loads ---

  ATTNLANG_DEVICE TileRanges& ranges() const { return *reinterpret_cast<TileRanges*>(shared_); }
  ATTNLANG_DEVICE First first_rows() const {
    return {reinterpret_cast<Element*>(shared_ + kHeader)};
  }
  ATTNLANG_DEVICE Second second_rows() const {
    return {reinterpret_cast<Element*>(shared_ + kHeader + First::bytes(kRows))};
  }
  ATTNLANG_DEVICE char* stage(int s) const {
    return shared_ + kHeader + kRowBytes + s * kStageBytes;
  }
  ATTNLANG_DEVICE First first_tile(int s) const { return {reinterpret_cast<Element*>(stage(s))}; }
  ATTNLANG_DEVICE Second second_tile(int s) const {
    return {reinterpret_cast<Element*>(stage(s) + First::bytes(kTile))};
  }
  ATTNLANG_DEVICE float* terms(int s) const {
    return reinterpret_cast<float*>(stage(s) + kTileBytes);
  }

  // `count` rows from `first` on of those that `keeps` says; zeros for the others. `all`: it keeps
  // them all.
  template <int kCount, int kWidth, class Keeps>
  ATTNLANG_DEVICE void load(SharedTile<Element, kWidth> to, const VectorRows<const Element>& from,
                            int h, int first, int count, bool all, const Keeps& keeps) const {
    const int thread = static_cast<int>(threadIdx.x);
    const Element* base = from.row(b_, h, first);
    if (from.vectorised && all) {
      copy_rows<kCount, kThreads>(to, 0, base, from.stride[2], count, thread);
      return;
    }
    const auto row_of = [&](int r) -> const Element* {
      return r < count && keeps(r) ? base + r * from.stride[2] : nullptr;
    };
    gather_rows<kCount, kThreads>(to, 0, row_of, from.stride[3], from.vectorised, thread);
  }

  // What rows that see nothing hold must not meet a gradient of 0.
  template <int kCount>
  ATTNLANG_DEVICE void load_queries(First to, int h, int q0) const {
    const int count = work_.problem.queries - q0;
    const float* base = work_.terms.base + work_.terms.at(b_, h, q0);
    bool all = true;
    if constexpr (kTerms) {
#pragma unroll
      for (int r = lane_; r < kCount; r += kWarp)
        all = all && (r >= count || base[r] != -kInfinity);
      all = __all_sync(~0u, all) != 0;
    }
    load<kCount>(to, work_.problem.q, h, q0, count, all,
                 [&](int r) { return base[r] != -kInfinity; });
  }

  template <int kCount>
  ATTNLANG_DEVICE void load_out_grads(Second to, int h, int q0) const {
    load<kCount>(to, work_.out_grad, h, q0, work_.problem.queries - q0, true,
                 [](int) { return true; });
  }

  template <int kCount>
  ATTNLANG_DEVICE void load_keys(First keys, Second values, const Request* request, int h_kv,
                                 int k0, bool masked) const {
    const int count = extent_.keys - k0;
    load<kCount>(values, work_.problem.v, h_kv, k0, count, true, [](int) { return true; });
    // A hidden key's gradient of 0 must not meet NaN; where keys are rows, nothing is summed over
    // them.
    if constexpr (Variant::kColumnMask) {
      if (request != nullptr && masked) {
        load<kCount>(keys, work_.problem.k, h_kv, k0, count, false, [&](int r) {
          return Variant::column_keep(*request, Variant::column(*request, k0 + r));
        });
        return;
      }
    }
    load<kCount>(keys, work_.problem.k, h_kv, k0, count, true, [](int) { return true; });
  }

  ATTNLANG_DEVICE void load_rows(int h) const {
    if constexpr (kOfKeys) {
      load_keys<kRows>(first_rows(), second_rows(), nullptr, head_, row0_, false);
    } else {
      load_queries<kRows>(first_rows(), h, row0_);
      load_out_grads<kRows>(second_rows(), h, row0_);
    }
  }

  ATTNLANG_DEVICE void load_tile(const Request& request, int h, KeyTile tile, int s) const {
    if constexpr (kOfKeys) {
      load_queries<kTile>(first_tile(s), h, tile.k0);
      load_out_grads<kTile>(second_tile(s), h, tile.k0);
      if constexpr (kTerms) load_terms(h, tile.k0, s);
    } else {
      load_keys<kTile>(first_tile(s), second_tile(s), &request, h / work_.problem.group(), tile.k0,
                       tile.masked);
    }
  }

  ATTNLANG_DEVICE void load_terms(int h, int q0, int s) const {
    constexpr int kChunk = 4, kChunks = kTile / kChunk;
    const int at = static_cast<int>(threadIdx.x);
    if (at >= 2 * kChunks) return;
    const int64_t row = work_.terms.at(b_, h, q0);
    const float* delta = kSums ? work_.terms.exact : work_.terms.delta;
    const float* source = (at < kChunks ? work_.terms.base : delta) + row;
    cp_async<kVectorBytes>(terms(s) + kChunk * at, source + kChunk * (at % kChunks), true);
  }

  const Launch& work_;
  const Params& params_;
  char* const shared_;
  const int b_, head_;  // of keys, or of queries
  const int row0_;      // the block's first
  Extent extent_;
  int lane_, row_, part_;  // the warp's rows, and its part of the results
  int rows_;               // those of the block that exist
  int others_;             // the other side's
};

}  // namespace attnlang::cuda
