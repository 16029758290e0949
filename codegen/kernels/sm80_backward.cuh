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
#include "kernels/sm80_backward_block.cuh"
#include "kernels/sm80_load.cuh"

namespace attnlang::cuda {

template <class Variant, class Element, int kD, int kDV, BackwardShape kShape, Side kSide,
          bool kSums>
class Sm80Backward : private Sm80BackwardBlock<Variant, Element, kD, kDV, kShape, kSide, kSums> {
  using Block = Sm80BackwardBlock<Variant, Element, kD, kDV, kShape, kSide, kSums>;
  using typename Block::Params;
  using typename Block::Request;
  using Row = typename Variant::Row;
  using Column = typename Variant::Column;
  using Partials = PartialSums<Variant, kSide == Side::keys>;
  using Block::b_, Block::head_, Block::others_, Block::row0_, Block::rows_;
  using Block::first_rows, Block::first_tile, Block::second_rows, Block::second_tile;
  using Block::kTerms;
  using Block::lane_, Block::part_, Block::row_, Block::row_of, Block::request_of;
  using Block::load_rows, Block::load_tile, Block::ranges, Block::terms;
  using Block::work_;

  // 16-entry units of the results that are a warp's.
  static constexpr int units(int width) { return (width / 16 + kShape.split - 1) / kShape.split; }
  static constexpr int kUnits = units(kD), kValueUnits = units(kDV);

 public:
  using Block::kRows, Block::kTile, Block::kThreads, Block::kSharedBytes, Block::kOfKeys;
  using typename Block::Launch;
  using Functor = Variant;

  static ATTNLANG_DEVICE void run(const Launch& work, const Params& params,
                                  const BackwardPlace& place) {
    Sm80Backward(work, params, place).go();
  }

 private:
  struct State {
    float first[1][8 * kUnits];                      // dK or dQ
    float second[1][kOfKeys ? 8 * kValueUnits : 8];  // dV
    Partials partials;
  };

  using Block::Block;

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

  // --- tiles ---

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
    if constexpr (kSums) finish_partials(request, h, state);
  }

  // --- elements ---

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
    if constexpr (kSums) {
      if (work_.has_rest[b_ * work_.problem.heads + h] != 0) add_rests(h, o0, s, reached);
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

  // What rounding took of what reached out, times values. It is read where it lies: seldom there,
  // and not worth room beside the tiles.
  ATTNLANG_DEVICE void add_rests(int h, int o0, int s, float (&reached)[1][kTile / 2]) const {
    const Element* rows = work_.rests.row(b_, h, kOfKeys ? o0 : row0_ + row_) +
                          lane_ / 4 * work_.rests.stride[2] + 2 * (lane_ % 4);
    const auto pair = [&](int row, int entry) {
      return *reinterpret_cast<const uint32_t*>(rows + row * work_.rests.stride[2] + entry);
    };
#pragma unroll 1
    for (int step = 0; step < kDV / 16; ++step) {
      uint32_t a[1][4];
      if constexpr (kOfKeys) {
        load_a(a[0], second_rows(), row_, step, lane_);
#pragma unroll
        for (int n = 0; n < kTile / 8; ++n) {
          auto& sums = reinterpret_cast<float (&)[4]>(reached[0][4 * n]);
          mma_m16n8k16<Element>(sums, a[0], pair(8 * n, 16 * step), pair(8 * n, 16 * step + 8));
        }
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[0][i] = pair(i % 2 * 8, 16 * step + i / 2 * 8);
        multiply_rows(reached, a, second_tile(s), 0, step, lane_);
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
      const int64_t first = work_.terms.at(b_, h, row0_);
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

  ATTNLANG_DEVICE void finish_partials(const Request& request, int h, State& state) const {
    if (part_ != 0) return;  // others have the same sums
    const bool exists[2] = {row_of(0) < rows_, row_of(1) < rows_};
    const int first = row0_ + row_of(0), second = row0_ + row_of(1);
    if constexpr (kOfKeys) {
      const Column columns[2] = {Variant::column(request, first), Variant::column(request, second)};
      state.partials.finish_columns(request, columns, exists, lane_, work_.sums);
    } else {
      const Row rows[2] = {Variant::row(request, first), Variant::row(request, second)};
      float lacks[2] = {};
      if constexpr (kTerms) {
        const int64_t row = work_.terms.at(b_, h, row0_);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int64_t at = row + row_of(i);
          lacks[i] = state.partials.arguments(i) - work_.terms.total[at];
          if (lane_ % 4 == 0) work_.terms.exact[at] = work_.terms.delta[at] + lacks[i];
        }
      }
      state.partials.finish_rows(request, rows, exists, lacks, lane_, work_.sums);
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
      multiply_columns<0>(sums, a, tile, row, 16 * first, lane_);
    } else {
#pragma unroll
      for (int n = 0; n < kMine; ++n) {
        if (first + n >= kWidth / 16) break;
        auto& unit = reinterpret_cast<float (&)[1][8]>(sums[0][8 * n]);
        multiply_columns<0>(unit, a, tile, row, 16 * (first + n), lane_);
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
};

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, 1)
    sm80_backward_kernel(const __grid_constant__ typename Kernel::Launch work) {
  const auto params = Kernel::Functor::params(work.arguments);
  Kernel::run(work, params, place_in<Kernel::kOfKeys>(work, Kernel::kRows));
}

}  // namespace attnlang::cuda
