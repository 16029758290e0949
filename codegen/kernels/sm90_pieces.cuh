// A warp's rows of an item that several blocks do in pieces: their states go to the workspace, and
// the warp of the block that arrives last joins those of all pieces, in key order.
//
// The same warp of each block has the same rows, so warps count their pieces each for itself, and
// nobody waits.
#pragma once

#include <cstdint>

#include "attnlang/device/ptx.cuh"
#include "attnlang/device/softmax.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_epilogue.cuh"
#include "kernels/cuda_items.cuh"
#include "kernels/cuda_problem.cuh"

namespace attnlang::cuda::sm90 {

// The warp's 16 rows begin at row r0 of the item's kRows, which is query q0. `room`: as
// `write_fragment` has it.
template <class Variant, class Element, int kD, int kDV, int kRows, int kValues>
ATTNLANG_DEVICE void leave_piece(const Problem<Element>& problem,
                                 const typename Variant::Request& request, const Cut& cut, int b,
                                 int h, int q0, int r0, const RowState (&states)[2],
                                 const float (&acc)[kValues], float* room) {
  constexpr int64_t kFloats = kStateFloats<kDV>, kItemFloats = kRows * kFloats;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  float* own = cut.states(cut.part, kItemFloats) + (r0 + lane / 4) * kFloats;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float* row = own + 8 * i * kFloats;
#pragma unroll
    for (int n = 0; n < kValues / 4; ++n) {
      const int column = 8 * n + 2 * (lane % 4);
      if (column >= kDV) continue;
      row[column] = acc[fragment_index(n, i, 0)];
      row[column + 1] = acc[fragment_index(n, i, 1)];
    }
    if (lane % 4 == 0) store_header<kDV>(row, states[i]);
  }
  __threadfence();
  __syncwarp();
  int before = 0;
  if (lane == 0) before = atomicAdd(cut.done + r0 / 16, 1);
  if (__shfl_sync(~0u, before, 0) != cut.count - 1) return;
  __threadfence();
#pragma unroll 1
  for (int r = 0; r < 16 && q0 + r < problem.queries; ++r) {
    const auto state_of = [&](int part) -> const float* {
      return cut.states(part, kItemFloats) + (r0 + r) * kFloats;
    };
    float* row = cut.first + (r0 + r) * kFloats;
    const RowState state = merge_states<Variant, kDV>(cut.count, state_of, row, lane);
    write_row<Variant, Element, kD, kDV>(problem, request, b, h, q0 + r, state, row,
                                         room == nullptr ? nullptr : room + kDV, lane);
  }
}

}  // namespace attnlang::cuda::sm90
