// Products with 8-bit floats: rows lie in shared memory as they are stored, and are widened in
// registers on their way to mma.m16n8k16.
//
// A matrix load takes pairs of bytes for entries. Of keys (rows of B^T) a lane so receives four
// neighbouring entries of a row where two and two would be wanted: as a sum's order is free, the
// rows of A are read in the same order (`load_a_for_narrow`). Of values it receives, transposed,
// two neighbouring columns of two rows: they become the operands of two products, of the even
// columns and of the odd ones (`narrow_column`).
#pragma once

#include <cstdint>
#include <type_traits>

#include "attnlang/device/mma.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/host/target.h"
#include "attnlang/host/tensor_view.h"

namespace attnlang::cuda {

template <class T>
constexpr bool kIsNarrow = std::is_same_v<T, E4m3> || std::is_same_v<T, E5m2>;

// Two entries that lie in the low half of a word, as halves.
template <class Narrow>
ATTNLANG_DEVICE uint32_t halves_of(uint32_t bits) {
  if constexpr (std::is_same_v<Narrow, E4m3>) return halves_of_e4m3(bits);
  else return halves_of_e5m2(bits);
}

// The same as entries of a product.
template <class Element, class Narrow>
ATTNLANG_DEVICE uint32_t widened(uint32_t bits) {
  const uint32_t halves = halves_of<Narrow>(bits);
  if constexpr (std::is_same_v<Element, Half>) return halves;
  const Pair pair = unpack<Half>(halves);
  return pack<Element>(pair.low, pair.high);
}

// Entries 0 and 2, and 1 and 3, of the four of a word.
struct EvenOdd {
  uint32_t even, odd;
};
template <class Element, class Narrow>
ATTNLANG_DEVICE EvenOdd widened_apart(uint32_t bits) {
  const uint32_t low = halves_of<Narrow>(bits), high = halves_of<Narrow>(bits >> 16);
  if constexpr (std::is_same_v<Element, Half>) {
    return {(low & 0xffffu) | high << 16, low >> 16 | (high & 0xffff0000u)};
  }
  const Pair first = unpack<Half>(low), second = unpack<Half>(high);
  return {pack<Element>(first.low, second.low), pack<Element>(first.high, second.high)};
}

// The A operand of rows [row, row + 16) for a step of 16 narrow entries: places 2t and 2t + 8 of a
// thread have entries 4t and 4t + 2.
template <class Element, int kWidth>
ATTNLANG_DEVICE void load_a_for_narrow(uint32_t (&a)[4], SharedTile<Element, kWidth> tile, int row,
                                       int step, int lane) {
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const Element* entries = tile.chunk(row + g + 8 * i, 2 * step + t / 2) + t % 2 * 4;
    const uint2 four = *reinterpret_cast<const uint2*>(entries);
    a[i] = four.x, a[i + 2] = four.y;
  }
}

// dots += A B^T for one or two steps, from `first` on: B's rows are those of `tile` from `row` on,
// two of them a value. a[i]: four words, of step first + i; two steps begin at an even one.
template <class Element, int kSteps, class Narrow, int kWidth, int kValues>
ATTNLANG_DEVICE void multiply_narrow_rows(float (&dots)[kValues],
                                          const uint32_t* const (&a)[kSteps],
                                          SharedTile<Narrow, kWidth> tile, int row, int first,
                                          int lane) {
  constexpr bool kBoth = kSteps == 2;
  static_assert(kValues % 8 == 0, "16 rows at a time");
  const int own = tile.offset(row + (lane & 7) + (lane >> 4) * 8, lane >> 3 & 1);
#pragma unroll
  for (int n = 0; n < kValues / 8; ++n) {
    uint32_t b[kBoth ? 4 : 2];
    if constexpr (kBoth) {
      ldmatrix_x4(b, tile.beyond(own, 16 * n, first));
    } else {
      ldmatrix_x2(b, tile.chunk(row + 16 * n + (lane & 15), first));
    }
#pragma unroll
    for (int i = 0; i < (kBoth ? 4 : 2); ++i) {
      const int step = kBoth ? i % 2 : 0, rows = kBoth ? i / 2 : i;
      mma_m16n8k16<Element>(columns_of(dots, 2 * n + rows),
                            reinterpret_cast<const uint32_t (&)[4]>(*a[step]),
                            widened<Element, Narrow>(b[i]), widened<Element, Narrow>(b[i] >> 16));
    }
  }
}

// acc += A B for 16 rows of `tile` from `row` on: the entries from kFirst on, two of them a value,
// where `narrow_column` says.
template <class Element, int kFirst, class Narrow, int kWidth, int kValues>
ATTNLANG_DEVICE void multiply_narrow_columns(float (&acc)[kValues], const uint32_t (&a)[4],
                                             SharedTile<Narrow, kWidth> tile, int row, int lane) {
  static_assert(kFirst % 16 == 0);
  constexpr int kChunk = kFirst / 16;
  const auto multiply = [&](int n, uint32_t low, uint32_t high) {
    const EvenOdd first = widened_apart<Element, Narrow>(low);
    const EvenOdd second = widened_apart<Element, Narrow>(high);
    mma_m16n8k16<Element>(columns_of(acc, 2 * n), a, first.even, second.even);
    mma_m16n8k16<Element>(columns_of(acc, 2 * n + 1), a, first.odd, second.odd);
  };
  const int own = tile.offset(row + (lane & 15), lane >> 4);
#pragma unroll
  for (int n = 0; n + 1 < kValues / 8; n += 2) {
    uint32_t b[4];
    ldmatrix_x4_transposed(b, kChunk % 2 == 0
                                  ? tile.beyond(own, 0, kChunk + n)
                                  : tile.chunk(row + (lane & 15), kChunk + n + (lane >> 4)));
    multiply(n, b[0], b[1]);
    multiply(n + 1, b[2], b[3]);
  }
  if constexpr (kValues / 8 % 2 != 0) {
    constexpr int kLast = kValues / 8 - 1;
    uint32_t b[2];
    ldmatrix_x2_transposed(b, tile.chunk(row + (lane & 15), kChunk + kLast));
    multiply(kLast, b[0], b[1]);
  }
}

// The column, less the lane's first one of 16, of value c of the lane's accumulators of 8 columns
// number n.
ATTNLANG_DEVICE constexpr int narrow_column(int n, int c, int lane) {
  return n / 2 * 16 + lane % 4 * 4 + 2 * c + n % 2;
}

}  // namespace attnlang::cuda
