// What a block of mma.sync rows works on: rows of one or several heads that share keys, and a part
// of those keys.
//
// Where query rows are few, the rows of an item are those of all heads of a group, so that keys and
// values are read once; row r of a unit of heads is head r / queries, query r % queries. How rows
// and keys are cut depends on shapes alone, or where a schedule says it on lengths and the mask
// too, so a result is the same, bit for bit, on any device.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attnlang/host/target.h"
#include "kernels/cuda_epilogue.cuh"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_selection.cuh"
#include "kernels/cuda_transforms.cuh"

namespace attnlang::cuda {

// The rows row0, row0 + step, ... of a unit of heads from `head` on.
struct Item {
  int b, h_kv, head, row0, rows, step, queries;

  ATTNLANG_DEVICE int head_of(int r) const { return head + (row0 + r * step) / queries; }
  ATTNLANG_DEVICE int query_of(int r) const { return (row0 + r * step) % queries; }
};

constexpr int kProcessors = 132;  // multiprocessors that cuts are made for; others do as well
// Keys whose part is worth its merge: of few rows, and of many.
constexpr int kLeastOfFew = 512, kLeastOfMany = 256;
// Keys in whose time a block starts and ends an item of few rows, beside another one at work.
constexpr int kStartOfFew = 256;

// The parts that each item's keys are cut into, at most `most`: the fewest that leave at most a
// tenth of the `at_once` blocks that run together idle in the last round.
inline int parts_of(int64_t items, int64_t most, int64_t at_once) {
  int64_t best = 1;
  double best_use = 0;
  for (int64_t parts = 1; parts <= std::max<int64_t>(most, 1) && items * (parts - 1) < at_once;
       ++parts) {
    const int64_t blocks = items * parts, rounds = (blocks + at_once - 1) / at_once;
    const double use = static_cast<double>(blocks) / static_cast<double>(rounds * at_once);
    if (use > best_use + 1e-9) best = parts, best_use = use;
    if (use >= 0.9) break;
  }
  return static_cast<int>(best);
}

// Partial states where items are cut, [item][part][row][kStateFloats], and how many parts of an
// item are done.
struct Parts {
  int32_t count;
  int32_t* done;
  float* states;
};

// Which part of an item's keys a block works on, and where the parts' states meet: a row's floats
// after another's, those of the first part apart from those of the later ones.
struct Cut {
  int32_t part, count;
  int32_t begin, end;  // key tiles, of those that the mask leaves; begin negative: an even part
  int32_t* done;       // how many parts of the item are done
  float *first, *later;

  static ATTNLANG_DEVICE Cut whole() {
    return {.part = 0,
            .count = 1,
            .begin = -1,
            .end = -1,
            .done = nullptr,
            .first = nullptr,
            .later = nullptr};
  }
  // Block blockIdx.x of those that share out the items, part blockIdx.y of its item.
  static ATTNLANG_DEVICE Cut even(const Parts& parts, int64_t floats) {
    if (parts.count == 1) return whole();
    const int64_t index = blockIdx.x;
    float* first = parts.states + index * parts.count * floats;
    return {.part = static_cast<int32_t>(blockIdx.y),
            .count = parts.count,
            .begin = -1,
            .end = -1,
            .done = parts.done + index,
            .first = first,
            .later = first + floats};
  }
  // The states of part `at`, which have `floats` in all.
  ATTNLANG_DEVICE float* states(int64_t at, int64_t floats) const {
    return at == 0 ? first : later + (at - 1) * floats;
  }
};

template <int kDV>
Parts take_parts(Workspace& workspace, int64_t items, int rows, int count) {
  Parts parts{.count = count, .done = nullptr, .states = nullptr};
  if (parts.count == 1) return parts;
  const int64_t floats = items * parts.count * rows * kStateFloats<kDV>;
  parts.done = static_cast<int32_t*>(workspace.take(items * sizeof(int32_t)));
  parts.states = static_cast<float*>(workspace.take(floats * sizeof(float)));
  return parts;
}

// One launch: `unit` heads share an item's rows, `chunks` items a unit (and a query, where columns
// are selected).
template <class Variant, class Element>
struct Work {
  Problem<Element> problem;
  typename Variant::Arguments arguments;
  TileOrder order;
  int32_t unit, chunks;
  Parts parts;
  Selection selection;  // of columns; blocks null: all
};

// kRows: of an item. Without kPacked a unit is one head.
template <bool kPacked, int kRows, class Variant, class Element>
ATTNLANG_DEVICE Item item_of(const Work<Variant, Element>& work, int index) {
  const Problem<Element>& problem = work.problem;
  Item item{};
  item.step = 1;
  item.queries = problem.queries;
  int rows = problem.queries, first = 0;  // first: of the batch's heads
  if constexpr (kPacked) {
    rows *= work.unit;
    int unit = index / work.chunks;
    item.row0 = index % work.chunks * kRows;
    if (work.selection.blocks != nullptr) {
      rows = work.unit;
      item.step = problem.queries;
    }
    item.rows = rows - item.row0 < kRows ? rows - item.row0 : kRows;
    if (work.selection.blocks != nullptr) {
      item.row0 = item.row0 * problem.queries + unit % problem.queries;
      unit /= problem.queries;
    }
    first = unit * work.unit;
  } else {
    const TileOrder::Place place = work.order[index];
    first = place.head;
    item.row0 = place.tile * kRows;
    item.rows = rows - item.row0 < kRows ? rows - item.row0 : kRows;
  }
  item.b = first / problem.heads;
  item.head = first % problem.heads;
  item.h_kv = item.head / problem.group();
  return item;
}

}  // namespace attnlang::cuda
