// Tiles in shared memory and the warp's products over them: mma.m16n8k16, operands by ldmatrix.
#pragma once

#include <cstdint>

#include "attnlang/device/ptx.cuh"
#include "attnlang/host/target.h"

namespace attnlang::cuda {

// Rows of kWidth entries, 16-byte chunks placed so that eight rows of one chunk column, which a
// matrix load reads together, lie in different banks: by exclusive or where a row fills all banks a
// whole number of times, else by an odd number of chunks a row.
template <class Element, int kWidth>
struct SharedTile {
  static_assert(kWidth % 16 == 0, "rows of whole 16-entry steps");
  static constexpr int kEntries = 16 / sizeof(Element);  // of a chunk
  static constexpr int kChunks = kWidth / kEntries;
  static constexpr bool kSwizzled = kChunks % 8 == 0;
  static constexpr int kStride = kSwizzled ? kWidth : (kChunks | 1) * kEntries;

  static constexpr int bytes(int rows) {
    return (rows * kStride * static_cast<int>(sizeof(Element)) + 127) / 128 * 128;
  }

  Element* base;

  ATTNLANG_DEVICE Element* chunk(int row, int chunk) const { return base + offset(row, chunk); }

  // The same in entries from the base; and the chunk that is so many rows and chunks on from the
  // one at an offset, where neither sum carries below its eighth: constants to be added once a
  // lane's own offset is known.
  static ATTNLANG_DEVICE int offset(int row, int chunk) {
    return row * kStride + (kSwizzled ? chunk ^ (row & 7) : chunk) * kEntries;
  }
  ATTNLANG_DEVICE Element* beyond(int offset, int rows, int chunks) const {
    if constexpr (!kSwizzled) return base + offset + rows * kStride + chunks * kEntries;
    const int near = offset ^ ((rows ^ chunks) & 7) * kEntries;
    return base + near + rows * kStride + (chunks & ~7) * kEntries;
  }
};

// Four consecutive accumulators of a flat fragment: those of 8 columns.
template <int kValues>
ATTNLANG_DEVICE float (&columns_of(float (&fragment)[kValues], int n))[4] {
  return reinterpret_cast<float (&)[4]>(fragment[4 * n]);
}

// The A operand of rows [row, row + 16), entries [16 step, 16 step + 16).
template <class Element, int kWidth>
ATTNLANG_DEVICE void load_a(uint32_t (&a)[4], SharedTile<Element, kWidth> tile, int row, int step,
                            int lane) {
  ldmatrix_x4(a, tile.chunk(row + (lane & 15), 2 * step + (lane >> 4)));
}

// dots += A B^T for one step of 16 entries and several A: B's rows are those of `tile` from `row`
// on, two of them a value.
template <class Element, int kWidth, int kTiles, int kValues>
ATTNLANG_DEVICE void multiply_rows(float (&dots)[kTiles][kValues], const uint32_t (&a)[kTiles][4],
                                   SharedTile<Element, kWidth> tile, int row, int step, int lane) {
  static_assert(kValues % 8 == 0, "16 rows at a time");
  const int own = tile.offset(row + (lane & 7) + (lane >> 4) * 8, lane >> 3 & 1);
#pragma unroll
  for (int n = 0; n < kValues / 8; ++n) {
    uint32_t b[4];
    ldmatrix_x4(b, tile.beyond(own, 16 * n, 2 * step));
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      mma_m16n8k16<Element>(columns_of(dots[i], 2 * n), a[i], b[0], b[1]);
      mma_m16n8k16<Element>(columns_of(dots[i], 2 * n + 1), a[i], b[2], b[3]);
    }
  }
}

// The A operand made of an accumulator's columns [16 step, 16 step + 16).
template <class Element, int kValues>
ATTNLANG_DEVICE void pack_a(uint32_t (&a)[4], const float (&weights)[kValues], int step) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    a[i] = pack<Element>(weights[8 * step + 2 * i], weights[8 * step + 2 * i + 1]);
  }
}

// acc += A B for 16 rows of `tile` from `row` on and several A: the entries from kFirst + `column`
// on, two of them a value.
template <int kFirst, class Element, int kWidth, int kTiles, int kValues>
ATTNLANG_DEVICE void multiply_columns(float (&acc)[kTiles][kValues], const uint32_t (&a)[kTiles][4],
                                      SharedTile<Element, kWidth> tile, int row, int column,
                                      int lane) {
  static_assert(kValues % 8 == 0 && kFirst % 8 == 0, "16 entries at a time");
  // Where `column` counts whole eights of chunks, and the others are two at a time.
  constexpr bool kNear = kFirst % 16 == 0 && kValues % 32 == 0;
  const int own = tile.offset(row + (lane & 15), column / 8 + (lane >> 4));
#pragma unroll
  for (int n = 0; n < kValues / 8; ++n) {
    uint32_t b[4];
    const int chunk = kFirst / 8 + 2 * n;
    ldmatrix_x4_transposed(b,
                           kNear ? tile.beyond(own, 0, chunk)
                                 : tile.chunk(row + (lane & 15), column / 8 + chunk + (lane >> 4)));
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      mma_m16n8k16<Element>(columns_of(acc[i], 2 * n), a[i], b[0], b[1]);
      mma_m16n8k16<Element>(columns_of(acc[i], 2 * n + 1), a[i], b[2], b[3]);
    }
  }
}

}  // namespace attnlang::cuda
