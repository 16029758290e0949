// The gradients of attention with mma.sync: a warp owns 16 rows of one side, keys or queries, and
// goes through tiles of the other, which asynchronous copies bring in.
//
//   keys:     S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q
//   queries:  S = Q K^T, dP = dO V^T, dQ += dS K
//
// Both sides compute scores and weights again, from the lse: seven products where five would do,
// and no gradient is ever added by two blocks, so results are the same, bit for bit, every time.
// The accumulators of the first two products are the left operands of the others, as they stand.
#pragma once

#include <cstdint>

#include "attnlang/device/mma.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/device/softmax.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_gradient_rows.cuh"
#include "kernels/cuda_gradients.cuh"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_tiles.cuh"
#include "kernels/sm80_backward_work.cuh"
#include "kernels/sm80_load.cuh"

namespace attnlang::cuda {

template <class Variant, class Element, int kD, int kDV, BackwardShape kShape, Side kSide,
          bool kSums>
class Sm80Backward {
 public:
  static constexpr int kRows = kShape.rows;
  static constexpr int kTile = kShape.tile;
  static constexpr int kWarps = kShape.warps();
  static constexpr int kThreads = kWarps * kWarp;

  using Launch = BackwardWork<Variant, Element>;

 private:
  using Request = typename Variant::Request;
  using Params = typename Variant::Params;
  using Row = typename Variant::Row;
  using Column = typename Variant::Column;
  using First = SharedTile<Element, kD>;    // of q or k
  using Second = SharedTile<Element, kDV>;  // of what reached out, or of v
  static constexpr bool kOfKeys = kSide == Side::keys;
  static constexpr bool kTerms = Variant::kSoftmax;
  static constexpr int kRowWarps = kRows / 16;
  static_assert(kRows % 16 == 0 && kTile % 16 == 0);
  static_assert(kAnchorRows % (kOfKeys ? kTile : kRows) == 0, "rows of a tile have one anchor");
  static_assert(kD % 16 == 0 && kDV % 16 == 0, "head dimensions are multiples of 16");

  // 16-entry units of the results that are a warp's.
  static constexpr int units(int width) { return (width / 16 + kShape.split - 1) / kShape.split; }
  static constexpr int kUnits = units(kD), kValueUnits = units(kDV);

  using Partials = PartialSums<Variant, kOfKeys>;

  // Bytes of shared memory: the ranges, the rows, then two stages of tiles and of terms.
  static constexpr int kHeader = (sizeof(TileRanges) + 127) / 128 * 128;
  static constexpr int kRowBytes = First::bytes(kRows) + Second::bytes(kRows);
  static constexpr int kTileBytes = First::bytes(kTile) + Second::bytes(kTile);
  static constexpr int kTermBytes = kOfKeys && kTerms ? 2 * kTile * int{sizeof(float)} : 0;
  static constexpr int kStageBytes = (kTileBytes + kTermBytes + 127) / 128 * 128;

 public:
  static constexpr int kSharedBytes = kHeader + kRowBytes + 2 * kStageBytes;

  static ATTNLANG_DEVICE void run(const Launch& work) {
    const Params params = Variant::params(work.arguments);
    Sm80Backward(work, params).go();
  }

 private:
  struct State {
    float first[1][8 * kUnits];                      // dK or dQ
    float second[1][kOfKeys ? 8 * kValueUnits : 8];  // dV
    Partials partials;
  };

  ATTNLANG_DEVICE Sm80Backward(const Launch& work, const Params& params)
      : work_(work), params_(params), shared_(dynamic_shared<char>()) {
    const auto place = work.order[static_cast<int>(blockIdx.x)];
    const int warp = warp_index();
    lane_ = static_cast<int>(threadIdx.x) % kWarp;
    row_ = warp % kRowWarps * 16;
    part_ = warp / kRowWarps;
    if constexpr (kOfKeys) {
      b_ = place.head / work.problem.kv_heads;
      head_ = place.head % work.problem.kv_heads;
      row0_ = (work.order.tiles - 1 - place.tile) * kRows;  // the first are seen by most rows
    } else {
      b_ = work.first_b + place.head / work.heads;
      head_ = work.first_h + place.head % work.heads;
      row0_ = place.tile * kRows;
    }
    extent_ = work.problem.extent(b_);
    const int all = kOfKeys ? extent_.keys : work.problem.queries;
    rows_ = row0_ >= all ? 0 : all - row0_ < kRows ? all - row0_ : kRows;
    others_ = kOfKeys ? work.problem.queries : extent_.keys;
  }

  ATTNLANG_DEVICE void go() const {
    State state = {};
    if (rows_ > 0) {
      if constexpr (kOfKeys) {
        const int group = work_.problem.group();
        for (int h = head_ * group; h < (head_ + 1) * group; ++h) go_through(h, state);
      } else {
        go_through(head_, state);
      }
    }
    write<kD>(kOfKeys ? work_.k : work_.q, state.first[0]);
    if constexpr (kOfKeys) write<kDV>(work_.v, state.second[0]);
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
    const float* base = work_.terms.base + work_.terms.at(b_ * work_.problem.heads + h, q0);
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
    const int64_t row = work_.terms.at(b_ * work_.problem.heads + h, q0);
    const float* source = (at < kChunks ? work_.terms.base : work_.terms.delta) + row;
    cp_async<kVectorBytes>(terms(s) + kChunk * at, source + kChunk * (at % kChunks), true);
  }

  // --- tiles ---

  ATTNLANG_DEVICE Request request_of(int h, int q_row) const {
    return work_.problem.template request<Variant>(params_, extent_, h,
                                                   anchor_of(q_row, work_.problem.queries));
  }
  ATTNLANG_DEVICE int others_tiles() const { return (others_ + kTile - 1) / kTile; }

  // One thread's work.
  ATTNLANG_DEVICE void find(const Request& request) const {
    if constexpr (!kOfKeys) {
      find_ranges<Variant>(ranges(), request, row0_, row0_ + rows_, others_, kTile);
    } else if (others_tiles() > kTilesWithoutRanges) {
      ranges().set(query_coverage<Variant>(request, row0_, row0_ + rows_), others_, kTile);
    } else {
      ranges().set_unknown(others_tiles());
    }
  }

  ATTNLANG_DEVICE void go_through(int h, State& state) const {
    const Request request = request_of(h, kOfKeys ? 0 : row0_);
    if (kOfKeys && h % work_.problem.group() != 0) __syncthreads();  // the head before is done
    if constexpr (Variant::kMask) {
      if (threadIdx.x == 0) find(request);
      __syncthreads();
    }
    const int r0 = row0_, r1 = row0_ + rows_;
    const auto verdicts = [&](int o0, int o1) {
      return kOfKeys ? tile_verdict<Variant>(request, o0, o1, r0, r1)
                     : tile_verdict<Variant>(request, r0, r1, o0, o1);
    };
    KeyTiles<Variant::kMask, kTile, decltype(verdicts)> list(ranges(), 0, others_tiles(), others_,
                                                             verdicts);
    if constexpr (kSums) state.partials.start();
    if (!kOfKeys || h % work_.problem.group() == 0) load_rows(h);
    KeyTile next = list.next();
    if (next.valid()) load_tile(request, h, next, 0);
    cp_async_commit();
    for (int s = 0; next.valid(); s ^= 1) {
      const KeyTile tile = next;
      cp_async_wait<0>();
      __syncthreads();  // the tile is there, and every warp is done with the one before
      next = list.next();
      if (next.valid()) load_tile(request, h, next, s ^ 1);
      cp_async_commit();
      if (tile.masked || rows_ < kRows) compute<true>(request, h, tile.k0, s, state);
      else compute<false>(request, h, tile.k0, s, state);
    }
    cp_async_wait<0>();
    if constexpr (kSums) finish_partials(request, state);
  }

  // --- elements ---

  ATTNLANG_DEVICE int row_of(int i) const { return row_ + lane_ / 4 + 8 * i; }

  template <bool kMasked>
  ATTNLANG_DEVICE void compute(const Request& request, int h, int o0, int s, State& state) const {
    float dots[1][kTile / 2] = {}, reached[1][kTile / 2] = {};
#pragma unroll 4
    for (int step = 0; step < kD / 16; ++step) {
      uint32_t a[1][4];
      load_a(a[0], first_rows(), row_, step, lane_);
      multiply_rows(dots, a, first_tile(s), 0, step, lane_);
    }
#pragma unroll 4
    for (int step = 0; step < kDV / 16; ++step) {
      uint32_t a[1][4];
      load_a(a[0], second_rows(), row_, step, lane_);
      multiply_rows(reached, a, second_tile(s), 0, step, lane_);
    }
    if constexpr (kOfKeys) {
      of_keys<kMasked>(request_of(h, o0), o0, s, dots[0], reached[0], state);
    } else {
      of_queries<kMasked>(request, h, o0, dots[0], reached[0], state);
    }
#pragma unroll
    for (int step = 0; step < kTile / 16; ++step) {
      uint32_t a[1][4];
      pack_a<Element>(a[0], reached[0], step);
      accumulate<kD>(state.first, a, first_tile(s), 16 * step);
      if constexpr (kOfKeys) {
        pack_a<Element>(a[0], dots[0], step);
        accumulate<kDV>(state.second, a, second_tile(s), 16 * step);
      }
    }
  }

  // Dots and what reached the weights to weights and slopes. A query's values are made once for the
  // thread's two keys.
  template <bool kMasked>
  ATTNLANG_DEVICE void of_keys(const Request& request, int q0, int s, float (&dots)[kTile / 2],
                               float (&reached)[kTile / 2], State& state) const {
    const Column columns[2] = {Variant::column(request, row0_ + row_of(0)),
                               Variant::column(request, row0_ + row_of(1))};
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int other = 8 * n + 2 * (lane_ % 4) + c;
        const Row row = Variant::row(request, q0 + other);
        const float base = kTerms ? terms(s)[other] : 0.0f;
        const float delta = kTerms ? terms(s)[kTile + other] : 0.0f;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const bool exists = row_of(i) < rows_ && q0 + other < others_;
          element<kMasked>(i, fragment_index(n, i, c), request, row, columns[i], exists, base,
                           delta, dots, reached, state);
        }
      }
    }
  }

  template <bool kMasked>
  ATTNLANG_DEVICE void of_queries(const Request& request, int h, int k0, float (&dots)[kTile / 2],
                                  float (&reached)[kTile / 2], State& state) const {
    float base[2] = {}, delta[2] = {};
    const Row rows[2] = {Variant::row(request, row0_ + row_of(0)),
                         Variant::row(request, row0_ + row_of(1))};
    if constexpr (kTerms) {
      const int64_t first = work_.terms.at(b_ * work_.problem.heads + h, row0_);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        base[i] = work_.terms.base[first + row_of(i)];
        delta[i] = work_.terms.delta[first + row_of(i)];
      }
    }
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int other = 8 * n + 2 * (lane_ % 4) + c;
        const Column column = Variant::column(request, k0 + other);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const bool exists = row_of(i) < rows_ && k0 + other < others_;
          element<kMasked>(i, fragment_index(n, i, c), request, rows[i], column, exists, base[i],
                           delta[i], dots, reached, state);
        }
      }
    }
  }

  template <bool kMasked>
  ATTNLANG_DEVICE void element(int i, int at, const Request& request, const Row& row,
                               const Column& column, bool exists, float base, float delta,
                               float (&dots)[kTile / 2], float (&reached)[kTile / 2],
                               State& state) const {
    const float dot = dots[at];
    const ElementGradient e = element_gradient<Variant, kMasked>(request, row, column, exists, dot,
                                                                 reached[at], base, delta);
    dots[at] = e.weight;
    reached[at] = e.slope;
    if constexpr (kSums) {
      state.partials.add(i, request, row, column, dot, e, part_ == 0, work_.sums);
    }
  }

  ATTNLANG_DEVICE void finish_partials(const Request& request, State& state) const {
    if (part_ != 0) return;  // others have the same sums
    const bool exists[2] = {row_of(0) < rows_, row_of(1) < rows_};
    const int first = row0_ + row_of(0), second = row0_ + row_of(1);
    if constexpr (kOfKeys) {
      const Column columns[2] = {Variant::column(request, first), Variant::column(request, second)};
      state.partials.finish_columns(request, columns, exists, lane_, work_.sums);
    } else {
      const Row rows[2] = {Variant::row(request, first), Variant::row(request, second)};
      state.partials.finish_rows(request, rows, exists, lane_, work_.sums);
    }
  }

  // --- results ---

  // sums += A B for the warp's entries of B, whose 16 rows are those of `tile` from `row` on.
  template <int kWidth, int kValues>
  ATTNLANG_DEVICE void accumulate(float (&sums)[1][kValues], const uint32_t (&a)[1][4],
                                  SharedTile<Element, kWidth> tile, int row) const {
    constexpr int kMine = units(kWidth);
    const int first = part_ * kMine;
    if constexpr (kMine * kShape.split == kWidth / 16) {
      multiply_columns(sums, a, tile, row, 16 * first, lane_);
    } else {
#pragma unroll
      for (int n = 0; n < kMine; ++n) {
        if (first + n >= kWidth / 16) break;
        auto& unit = reinterpret_cast<float (&)[1][8]>(sums[0][8 * n]);
        multiply_columns(unit, a, tile, row, 16 * (first + n), lane_);
      }
    }
  }

  // Rows that are not the request's get zeros.
  template <int kWidth, int kValues>
  ATTNLANG_DEVICE void write(const VectorRows<Element>& to, const float (&sums)[kValues]) const {
    constexpr int kMine = units(kWidth);
    const int all = kOfKeys ? work_.problem.keys : work_.problem.queries;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = row0_ + row_of(i);
      if (at >= all) continue;
      Element* row = to.row(b_, head_, at) + 2 * (lane_ % 4);
#pragma unroll
      for (int n = 0; n < 2 * kMine; ++n) {
        const int column = 16 * part_ * kMine + 8 * n;
        if (kMine * kShape.split != kWidth / 16 && column >= kWidth) break;
        *reinterpret_cast<uint32_t*>(row + column) =
            pack<Element>(sums[fragment_index(n, i, 0)], sums[fragment_index(n, i, 1)]);
      }
    }
  }

  const Launch& work_;
  const Params& params_;
  char* const shared_;
  Extent extent_;
  int lane_, row_, part_;  // the warp's rows, and its part of the results
  int b_, head_;           // of keys, or of queries
  int row0_, rows_;        // those of the block that exist
  int others_;             // the other side's
};

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, 1)
    sm80_backward_kernel(const __grid_constant__ typename Kernel::Launch work) {
  Kernel::run(work);
}

}  // namespace attnlang::cuda
