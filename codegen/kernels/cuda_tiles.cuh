// Which key tiles the rows of a query tile visit, in order, and which of them need the mask: by
// the closed form's ranges, and within what these leave open by a verdict for each tile.
//
// A warp looks at 32 tiles at once, a tile a lane, and ballots. What it finds is a function of the
// arguments alone, so every warp of a block, or a producer alone, may go through the same list.
// Outside the tiles given nothing is kept; `masked` tiles also hold the end of the keys.
#pragma once

#include <cstdint>

#include "attnlang/device/ptx.cuh"
#include "attnlang/host/coverage.h"
#include "attnlang/host/target.h"
#include "attnlang/host/verdict.h"
#include "kernels/cuda_problem.cuh"

namespace attnlang::cuda {

// Ranges of key tiles in shared memory: none beside `may` holds a kept element, those of `must`
// hold nothing else.
struct TileRanges {
  static constexpr int kCapacity = 9;

  struct Tiles {
    int32_t begin, end;
  };
  int32_t may_count, must_count;
  Tiles may[kCapacity], must[kCapacity];

  ATTNLANG_DEVICE void set_unknown(int tiles) {
    may_count = 1, must_count = 0;
    may[0] = {0, tiles};
  }

  // No verdict is asked for what lies in `may`.
  ATTNLANG_DEVICE void set_all_visited() {
    must_count = may_count;
    for (int i = 0; i < may_count; ++i) must[i] = may[i];
  }
  // From the coverage of columns [0, keys), in tiles of `tile`.
  ATTNLANG_DEVICE void set(const Coverage& coverage, int keys, int tile) {
    may_count = must_count = 0;
    for (const Range& range : coverage.may) {
      const Tiles touched = clamped(range, keys, tile, tile - 1);
      if (touched.begin < touched.end) may[may_count++] = touched;
    }
    for (const Range& range : coverage.must) {
      const Tiles filled = clamped(range, keys, tile, 0);
      if (filled.begin < filled.end) must[must_count++] = filled;
    }
  }

 private:
  // Whole tiles from the range's begin on, less up to `slack` columns, to its end, more of them.
  static ATTNLANG_DEVICE Tiles clamped(Range range, int keys, int tile, int slack) {
    const int begin = range.begin < 0      ? 0
                      : range.begin < keys ? static_cast<int>(range.begin)
                                           : keys;
    const int end = range.end < 0 ? 0 : range.end < keys ? static_cast<int>(range.end) : keys;
    if (begin >= end) return {0, 0};
    const bool to_the_end = end == keys;
    return {(begin + tile - 1 - slack) / tile, (end + (to_the_end ? tile - 1 : slack)) / tile};
  }
};

// Fewer tiles than these are asked for their verdicts right away: the ranges cost more.
constexpr int kTilesWithoutRanges = 64;

// One thread's work; others wait for it at a barrier.
template <class Variant>
ATTNLANG_DEVICE void find_ranges(TileRanges& ranges, const typename Variant::Request& request,
                                 int q0, int q1, int keys, int tile) {
  const int tiles = (keys + tile - 1) / tile;
  if constexpr (Variant::kMask) {
    if (tiles > kTilesWithoutRanges) {
      ranges.set(Variant::ranges(request, q0, q1), keys, tile);
      return;
    }
  }
  ranges.set_unknown(tiles);
}

template <class Variant>
ATTNLANG_DEVICE Verdict tile_verdict(const typename Variant::Request& request, int q0, int q1,
                                     int k0, int k1) {
  if constexpr (Variant::kMask) return Variant::tile(request, q0, q1, k0, k1);
  else return Verdict::full;
}

// Some key tiles, counted in tiles.
struct TileSpan {
  int begin, end;

  // What block `part` of `parts` goes through.
  ATTNLANG_DEVICE TileSpan part(int part, int parts) const {
    if (parts == 1) return *this;
    const int tiles = end - begin, each = tiles / parts, more = tiles % parts;
    const int first = begin + part * each + (part < more ? part : more);
    return {first, first + each + (part < more ? 1 : 0)};
  }

  // The tiles from the begin-th to the end-th of these, as far as there are so many.
  ATTNLANG_DEVICE TileSpan slice(int first, int last) const {
    const int tiles = end - begin;
    return {begin + (first < tiles ? first : tiles), begin + (last < tiles ? last : tiles)};
  }

  // The same without what a mask hides at both ends, so that parts are worth the same: 32 equal
  // slices are asked at once, then those of the first to the last that hold something. All lanes of
  // a warp call it together.
  template <class VerdictOf>
  ATTNLANG_DEVICE TileSpan visited(int tile, int keys, const VerdictOf& verdict_of) const {
    TileSpan span = *this;
    for (int slice = span.end - span.begin; slice > 1;) {
      slice = (span.end - span.begin + kWarp - 1) / kWarp;
      const int first = span.begin + static_cast<int>(threadIdx.x % kWarp) * slice;
      const int last = first + slice < span.end ? first + slice : span.end;
      bool held = false;
      if (first < last) {
        const int k1 = last * tile;
        held = !is_empty(verdict_of(first * tile, k1 < keys ? k1 : keys));
      }
      const uint32_t slices = __ballot_sync(~0u, held);
      if (slices == 0) return {span.begin, span.begin};
      const int begin = span.begin + (__ffs(static_cast<int>(slices)) - 1) * slice;
      const int end = span.begin + (kWarp - __clz(static_cast<int>(slices))) * slice;
      const bool shrunk = 2 * (end - begin) <= span.end - span.begin;
      span = {begin, end < span.end ? end : span.end};
      if (!shrunk) break;
    }
    return span;
  }
};

struct KeyTile {
  int32_t k0;   // the first column; negative: there is no further tile
  bool masked;  // some element may not be kept

  ATTNLANG_HD bool valid() const { return k0 >= 0; }
};

// Goes through the tiles of [begin, end), counted in tiles of kKeyTile columns, of a request of
// `keys` columns. VerdictOf: (k0, k1) -> Verdict. Without kMask neither ranges nor verdicts are
// looked at. All lanes of a warp call `next` together.
template <bool kMask, int kKeyTile, class VerdictOf>
class KeyTiles {
 public:
  ATTNLANG_DEVICE KeyTiles(const TileRanges& ranges, int begin, int end, int keys,
                           const VerdictOf& verdict_of)
      : ranges_(ranges), verdict_of_(verdict_of), base_(begin), end_(end), keys_(keys) {}

  ATTNLANG_DEVICE KeyTile next() {
    if constexpr (kMask) {
      while (visited_ == 0) {
        if (!look()) return {-1, false};
      }
      const int bit = __ffs(static_cast<int>(visited_)) - 1;
      visited_ &= visited_ - 1;
      return tile(base_ - kWarp + bit, (masked_ >> bit & 1u) != 0);
    } else {
      if (base_ >= end_) return {-1, false};
      return tile(base_++, false);
    }
  }

 private:
  ATTNLANG_DEVICE KeyTile tile(int index, bool masked) const {
    const int k0 = index * kKeyTile;
    return {k0, masked || k0 + kKeyTile > keys_};
  }

  // The next 32 tiles that may hold something; false: there are none.
  ATTNLANG_DEVICE bool look() {
    int first = end_;
#pragma unroll 1
    for (int i = ranges_.may_count - 1; i >= 0; --i) {
      const auto may = ranges_.may[i];
      if (may.end > base_) first = may.begin > base_ ? may.begin : base_;
    }
    if (first >= end_) return false;
    const int index = first + static_cast<int>(threadIdx.x % kWarp);
    bool visited = false, full = false;
    if (index < end_) {
#pragma unroll 1
      for (int i = 0; i < ranges_.may_count; ++i) {
        visited = visited || (ranges_.may[i].begin <= index && index < ranges_.may[i].end);
      }
#pragma unroll 1
      for (int i = 0; i < ranges_.must_count; ++i) {
        full = full || (ranges_.must[i].begin <= index && index < ranges_.must[i].end);
      }
    }
    if (visited && !full) {
      const int k0 = index * kKeyTile, k1 = k0 + kKeyTile;
      const Verdict verdict = verdict_of_(k0, k1 < keys_ ? k1 : keys_);
      visited = !is_empty(verdict);
      full = is_full(verdict);
    }
    visited_ = __ballot_sync(~0u, visited);
    masked_ = __ballot_sync(~0u, visited && !full);
    base_ = first + kWarp;
    return true;
  }

  const TileRanges& ranges_;
  const VerdictOf& verdict_of_;
  int base_, end_, keys_;
  uint32_t visited_ = 0, masked_ = 0;  // of the 32 tiles before base_
};

}  // namespace attnlang::cuda
