// Attention with mma.sync: warps of 16-row tiles over key tiles that asynchronous copies bring in,
// kStages of them in a ring.
//
// The warps of a block stand in a grid: kRowWarps share out the rows; kKeyWarps the keys of each
// tile, and join their states at the end (few rows, as in decoding: then a warp loads what it
// reads, and waits for no other); kValueWarps the entries of v, each for itself going through the
// whole first product (values too long for one warp's registers).
#pragma once

#include <utility>

#include "attnlang/device/launch.cuh"
#include "attnlang/device/mma.cuh"
#include "attnlang/device/narrow.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/device/softmax.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_combine.cuh"
#include "kernels/cuda_epilogue.cuh"
#include "kernels/cuda_items.cuh"
#include "kernels/cuda_scores.cuh"
#include "kernels/cuda_tiles.cuh"
#include "kernels/sm80_forward_block.cuh"
#include "kernels/sm80_load.cuh"
#include "kernels/sm80_results.cuh"

namespace attnlang::cuda {

// PageElement: what pages hold, another type than Element where they are of 8-bit floats.
template <class Variant, class Element, int kD, int kDV, Sm80Shape kShape,
          class PageElement = Element>
class Sm80Forward : private Sm80ForwardBlock<Variant, Element, kD, kDV, kShape, PageElement> {
  using Block = Sm80ForwardBlock<Variant, Element, kD, kDV, kShape, PageElement>;
  using Block::anchor_of, Block::request_of, Block::rows_of, Block::warp_part;
  using Block::area, Block::keys, Block::last_part, Block::queries, Block::ranges, Block::values;
  using Block::column_at, Block::load_tile, Block::seek, Block::selects, Block::wait_for_loaders;
  using Block::find_item_ranges, Block::kStateBytes, Block::verdict_of, Block::visited;
  using Block::halve_queries, Block::kHalvesWeights, Block::kWeightScale, Block::scales;
  using Block::item_, Block::keys_, Block::params_, Block::work_;
  using Block::kAlone, Block::kSeeks, Block::kWidensKeys, Block::kWidensValues;
  using Block::key_warp_, Block::lane_, Block::row_warp_, Block::value_warp_;
  using Block::kPacked, Block::kStages, Block::kRowTiles, Block::kSteps;
  using Block::kWarpKeys, Block::kWarpValues, Block::kWarps, Block::kWithin;
  using typename Block::KeyProduct;
  using typename Block::Request;
  using typename Block::Results;
  using typename Block::Rows;
  using typename Block::ValueProduct;
  static constexpr bool kQueriesStay =
      kRowTiles == 1 && kD <= (kPacked ? 128 : 64) && kShape.blocks <= 2;  // in registers

 public:
  using Block::kRows, Block::kThreads, Block::kKeyTile, Block::kBlocks, Block::kSharedBytes;
  using typename Block::Launch;
  using typename Block::Params;
  // Key tiles whose part is worth its merge.
  static constexpr int kLeastPiece = (kShape.packed ? kLeastOfFew : kLeastOfMany) / kKeyTile;
  // Key tiles in whose time an item starts and ends: tables, queries and first keys come one after
  // another.
  static constexpr int kStartTiles =
      kShape.packed && kStartOfFew > kKeyTile ? kStartOfFew / kKeyTile : 1;
  static constexpr int kCounters = 1;

  static ATTNLANG_DEVICE void run(const Launch& work) {
    run(work, item_of<kPacked, kRows>(work, static_cast<int>(blockIdx.x)));
  }

  // Floats of the states of an item's rows over some of its keys.
  static constexpr int64_t kItemFloats = int64_t{kRows} * kStateFloats<kDV>;

  // `item`: what block blockIdx.x works on; blockIdx.y is the part of its keys, unless a schedule
  // has another `cut`.
  static ATTNLANG_DEVICE void run(const Launch& work, const Item& item) {
    run(work, Variant::params(work.arguments), item);
  }
  // Where the values of the call are at hand.
  static ATTNLANG_DEVICE void run(const Launch& work, const Params& params, const Item& item,
                                  const Cut* cut = nullptr) {
    Sm80Forward block(work, params, item, cut);
    block.load_queries();
    block.go(std::make_integer_sequence<int, kRowTiles>{});
  }

  // The key tiles from the first to the last that the mask leaves. A warp's work.
  static ATTNLANG_DEVICE int tiles(const Launch& work, const Item& item) {
    const Params params = Variant::params(work.arguments);
    const Sm80Forward block(work, params, item, nullptr);
    const Request request = block.request_of(0);
    const TileSpan span =
        block.visited([&](int k0, int k1) { return block.verdict_of(request, k0, k1); });
    return span.end - span.begin;
  }

 private:
  ATTNLANG_DEVICE Sm80Forward(const Launch& work, const Params& params, const Item& item,
                              const Cut* cut)
      : Block(work, params, item), scheduled_(cut) {}

  struct State {
    float acc[kRowTiles][kWarpValues / 2];
    RowState rows[kRowTiles][2];
  };

  // Made anew where it is needed: registers are dear in between.
  ATTNLANG_DEVICE Cut cut() const {
    return scheduled_ == nullptr ? Cut::even(work_.parts, kItemFloats) : *scheduled_;
  }

  template <int... kTile>
  ATTNLANG_DEVICE void go(std::integer_sequence<int, kTile...>) const {
    const Rows rows[kRowTiles] = {rows_of(kTile)...};
    const Request request = request_of(0);
    if (Variant::kMask && threadIdx.x == 0) find_item_ranges(request);
    if constexpr (Variant::kMask) __syncthreads();
    State state;
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (float& sum : state.acc[i]) sum = 0.0f;
    }
    const auto verdicts = [&](int k0, int k1) { return verdict_of(request, k0, k1); };
    TileSpan span{0, (keys_ + kKeyTile - 1) / kKeyTile};
    if (const Cut cut = this->cut(); cut.count > 1) {
      span = visited(verdicts);
      span = cut.begin < 0 ? span.part(cut.part, cut.count) : span.slice(cut.begin, cut.end);
    }
    KeyTiles<Variant::kMask, kKeyTile, decltype(verdicts)> list(ranges(), span.begin, span.end,
                                                                keys_, verdicts);
    go_through(request, rows, list, state);
    finish(rows, state);
  }

  template <class List>
  ATTNLANG_DEVICE void go_through(const Request& request, const Rows (&rows)[kRowTiles], List& list,
                                  State& state) const {
    const bool always_masked = Variant::kMask && selects();
    // The ring: tile `turn` is computed while the kStages - 1 after it are on their way. Turns
    // below 0 fill it. The queries come with the first tile; all warps loaded them.
    KeyTile ahead[kStages - 1] = {};
    KeyTile coming = list.next();
    Pages::Slot sought = seek(coming);
    uint32_t q[kQueriesStay ? kSteps : 1][kRowTiles][4];
    float scale[2] = {1.0f, 1.0f};  // of the dots of the thread's rows with 8-bit keys
    int stage = 0;                  // where the tile goes that is loaded next
    for (int turn = 1 - kStages;; ++turn) {
      if (turn >= 0) {
        if (!ahead[0].valid()) break;
        cp_async_wait<kStages - 2>();
        wait_for_loaders();  // the tile is there, and every warp is done with the one before
        if (turn == 0) {
          if constexpr (kAlone) __syncthreads();
          if constexpr (kWidensKeys) {
            halve_queries();
            scale[0] = scales()[lane_ / 4], scale[1] = scales()[lane_ / 4 + 8];
          }
          load_kept_queries(q);
        }
      }
      KeyTile next = coming;
      next.masked = next.masked || always_masked;
      const Pages::Slot slot = kSeeks ? work_.problem.pages.bounded_slot(sought) : sought;
      coming = list.next();
      sought = seek(coming);
      if (next.valid()) load_tile(request, next, slot, stage);
      cp_async_commit();
      stage = stage + 1 == kStages ? 0 : stage + 1;
      if (turn >= 0) {
        if (ahead[0].masked) compute<true>(rows, ahead[0].k0, stage, q, scale, state);
        else compute<false>(rows, ahead[0].k0, stage, q, scale, state);
      }
#pragma unroll
      for (int s = 0; s + 2 < kStages; ++s) ahead[s] = ahead[s + 1];
      ahead[kStages - 2] = next;
    }
    cp_async_wait<0>();
  }

  // --- products ---

  ATTNLANG_DEVICE void load_query_step(uint32_t (&a)[kRowTiles][4], int step) const {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      const int row = (row_warp_ * kRowTiles + i) * 16;
      load_a(a[i], queries(), row, step, lane_);
    }
  }

  template <int kKept>
  ATTNLANG_DEVICE void load_kept_queries(uint32_t (&q)[kKept][kRowTiles][4]) const {
    if constexpr (kQueriesStay) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) load_query_step(q[step], step);
    }
  }

  // The dots of a stage's keys with the entries of kAtOnce steps from `step` on, as far as there
  // are.
  template <int kAtOnce>
  ATTNLANG_DEVICE void multiply_keys(float (&dots)[kRowTiles][kWarpKeys / 2],
                                     const uint32_t (*a)[kRowTiles][4], int s, int step) const {
    const int first = key_warp_ * kWarpKeys;
    if constexpr (!kWidensKeys) {
      multiply_rows(dots, a[0], keys(s), first, step, lane_);
    } else {
      static_assert(kAtOnce == 2 && kRowTiles == 1);
      if (step + 1 < kSteps) {
        const uint32_t* const both[2] = {a[0][0], a[1][0]};
        multiply_narrow_rows<KeyProduct, 2>(dots[0], both, keys(s), first, step, lane_);
      } else {
        const uint32_t* const one[1] = {a[0][0]};
        multiply_narrow_rows<KeyProduct, 1>(dots[0], one, keys(s), first, step, lane_);
      }
    }
  }

  template <bool kMasked, int kKept>
  ATTNLANG_DEVICE void compute(const Rows (&rows)[kRowTiles], int k0, int s,
                               const uint32_t (&q)[kKept][kRowTiles][4],
                               [[maybe_unused]] const float (&scale)[2], State& state) const {
    const int first = key_warp_ * kWarpKeys;
    float weights[kRowTiles][kWarpKeys / 2] = {};
    constexpr int kAtOnce = kWidensKeys ? 2 : 1;  // steps
#pragma unroll
    for (int step = 0; step < kSteps; step += kAtOnce) {
      if constexpr (kQueriesStay) {
        multiply_keys<kAtOnce>(weights, q + step, s, step);
      } else {
        uint32_t a[kAtOnce][kRowTiles][4];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          if (step + i < kSteps) load_query_step(a[i], step + i);
        }
        multiply_keys<kAtOnce>(weights, a, s, step);
      }
    }
    if constexpr (kWidensKeys) {
      scale_row(0, scale[0], weights[0]), scale_row(1, scale[1], weights[0]);
    }
    const int lane_column = k0 + first + 2 * (lane_ % 4);
    const auto column_of = [&](int n, int c) { return column_at(lane_column + 8 * n + c); };
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      weigh<kMasked>(rows[i], column_of, end_of_columns(), weights[i], state.rows[i], state.acc[i]);
    }
    if constexpr (kHalvesWeights) {
      for (float& weight : weights[0]) weight *= kWeightScale;
    }
    const int column = value_warp_ * kWarpValues;
#pragma unroll
    for (int step = 0; step < kWarpKeys / 16; ++step) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) pack_a<ValueProduct>(a[i], weights[i], step);
      const int row = first + 16 * step;
      if constexpr (kWidensValues) {
        if constexpr (kWithin >= 0) {
          multiply_narrow_columns<ValueProduct, kWithin>(state.acc[0], a[0], keys(s), row, lane_);
        } else {
          multiply_narrow_columns<ValueProduct, 0>(state.acc[0], a[0], values(s), row, lane_);
        }
      } else if constexpr (kWithin >= 0) {
        multiply_columns<kWithin>(state.acc, a, keys(s), row, column, lane_);
      } else {
        multiply_columns<0>(state.acc, a, values(s), row, column, lane_);
      }
    }
  }

  // Columns from it on do not exist. A selection's own end is a column that never is.
  ATTNLANG_DEVICE int end_of_columns() const { return selects() ? kNoColumn : keys_; }

  template <bool kMasked, class ColumnOf>
  ATTNLANG_DEVICE void weigh(const Rows& rows, const ColumnOf& column_of, int end,
                             float (&weights)[kWarpKeys / 2], RowState (&state)[2],
                             float (&acc)[kWarpValues / 2]) const {
    if constexpr (Variant::kSoftmax) {
      float top[2] = {-kInfinity, -kInfinity};
      float factors[Variant::kFactor ? kWarpKeys / 2 : 1];
      score_fragment<Variant, kMasked>(rows, column_of, end, weights, factors, top);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float scale = softmax_row<Variant::kFactor, kWeighted<Variant>>(i, top[i], weights,
                                                                              factors, state[i]);
        scale_row(i, scale, acc);
      }
    } else {
      const bool wants_max = work_.problem.max.data != nullptr;
      weigh_fragment<Variant, kMasked>(rows, column_of, end, wants_max, weights, state);
    }
  }

  // --- results ---

  ATTNLANG_DEVICE void finish(const Rows (&rows)[kRowTiles], State& state) const {
    __syncthreads();  // what the stages held is read
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        RowState& row = state.rows[i][j];
        row.sum = quad_sum(row.sum);
        if constexpr (kWeighted<Variant>) row.weighted = quad_sum(row.weighted);
        if constexpr (!Variant::kSoftmax) row.max = quad_max_or_nan(row.max);
      }
    }
    if constexpr (!kPacked && kShape.key_warps == 1 && !Variant::kOut) {
      if (cut().count == 1 && work_.problem.wide_out.data == nullptr) {
        const Results tile = {reinterpret_cast<Element*>(area())};
        write_tile<Variant>(work_.problem, item_, warp_part(), rows, state.rows, state.acc, tile);
        return;
      }
    }
    if constexpr (kWidensValues) {
      const float scale = work_.problem.pages.values.scale(item_.h_kv);
      constexpr float kBack = kHalvesWeights ? 1 / kWeightScale : 1.0f;
      for (float& sum : state.acc[0]) sum = sum * kBack * scale;
    }
    auto* states = reinterpret_cast<float*>(area());
    save_states<kDV, kWidensValues>(warp_part(), state.rows, state.acc,
                                    states + key_warp_ * kRows * kStateFloats<kDV>);
    __syncthreads();
    const auto anchor = [&](int r) { return anchor_of(r); };
    combine_rows<kShape.key_warps, kRows, kWarps, Variant, Element, kD, kDV>(
        work_, params_, item_, cut(), states, states + kStateBytes / sizeof(float), anchor,
        last_part());
  }

  const Cut* const scheduled_;  // null: parts are even
};

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocks)
    sm80_kernel(const __grid_constant__ typename Kernel::Launch work) {
  Kernel::run(work);
}

// Null, or what is wrong.
template <class Kernel>
const char* launch_items(const typename Kernel::Launch& work, int64_t items, void* stream) {
  if (work.parts.count > 1) {
    const char* wrong = fill_bytes(work.parts.done, 0, items * sizeof(int32_t), stream);
    if (wrong != nullptr) return wrong;
  }
  const dim3 grid(static_cast<unsigned>(items), static_cast<unsigned>(work.parts.count));
  return launch(sm80_kernel<Kernel>, grid, Kernel::kThreads, Kernel::kSharedBytes, stream, work);
}

}  // namespace attnlang::cuda
