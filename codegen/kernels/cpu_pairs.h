// Values of pairs of a row and a column that a tile works out beforehand (docs/cpu-variant.md).
//
// A diagonal holds what depends on the difference of positions alone: a tile of 64 x 64 has 127 of
// them. A block holds what is read along the columns of a tensor: with rows in the lanes such a
// read takes a cache line a lane, and rows whose stride is a power of two push each other out of
// the cache. So it is made with columns in the lanes, and transposed.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "attnlang/cpu/reduce.h"
#include "attnlang/cpu/simd.h"
#include "kernels/cpu_tile.h"

namespace attnlang::cpu {

template <class V>
constexpr bool kHasPairs = requires { typename V::PairTile; };

// Row m beside columns j .. j + kLanes - 1 (`columns`), or rows m .. beside column j.
struct PairSpan {
  bool columns;
  int m, j;
};

// values[m - j], from the last column's beside row 0 on.
template <class Lanes>
struct DiagonalPairs {
  static constexpr int kZero = kKeyTile - 1;
  alignas(64) F values[(kKeyTile + kQueryTile) / kLanes];

  void store(PairSpan span, Lanes x) {
    float* to = reinterpret_cast<float*>(values) + kZero + span.m - span.j;
    if (span.columns) cpu::store(to - (kLanes - 1), __builtin_shuffle((F)x, kLanes - 1 - iota_i()));
    else cpu::store(to, (F)x);
  }
  // Rows m on, and of those vector v beside column j.
  const float* rows(int m) const { return reinterpret_cast<const float*>(values) + kZero + m; }
  [[gnu::always_inline]] static Lanes at(const float* rows, int v, int j) {
    return (Lanes)load_f(rows + v * kLanes - j);
  }
};

// [panel][kKeyTile][kPanel], as scores are.
template <class Lanes>
struct BlockPairs {
  alignas(64) float values[kPanels * kKeyTile * kPanel];

  static int place(int m, int j) {
    return m / kPanel * kKeyTile * kPanel + j * kPanel + m % kPanel;
  }
  // of_row(i): row m + i beside columns j .. j + kLanes - 1.
  template <class OfRow>
  [[gnu::always_inline]] void store(int m, int j, const OfRow& of_row) {
    F x[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) x[i] = (F)of_row(i);
    transpose(x);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) cpu::store(values + place(m, j + i), x[i]);
  }
  const float* rows(int m) const { return values + place(m, 0); }
  [[gnu::always_inline]] static Lanes at(const float* rows, int v, int j) {
    return (Lanes)load_f(rows + v * kLanes + j * kPanel);
  }
};

// The pairs of a tile, where a variant has any.
template <class Variant>
struct TilePairs {
  template <bool kMasked, class Request, class Row, class Columns>
  void fill(const Request&, const Row*, const Columns&, int, int) {}
  struct Rows {
    template <class Use>
    [[gnu::always_inline]] void with(int, int, const Use& use) const {
      use();
    }
  };
  Rows rows(int) const { return {}; }
  [[gnu::always_inline]] void ask_ahead(int) const {}
};

template <class Variant>
  requires kHasPairs<Variant>
struct TilePairs<Variant> {
  using Tile = typename Variant::PairTile;
  using Pair = typename Variant::Pair;
  Tile tile;

  // Those of the first `rows` rows and n columns.
  template <bool kMasked>
  void fill(const typename Variant::Request& request, const typename Variant::Row* rows,
            const typename Variant::ColumnTile& columns, int row_count, int n) {
    if constexpr (Tile::kDiagonals) fill_diagonals<kMasked>(request, rows, columns, row_count, n);
    if constexpr (Tile::kBlocks) fill_blocks<kMasked>(request, rows, columns, row_count, n);
  }

  // Rows m on; use(pair) of their vector v beside column j.
  struct Rows {
    typename Variant::PairRows at;
    template <class Use>
    [[gnu::always_inline]] void with(int v, int j, const Use& use) const {
      use(Variant::pair(at, v, j));
    }
  };
  Rows rows(int m) const { return {Variant::pair_rows(tile, m)}; }

  // Asks for what row m reads of the next tile, while there is arithmetic to do: into the second
  // cache, for rows that are a power of two apart push each other out of the first.
  [[gnu::always_inline]] void ask_ahead(int m) const {
    if (m >= rows_ahead) return;
#pragma GCC unroll 4
    for (int i = 0; i < kReads; ++i) {
      constexpr int64_t kLine = 64;
      for (int64_t at = 0; at < kKeyTile * Variant::block_bytes(i); at += kLine) {
        __builtin_prefetch(ahead[m * kReads + i] + at, 0, 2);
      }
    }
  }

 private:
  static constexpr int kReads = Variant::kBlockReads;
  const char* ahead[kQueryTile * std::max(kReads, 1)];
  int rows_ahead;  // as `fill` leaves it

  // Row 0 beside each column, then each row beside column 0: all of them pairs of the tile.
  template <bool kMasked>
  [[gnu::noinline]] void fill_diagonals(const typename Variant::Request& request,
                                        const typename Variant::Row* rows,
                                        const typename Variant::ColumnTile& columns, int row_count,
                                        int n) {
    const typename Variant::Row first = Variant::splat_row(rows[0], 0);
    for (int j = 0; j < n; j += kLanes) {
      const Pair pair = Variant::pair(request, first, Variant::columns(columns, j));
      Variant::template store_diagonals<kMasked>(tile, {true, 0, j}, pair);
    }
    const typename Variant::Column column = Variant::broadcast(columns, 0);
    for (int m = 0; m < row_count; m += kLanes) {
      const Pair pair = Variant::pair(request, rows[m / kLanes], column);
      Variant::template store_diagonals<kMasked>(tile, {false, m, 0}, pair);
    }
  }

  template <bool kMasked>
  [[gnu::noinline]] void fill_blocks(const typename Variant::Request& request,
                                     const typename Variant::Row* rows,
                                     const typename Variant::ColumnTile& columns, int row_count,
                                     int n) {
    for (int m = 0; m < row_count; m += kLanes) {
      const int count = std::min(kLanes, row_count - m);
      for (int j = 0; j < n; j += kLanes) {
        const typename Variant::Column column = Variant::columns(columns, j);
        Pair pairs[kLanes];
        for (int i = 0; i < kLanes; ++i) {
          const int row = std::min(i, count - 1);
          pairs[i] = Variant::block(request, Variant::splat_row(rows[m / kLanes], row), column);
        }
        Variant::template store_block<kMasked>(tile, m, j, pairs);
      }
    }
    look_ahead(request, rows, columns, row_count);
  }

  // Where each row reads of the tile that comes next, if it is the neighbour.
  void look_ahead(const typename Variant::Request& request, const typename Variant::Row* rows,
                  const typename Variant::ColumnTile& columns, int row_count) {
    typename Variant::Column next = Variant::columns(columns, 0);
    next.kv_col += kKeyTile;
    next.kv_idx += kKeyTile;
    for (int m = 0; m < row_count; ++m) {
      const auto row = Variant::splat_row(rows[m / kLanes], m % kLanes);
      Variant::block_reads(request, row, next, ahead + m * kReads);
    }
    rows_ahead = row_count;
  }
};

}  // namespace attnlang::cpu
