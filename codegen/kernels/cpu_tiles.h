// Which key tiles a block of rows visits: the ranges of the closed form, and within what it leaves
// open, division by three-valued verdicts.
//
// The ranges cost the same whatever the number of keys. Outside `may` nothing is asked or read,
// inside `must` tiles are full; the rest is divided by 8 until a verdict is known or one tile is
// left (by 8, not 2: few levels).
#pragma once

#include <algorithm>
#include <cstdint>

#include "attnlang/cpu/simd.h"
#include "attnlang/host/coverage.h"
#include "attnlang/host/function_ref.h"
#include "attnlang/host/verdict.h"

namespace attnlang::cpu {

using VerdictOf = FunctionRef<Verdict(int64_t k0, int64_t k1)>;
// Runs of full tiles, and single tiles of which nothing is known.
using VisitTiles = FunctionRef<void(int64_t k0, int64_t k1, Verdict verdict)>;

// Visits what may be kept of [k0, k1), in order. k0 is a multiple of `tile`, k1 is one or the end.
[[gnu::cold]] inline void divide_tiles(int64_t k0, int64_t k1, int64_t tile, VerdictOf verdict_of,
                                       VisitTiles visit) {
  if (k0 >= k1) return;
  const Verdict v = verdict_of(k0, k1);
  if (is_empty(v)) return;
  if (is_full(v) || k1 - k0 <= tile) {
    visit(k0, k1, v);
    return;
  }
  int64_t step = tile;
  while (step * 8 < k1 - k0) step *= 8;
  for (int64_t k = k0; k < k1; k += step) {
    divide_tiles(k, std::min(k + step, k1), tile, verdict_of, visit);
  }
}

namespace detail {

// The part of a range that lies in [k0, k1): all tiles that it touches, or those that it fills.
inline Range touched_tiles(Range range, int64_t k0, int64_t k1, int64_t tile) {
  const int64_t begin = std::max(range.begin, k0), end = std::min(range.end, k1);
  if (begin >= end) return {k1, k1};
  return {begin / tile * tile, std::min((end + tile - 1) / tile * tile, k1)};
}
inline Range filled_tiles(Range range, int64_t k0, int64_t k1, int64_t tile) {
  const int64_t begin = std::max(range.begin, k0), end = std::min(range.end, k1);
  if (begin >= end) return {k1, k1};
  return {(begin + tile - 1) / tile * tile, end == k1 ? k1 : end / tile * tile};
}

}  // namespace detail

// The same by a closed form: verdicts are asked for what it leaves open alone.
[[gnu::cold]] inline void cover_tiles(const Coverage& coverage, int64_t k0, int64_t k1,
                                      int64_t tile, VerdictOf verdict_of, VisitTiles visit) {
  int64_t next = k0;  // tiles before it are done
  for (const Range& may : coverage.may) {
    const Range run = detail::touched_tiles(may, k0, k1, tile);
    if (run.begin >= run.end) continue;
    next = std::max(next, run.begin);
    for (const Range& must : coverage.must) {
      const Range full = detail::filled_tiles(must, next, run.end, tile);
      if (full.begin >= full.end) continue;
      divide_tiles(next, full.begin, tile, verdict_of, visit);
      visit(full.begin, full.end, Verdict::full);
      next = full.end;
    }
    divide_tiles(next, run.end, tile, verdict_of, visit);
    next = std::max(next, run.end);
  }
}

// How many tiles of kMaxKeyTile keys an item of an algorithm visits.
template <class Algorithm>
int64_t tile_count(const Algorithm& algorithm, const typename Algorithm::Item& item) {
  int64_t tiles = 0;
  algorithm.cover(item, [&](int64_t a, int64_t b, Verdict) {
    tiles += (b - a + kMaxKeyTile - 1) / kMaxKeyTile;
  });
  return tiles;
}

// The first key of the tile number `wanted` of those; `end` where there are no more.
template <class Algorithm>
int64_t tile_begin(const Algorithm& algorithm, const typename Algorithm::Item& item, int64_t wanted,
                   int64_t end) {
  int64_t begin = end;
  algorithm.cover(item, [&](int64_t a, int64_t b, Verdict) {
    const int64_t tiles = (b - a + kMaxKeyTile - 1) / kMaxKeyTile;
    if (0 <= wanted && wanted < tiles) begin = a + wanted * kMaxKeyTile;
    wanted -= tiles;
  });
  return begin;
}

// Calls run(k0, n, masked) for each tile that holds a kept element.
inline void visit_tiles(const Coverage& coverage, int64_t k0, int64_t k1, int64_t tile,
                        VerdictOf verdict_of, FunctionRef<void(int64_t, int, bool)> run) {
  const auto run_each = [&](int64_t a, int64_t b, Verdict v) {
    for (int64_t k = a; k < b; k += tile) {
      run(k, static_cast<int>(std::min(tile, b - k)), is_unknown(v));
    }
  };
  cover_tiles(coverage, k0, k1, tile, verdict_of, run_each);
}

}  // namespace attnlang::cpu
