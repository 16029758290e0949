// From a warp's accumulators to rows of out.
//
// Where there is room in shared memory the copy engine takes them from there, beside the next
// item's work. Else the four lanes of a row swap pieces so that each writes 16 bytes. An out
// expression is the work of a warp for a row, which passes through the room of the query tile.
#pragma once

#include "attnlang/device/mbarrier.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/device/softmax.cuh"
#include "attnlang/device/tma.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_epilogue.cuh"
#include "kernels/cuda_problem.cuh"
#include "kernels/sm90_layout.cuh"

namespace attnlang::cuda::sm90 {

// x[i] of lane j of a quad becomes x[j] of lane i.
ATTNLANG_DEVICE void transpose_quad(uint32_t (&x)[4], int lane) {
  const bool odd = (lane & 1) != 0, high = (lane & 2) != 0;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t got = __shfl_xor_sync(~0u, odd ? x[i] : x[i + 1], 1);
    (odd ? x[i] : x[i + 1]) = got;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t got = __shfl_xor_sync(~0u, high ? x[i] : x[i + 2], 2);
    (high ? x[i] : x[i + 2]) = got;
  }
}

// Where a warp's rows are put together for the copy engine: swizzled panels, `panel` bytes apart.
struct RowsRoom {
  const TensorMap* map;  // null: there is none
  char* at;
  int panel;
};

// A warp's 16 rows, rounded, by way of `room`, which may be written again once they are read.
template <class Element, int kValues>
ATTNLANG_DEVICE void copy_rows(const RowsRoom& room, int b, int h, int q0,
                               const float (&acc)[kValues], int lane) {
  constexpr int kChunks = kPanelRowBytes / kVectorBytes;
  const int row = lane % 16;
#pragma unroll
  for (int n = 0; n < kValues / 8; ++n) {
    uint32_t x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = pack<Element>(acc[8 * n + 2 * i], acc[8 * n + 2 * i + 1]);
    const int chunk = 2 * n + lane / 16;
    stmatrix_x4(room.at + chunk / kChunks * room.panel + row * kPanelRowBytes +
                    ((chunk ^ row) % kChunks) * kVectorBytes,
                x);
  }
  fence_async_shared();
  __syncwarp();
  if (lane == 0) {
#pragma unroll
    for (int panel = 0; panel < kValues * 2 / kPanelColumns; ++panel) {
      tma_store<4>(room.map, room.at + panel * room.panel, panel * kPanelColumns, q0, h, b);
    }
  }
  tma_store_commit();
}

// Row `i` (0 or 1) of the lane's two: acc, rounded, up to entry `end`, which is a multiple of
// kMultiple. `stored`: the row is there.
template <class Element, int kMultiple, int kValues>
ATTNLANG_DEVICE void store_fragment_row(const VectorRows<Element>& rows, Element* row, bool stored,
                                        int end, int i, const float (&acc)[kValues], int lane) {
  constexpr int kBlock = 8;  // entries of a row that are 16 bytes
  if (rows.vectorised && kMultiple % kBlock == 0) {
#pragma unroll
    for (int n = 0; n < kValues / 4; n += 4) {
      uint32_t x[4];
#pragma unroll
      for (int block = 0; block < 4; ++block) {
        const int at = fragment_index(n + block, i, 0);
        x[block] = pack<Element>(acc[at], acc[at + 1]);
      }
      transpose_quad(x, lane);
      const int column = (n + lane % 4) * kBlock;
      if (stored && column < end) {
        *reinterpret_cast<uint4*>(row + column) = make_uint4(x[0], x[1], x[2], x[3]);
      }
    }
    return;
  }
  if (!stored) return;
#pragma unroll
  for (int n = 0; n < kValues / 4; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int column = kBlock * n + 2 * (lane % 4) + c;
      if (column < end) {
        row[column * rows.stride[3]] = from_float32<Element>(acc[fragment_index(n, i, c)]);
      }
    }
  }
}

// The same in float32.
template <int kValues>
ATTNLANG_DEVICE void store_wide_row(float* row, int64_t stride, int end, int i,
                                    const float (&acc)[kValues], int lane) {
#pragma unroll
  for (int n = 0; n < kValues / 4; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int column = 8 * n + 2 * (lane % 4) + c;
      if (column < end) row[column * stride] = acc[fragment_index(n, i, c)];
    }
  }
}

// Writes a warp's 16 rows from q0 on: acc are their entries from `first` on. With entry 0 go their
// lse and the largest score. `program_room`: of an out expression's rows, the warp's own; `room`:
// of other rows, which the copy engine takes from there.
template <class Variant, class Element, int kD, int kDV, int kValues>
ATTNLANG_DEVICE void write_fragment(const Problem<Element>& problem,
                                    const typename Variant::Request& request, int b, int h, int q0,
                                    int first, const RowState (&states)[2], float (&acc)[kValues],
                                    [[maybe_unused]] float* program_room, const RowsRoom& room) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int q_row = q0 + lane / 4 + 8 * i;
    const bool stored = q_row < problem.queries;
    if constexpr (Variant::kOut) {
#pragma unroll 1
      for (int owner = 0; owner < 8; ++owner) {
        const int at = q0 + owner + 8 * i;
        if (at >= problem.queries) break;
        if (lane / 4 == owner) {
#pragma unroll
          for (int n = 0; n < kValues / 4; ++n) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              const int column = 8 * n + 2 * (lane % 4) + c;
              if (column < kDV) program_room[column] = acc[fragment_index(n, i, c)];
            }
          }
        }
        __syncwarp();
        const int source = owner * 4;
        const RowState state = {.max = __shfl_sync(~0u, states[i].max, source),
                                .sum = __shfl_sync(~0u, states[i].sum, source),
                                .weighted = __shfl_sync(~0u, states[i].weighted, source)};
        write_row<Variant, Element, kD, kDV>(problem, request, b, h, at, state, program_room,
                                             program_room + kDV, lane);
      }
    } else {
      const FinishedRow finished = finish_row<Variant>(request, q_row, states[i]);
      if constexpr (Variant::kSoftmax) {
        const float factor = finished.factor;
        scale_row(i, factor, acc);
      }
      if (room.map != nullptr) {
        if (i == 1 && q0 < problem.queries) copy_rows<Element>(room, b, h, q0, acc, lane);
      } else if (problem.wide_out.data == nullptr) {
        Element* row = problem.out.row(b, h, q_row) + first * problem.out.stride[3];
        store_fragment_row<Element, kDV>(problem.out, row, stored, kDV - first, i, acc, lane);
      } else if (stored) {
        const int64_t stride = problem.wide_out.stride[3];
        float* row = problem.wide_out.row(b, h, q_row) + first * stride;
        store_wide_row(row, stride, kDV - first, i, acc, lane);
      }
      if (stored && first == 0 && lane % 4 == 0) {
        if (problem.lse.data != nullptr) *problem.lse.at(b, h, q_row) = finished.lse;
        if (problem.max.data != nullptr) {
          raise_max(problem.max.at(b, h), largest_score<Variant>(request, q_row, states[i]));
        }
      }
    }
  }
}

}  // namespace attnlang::cuda::sm90
