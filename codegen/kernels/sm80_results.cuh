// From a warp's accumulators to memory: whole rows of one head to out, or states into shared memory
// for whoever joins them.
#pragma once

#include <cstdint>

#include "attnlang/device/mma.cuh"
#include "attnlang/device/narrow.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/device/softmax.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_epilogue.cuh"
#include "kernels/cuda_items.cuh"

namespace attnlang::cuda {

// The rows of the block, from row0 on, and the entries of v, from `column` on, that are a warp's.
struct WarpPart {
  int lane, row0, column;
  bool leads;  // it has the first entries

  // The lane's first row of 16-row tile i; its second is 8 further.
  ATTNLANG_DEVICE int first_row(int i) const { return row0 + 16 * i + lane / 4; }
};

// kNarrow: the accumulators' columns stand where products with 8-bit floats leave them.
template <int kDV, bool kNarrow = false, int kTiles, int kValues>
ATTNLANG_DEVICE void save_states(const WarpPart& warp, const RowState (&rows)[kTiles][2],
                                 const float (&acc)[kTiles][kValues], float* states) {
  const auto column = [&](int n, int c) {
    return warp.column +
           (kNarrow ? narrow_column(n, c, warp.lane) : 8 * n + 2 * (warp.lane % 4) + c);
  };
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float* row = states + (warp.first_row(i) + 8 * j) * kStateFloats<kDV>;
#pragma unroll
      for (int n = 0; n < kValues / 4; ++n) {
        row[column(n, 0)] = acc[i][fragment_index(n, j, 0)];
        row[column(n, 1)] = acc[i][fragment_index(n, j, 1)];
      }
      if (warp.leads && warp.lane % 4 == 0) store_header<kDV>(row, rows[i][j]);
    }
  }
}

struct alignas(16) Vector16 {
  uint32_t word[4];
};

template <class Element>
ATTNLANG_DEVICE void store_chunk(const VectorRows<Element>& out, Element* row, int chunk,
                                 const Element* source) {
  if (out.vectorised) {
    *reinterpret_cast<Vector16*>(row + chunk * 8) = *reinterpret_cast<const Vector16*>(source);
    return;
  }
#pragma unroll 1
  for (int e = 0; e < 8; ++e) row[(chunk * 8 + e) * out.stride[3]] = source[e];
}

// Through shared memory, each warp its own rows of `tile`, to 16-byte stores.
template <class Variant, class Element, int kDV, class Rows, int kTiles, int kValues>
ATTNLANG_DEVICE void write_tile(const Problem<Element>& problem, const Item& item,
                                const WarpPart& warp, const Rows (&rows)[kTiles],
                                const RowState (&states)[kTiles][2], float (&acc)[kTiles][kValues],
                                SharedTile<Element, kDV> tile) {
  float largest = -kInfinity;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int r = warp.first_row(i) + 8 * j, query = item.row0 + r;
      const auto& request = rows[i].request(j);
      const FinishedRow finished = finish_row<Variant>(request, query, states[i][j]);
      if constexpr (Variant::kSoftmax) scale_row(j, finished.factor, acc[i]);
#pragma unroll
      for (int n = 0; n < kValues / 4; ++n) {
        auto* pair = reinterpret_cast<uint32_t*>(tile.chunk(r, warp.column / 8 + n));
        pair[warp.lane % 4] =
            pack<Element>(acc[i][fragment_index(n, j, 0)], acc[i][fragment_index(n, j, 1)]);
      }
      if (r >= item.rows || !warp.leads) continue;
      if (problem.lse.data != nullptr && warp.lane % 4 == 0) {
        *problem.lse.at(item.b, item.head, query) = finished.lse;
      }
      if (problem.max.data != nullptr) {
        largest = max_or_nan(largest, largest_score<Variant>(request, query, states[i][j]));
      }
    }
  }
  if (problem.max.data != nullptr && warp.leads) {
    for (int step = 1; step < kWarp; step *= 2) {
      largest = max_or_nan(largest, __shfl_xor_sync(~0u, largest, step));
    }
    if (warp.lane == 0) raise_max(problem.max.at(item.b, item.head), largest);
  }
  __syncwarp();
  constexpr int kChunks = kValues / 4;
  for (int at = warp.lane; at < kTiles * 16 * kChunks; at += kWarp) {
    const int r = warp.row0 + at / kChunks, chunk = warp.column / 8 + at % kChunks;
    if (r >= item.rows) continue;
    Element* row = problem.out.row(item.b, item.head, item.row0 + r);
    store_chunk(problem.out, row, chunk, tile.chunk(r, chunk));
  }
}

}  // namespace attnlang::cuda
