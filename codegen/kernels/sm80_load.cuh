// Rows of q, k and v into tiles of shared memory: by asynchronous copies of 16 bytes, or an entry
// at a time where strides allow no more. Rows that are not there become zeros, whatever memory
// holds.
#pragma once

#include "attnlang/device/mma.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_problem.cuh"

namespace attnlang::cuda {

template <class Element, int kWidth>
ATTNLANG_DEVICE void load_chunk(SharedTile<Element, kWidth> tile, int row, int chunk,
                                const Element* source, int64_t inner, bool vectorised, bool valid) {
  constexpr int kEntries = SharedTile<Element, kWidth>::kEntries;
  Element* target = tile.chunk(row, chunk);
  if (vectorised) {
    cp_async<kVectorBytes>(target, valid ? source + chunk * kEntries : nullptr, valid);
    return;
  }
#pragma unroll 1
  for (int i = 0; i < kEntries; ++i) {
    target[i] = valid ? source[(chunk * kEntries + i) * inner] : Element{};
  }
}

// Rows [first, first + kRows) of a tile, by kThreads threads of which this is number `thread`.
// RowOf: tile row -> its memory; null: zeros.
template <int kRows, int kThreads, class Element, int kWidth, class RowOf>
ATTNLANG_DEVICE void load_rows(SharedTile<Element, kWidth> tile, int first, const RowOf& row_of,
                               int64_t inner, bool vectorised, int thread) {
  constexpr int kChunks = SharedTile<Element, kWidth>::kChunks;
  constexpr int kCopies = kRows * kChunks;
#pragma unroll
  for (int i = 0; i < (kCopies + kThreads - 1) / kThreads; ++i) {
    const int copy = i * kThreads + thread;
    if (kCopies % kThreads != 0 && copy >= kCopies) break;
    const int row = first + copy / kChunks;
    const Element* source = row_of(row);
    load_chunk(tile, row, copy % kChunks, source, inner, vectorised, source != nullptr);
  }
}

}  // namespace attnlang::cuda
