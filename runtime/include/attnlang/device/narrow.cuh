// Products with 8-bit floats: rows lie in shared memory as they are stored, and are widened in
// registers on their way to mma.m16n8k16. To halves, which hold each of them, wherever the other
// operand can be halves too: one instruction for two entries where bfloat16 takes four.
//
// A matrix load takes pairs of bytes for entries. Of keys (rows of B^T) a lane so receives four
// neighbouring entries of a row where two and two would be wanted: as a sum's order is free, the
// rows of A are brought into the same order (`turn_into_halves`). Of values it receives,
// transposed, two neighbouring columns of two rows: they become the operands of two products, of
// the even columns and of the odd ones (`narrow_column`).
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

// The four entries of a word as entries of a product: its lower two and its upper two.
struct Widened {
  uint32_t lower, upper;
};
template <class Element, class Narrow>
ATTNLANG_DEVICE Widened widened(uint32_t word) {
  Widened four;
  if constexpr (std::is_same_v<Narrow, E4m3>) {
    four = {halves_of_e4m3(word), upper_halves_of_e4m3(word)};
  } else {
    four = {halves_of_e5m2(word), upper_halves_of_e5m2(word)};
  }
  if constexpr (!std::is_same_v<Element, Half>) {
    const Pair lower = unpack<Half>(four.lower), upper = unpack<Half>(four.upper);
    four = {pack<Element>(lower.low, lower.high), pack<Element>(upper.low, upper.high)};
  }
  return four;
}

// Row `row` of `tile` becomes, in its place, what multiplies narrow rows: halves, times the power
// of two that brings the largest below 2^15 (of bfloat16 no bit is lost but of entries 2^31 times
// smaller), and of each step of 16 the entries 4t, 4t + 1 at 2t, 4t + 2 and 4t + 3 at 2t + 8. A
// warp's work; returns what takes products back.
template <class Element, int kWidth>
ATTNLANG_DEVICE float turn_into_halves(SharedTile<Element, kWidth> tile, int row, int lane) {
  constexpr int kPairs = kWidth / 2, kEach = (kPairs + kWarp - 1) / kWarp;
  const auto pair_at = [&](int i) -> uint32_t& {
    return reinterpret_cast<uint32_t*>(tile.chunk(row, i / 4))[i % 4];
  };
  uint32_t pairs[kEach], largest = 0;
#pragma unroll
  for (int n = 0; n < kEach; ++n) {
    const int i = n * kWarp + lane;
    pairs[n] = i < kPairs ? pair_at(i) : 0;
    largest = greatest(largest, greatest(pairs[n] & 0x7fff, pairs[n] >> 16 & 0x7fff));
  }
  float power = 1.0f, back = 1.0f;
  if constexpr (!std::is_same_v<Element, Half>) {
    const uint32_t exponent = greatest(__reduce_max_sync(~0u, largest) >> 7, 15u);
    power = __uint_as_float((268 - exponent) << 23);  // both are normal
    back = __uint_as_float((exponent - 14) << 23);
  }
  __syncwarp();
#pragma unroll
  for (int n = 0; n < kEach; ++n) {
    const int i = n * kWarp + lane;
    if constexpr (!std::is_same_v<Element, Half>) {
      const Pair pair = unpack<Element>(pairs[n]);
      pairs[n] = pack<Half>(pair.low * power, pair.high * power);
    }
    if (i < kPairs) pair_at((i & ~7) + (i & 7) / 2 + i % 2 * 4) = pairs[n];
  }
  return back;
}

// dots += A B^T for one or two steps, from `first` on: B's rows are those of `tile` from `row` on,
// two of them a value. a[i]: four words, of step first + i, of rows in their order; two steps begin
// at an even one.
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
      const Widened four = widened<Element, Narrow>(b[i]);
      mma_m16n8k16<Element>(columns_of(dots, 2 * n + rows),
                            reinterpret_cast<const uint32_t (&)[4]>(*a[step]), four.lower,
                            four.upper);
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
    const Widened first = widened<Element, Narrow>(inner_bytes_swapped(low));
    const Widened second = widened<Element, Narrow>(inner_bytes_swapped(high));
    mma_m16n8k16<Element>(columns_of(acc, 2 * n), a, first.lower, second.lower);
    mma_m16n8k16<Element>(columns_of(acc, 2 * n + 1), a, first.upper, second.upper);
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
