// Rows of an item from states in shared memory to memory: written out, or left as a part's states
// until the last part of the item arrives, which joins them all in key order.
//
// Which block is the last one varies; the order of the merge does not.
#pragma once

#include "attnlang/device/ptx.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_epilogue.cuh"
#include "kernels/cuda_items.cuh"

namespace attnlang::cuda {

// A row's request and its output, from its sums in `acc`.
template <class Variant, class Element, int kD, int kDV>
ATTNLANG_DEVICE void finish_item_row(const Work<Variant, Element>& work,
                                     const typename Variant::Params& params, const Item& item,
                                     int r, int anchor, const RowState& state, float* acc,
                                     float* result, int lane) {
  const int h = item.head_of(r), query = item.query_of(r);
  const auto request = work.problem.template request<Variant>(params, item.b, h, anchor);
  write_row<Variant, Element, kD, kDV>(work.problem, request, item.b, h, query, state, acc, result,
                                       lane);
}

// A warp's room for a row of out and for the program that makes it.
template <class Variant, int kD, int kDV>
constexpr int kResultFloats =
    Variant::kOut ? Widths<Variant, kD, kDV>::kOut + kProgramScratch<Variant> : 0;

// All threads of the block, after a barrier. `rows`: [kStates][kRows][kStateFloats<kDV>] in shared
// memory, kStates states of each row in key order; `results`: kResultFloats for each warp.
// AnchorOf: row -> the row whose anchor its scores had.
template <int kStates, int kRows, int kWarps, class Variant, class Element, int kD, int kDV,
          class AnchorOf>
ATTNLANG_DEVICE void combine_rows(const Work<Variant, Element>& work,
                                  const typename Variant::Params& params, const Item& item,
                                  const Cut& cut, float* rows, float* results,
                                  const AnchorOf& anchor_of, int* last_part) {
  constexpr int kFloats = kStateFloats<kDV>;
  const int warp = warp_index(), lane = static_cast<int>(threadIdx.x) % kWarp;
  float* result = results + warp * kResultFloats<Variant, kD, kDV>;
  const auto saved = [&](int64_t part, int r) {
    return cut.states(part, int64_t{kRows} * kFloats) + r * kFloats;
  };
  for (int r = warp; r < item.rows; r += kWarps) {
    float* row = rows + r * kFloats;
    RowState state = {.max = row[kDV], .sum = row[kDV + 1], .weighted = row[kDV + 2]};
    if constexpr (kStates > 1) {
      const auto state_of = [&](int i) -> const float* { return row + i * kRows * kFloats; };
      state = merge_states<Variant, kDV>(kStates, state_of, row, lane);
    }
    if (cut.count == 1) {
      finish_item_row<Variant, Element, kD, kDV>(work, params, item, r, anchor_of(r), state, row,
                                                 result, lane);
      continue;
    }
    float* to = saved(cut.part, r);
    for (int e = lane; e < kDV; e += kWarp) to[e] = row[e];
    if (lane == 0) store_header<kDV>(to, state);
  }
  if (cut.count == 1) return;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // of what all threads wrote before the barrier
    *last_part = atomicAdd(cut.done, 1) == cut.count - 1;
    __threadfence();
  }
  __syncthreads();
  if (*last_part == 0) return;
  for (int r = warp; r < item.rows; r += kWarps) {
    float* row = rows + r * kFloats;
    // An item's states fill whole cache lines, which this multiprocessor has not read before.
    const auto state_of = [&](int i) -> const float* { return saved(i, r); };
    const RowState state = merge_states<Variant, kDV>(cut.count, state_of, row, lane);
    finish_item_row<Variant, Element, kD, kDV>(work, params, item, r, anchor_of(r), state, row,
                                               result, lane);
  }
}

}  // namespace attnlang::cuda
