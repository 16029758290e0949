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

// The rows whose chunks the lanes of a warp copy, kThreads threads taking kChunks chunks of each of
// kRows rows in turns: each row is looked up by one lane, which tells the others where it is. A
// look-up costs far more than a copy.
template <int kRows, int kThreads, int kChunks>
struct RowLookups {
  static constexpr int kCopies = kRows * kChunks;
  static constexpr int kTurns = (kCopies + kThreads - 1) / kThreads;
  static constexpr int kEach = kWarp / kChunks;  // rows of a warp in a turn
  static constexpr bool kPossible =
      kWarp % kChunks == 0 && kThreads % kWarp == 0 && kRows <= kThreads && kCopies % kThreads == 0;

  // What this lane is to look up: for thread number `thread`, a row below kRows, or negative.
  static ATTNLANG_DEVICE int row(int thread) {
    const int lane = thread % kWarp, turn = lane / kEach;
    if (turn >= kTurns) return -1;
    return turn * (kThreads / kChunks) + thread / kWarp * kEach + lane % kEach;
  }
  // Where the row of a turn is, of what each lane found. All lanes call it together.
  template <class T>
  static ATTNLANG_DEVICE T* at(T* found, int turn, int thread) {
    const auto address = reinterpret_cast<unsigned long long>(found);
    const int source = turn * kEach + thread % kWarp / kChunks;
    return reinterpret_cast<T*>(__shfl_sync(~0u, address, source));
  }
};

// Rows [first, first + kRows) of a tile, by kThreads threads of which this is number `thread`.
// RowOf: tile row -> its memory; null: zeros.
template <int kRows, int kThreads, class Element, int kWidth, class RowOf>
ATTNLANG_DEVICE void gather_rows(SharedTile<Element, kWidth> tile, int first, const RowOf& row_of,
                                 int64_t inner, bool vectorised, int thread) {
  using Tile = SharedTile<Element, kWidth>;
  constexpr int kChunks = Tile::kChunks;
  using Lookups = RowLookups<kRows, kThreads, kChunks>;
  if constexpr (Lookups::kPossible) {
    if (vectorised) {
      const int own = Lookups::row(thread), chunk = thread % kChunks;
      const Element* found = own < 0 ? nullptr : row_of(first + own);
      int row = first + thread / kChunks;
#pragma unroll
      for (int turn = 0; turn < Lookups::kTurns; ++turn, row += kThreads / kChunks) {
        const Element* source = Lookups::at(found, turn, thread);
        const bool valid = source != nullptr;
        cp_async<kVectorBytes>(tile.chunk(row, chunk),
                               valid ? source + chunk * Tile::kEntries : nullptr, valid);
      }
      return;
    }
  }
#pragma unroll 4
  for (int i = 0; i < Lookups::kTurns; ++i) {
    const int copy = i * kThreads + thread;
    if (Lookups::kCopies % kThreads != 0 && copy >= Lookups::kCopies) break;
    const int row = first + copy / kChunks;
    const Element* source = row_of(row);
    load_chunk(tile, row, copy % kChunks, source, inner, vectorised, source != nullptr);
  }
}

// The same by one warp, of which lane r knows where row first + r is; null: zeros.
template <int kRows, class Element, int kWidth>
ATTNLANG_DEVICE void copy_found(SharedTile<Element, kWidth> tile, int first, const Element* found,
                                int64_t inner, bool vectorised, int lane) {
  using Tile = SharedTile<Element, kWidth>;
  static_assert(kRows <= kWarp);
  constexpr int kChunks = Tile::kChunks, kCopies = kRows * kChunks;
  const auto address = reinterpret_cast<unsigned long long>(found);
  if constexpr (kWarp % kChunks == 0 && kCopies % kWarp == 0) {
    constexpr int kStep = kWarp / kChunks;  // rows of a turn
    if (vectorised) {
      const int row = lane / kChunks, chunk = lane % kChunks;
      const uint32_t there = __ballot_sync(~0u, found != nullptr) >> row;
      const int own = tile.offset(first + row, chunk);
#pragma unroll
      for (int r = 0; r < kRows; r += kStep) {
        // Of a row that is not there, nothing is read.
        const auto from = __shfl_sync(~0u, address, row + r) + chunk * kVectorBytes;
        cp_async<kVectorBytes>(tile.beyond(own, r, 0), reinterpret_cast<const void*>(from),
                               (there >> r & 1) != 0);
      }
      return;
    }
  }
#pragma unroll 1
  for (int turn = 0; turn < kCopies; turn += kWarp) {
    const int row = (turn + lane) / kChunks, chunk = (turn + lane) % kChunks;
    const auto* source = reinterpret_cast<const Element*>(__shfl_sync(~0u, address, row % kWarp));
    if (row >= kRows) continue;
    load_chunk(tile, first + row, chunk, source, inner, vectorised, source != nullptr);
  }
}

// The same of rows of narrow entries, which are converted. Some chunks at a time, so that their
// loads overlap.
template <int kRows, int kThreads, class Element, int kWidth, class RowOf>
ATTNLANG_DEVICE void convert_rows(SharedTile<Element, kWidth> tile, int first, const RowOf& row_of,
                                  int64_t inner, bool vectorised, const Stored& stored, float scale,
                                  int thread) {
  constexpr int kChunks = SharedTile<Element, kWidth>::kChunks;
  using Lookups = RowLookups<kRows, kThreads, kChunks>;
  constexpr int kTurns = Lookups::kTurns, kAtOnce = kTurns < 4 ? kTurns : 4;
  const char* found = nullptr;
  if constexpr (Lookups::kPossible) {
    const int own = Lookups::row(thread);
    if (own >= 0) found = row_of(first + own);
  }
#pragma unroll 1
  for (int turn = 0; turn < kTurns; turn += kAtOnce) {
    uint2 chunks[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int copy = (turn + i) * kThreads + thread;
      const char* source = nullptr;
      if constexpr (Lookups::kPossible) {
        source = Lookups::at(found, turn + i, thread);
      } else if (copy < Lookups::kCopies) {
        source = row_of(first + copy / kChunks);
      }
      chunks[i] = make_uint2(0, 0);
      if (source != nullptr) {
        chunks[i] = eight_entries(source + 8 * (copy % kChunks) * inner, inner, vectorised);
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int copy = (turn + i) * kThreads + thread;
      if (copy >= Lookups::kCopies) break;
      *reinterpret_cast<uint4*>(tile.chunk(first + copy / kChunks, copy % kChunks)) =
          converted<Element>(chunks[i], stored, scale);
    }
  }
}

// Rows [first, first + kRows) of a tile from rows `stride` apart, the first one at `source`; those
// from `count` on (counted from `first`) become zeros. For the main loop: a thread steps through
// the rows with one pointer.
template <int kRows, int kThreads, class Element, int kWidth>
ATTNLANG_DEVICE void copy_rows(SharedTile<Element, kWidth> tile, int first, const Element* source,
                               int64_t stride, int count, int thread) {
  using Tile = SharedTile<Element, kWidth>;
  if constexpr (kThreads % Tile::kChunks != 0) {
    const auto row_of = [&](int row) {
      return row - first < count ? source + (row - first) * stride : nullptr;
    };
    gather_rows<kRows, kThreads>(tile, first, row_of, 1, true, thread);
  } else {
    constexpr int kStep = kThreads / Tile::kChunks;  // rows that the threads take at once
    const int chunk = thread % Tile::kChunks;
    int row = thread / Tile::kChunks;
    const Element* from = source + row * stride + chunk * Tile::kEntries;
    // Steps that carry nothing from a thread's own row, below its eighth.
    constexpr bool kNear = kStep % 8 == 0 || 8 % kStep == 0;
    const int own = tile.offset(first + row, chunk);
#pragma unroll
    for (int i = 0; i < (kRows + kStep - 1) / kStep; ++i) {
      if (kRows % kStep == 0 || row < kRows) {
        Element* to = kNear ? tile.beyond(own, i * kStep, 0) : tile.chunk(first + row, chunk);
        cp_async<kVectorBytes>(to, from, row < count);
      }
      row += kStep;
      from += kStep * stride;
    }
  }
}

}  // namespace attnlang::cuda
