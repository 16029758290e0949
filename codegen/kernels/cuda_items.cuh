// What a block of mma.sync rows works on: rows of one or several heads that share keys, and a part
// of those keys.
//
// Where query rows are few, the rows of an item are those of all heads of a group, so that keys and
// values are read once; row r of a unit of heads is head r / queries, query r % queries. How rows
// and keys are cut depends on shapes alone, so a result is the same, bit for bit, on any device.
#pragma once

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

constexpr int kEnoughBlocks = 264;  // two for each of 132 multiprocessors
constexpr int kMinTilesOfPart = 4;  // a part of the keys is worth its merge

// The parts that each item's keys are cut into.
inline int parts_of(int64_t items, int64_t key_tiles) {
  const int64_t wanted = items == 0 ? 1 : kEnoughBlocks / items;
  const int64_t most = key_tiles / kMinTilesOfPart;
  const int64_t parts = wanted < most ? wanted : most;
  return static_cast<int>(parts < 1 ? 1 : parts);
}

// Partial states where items are cut, [item][part][row][kStateFloats], and how many parts of an
// item are done.
struct Parts {
  int32_t count;
  int32_t* done;
  float* states;
};

template <int kDV>
Parts take_parts(Workspace& workspace, int64_t items, int rows, int64_t key_tiles) {
  Parts parts{.count = parts_of(items, key_tiles), .done = nullptr, .states = nullptr};
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
ATTNLANG_DEVICE Item item_of(const Work<Variant, Element>& work, int64_t index) {
  const Problem<Element>& problem = work.problem;
  Item item{};
  item.step = 1;
  item.queries = problem.queries;
  int rows = problem.queries;
  if constexpr (kPacked) {
    const int64_t head = index / work.chunks;
    int64_t unit = head;
    item.row0 = static_cast<int>(index % work.chunks) * kRows;
    rows *= work.unit;
    if (work.selection.blocks != nullptr) {
      const int query = static_cast<int>(head % problem.queries);
      unit = head / problem.queries;
      item.step = problem.queries;
      item.rows = work.unit - item.row0 < kRows ? work.unit - item.row0 : kRows;
      item.row0 = item.row0 * problem.queries + query;
    }
    const int first = static_cast<int>(unit) * work.unit;  // of the batch's heads
    item.b = first / problem.heads;
    item.head = first % problem.heads;
  } else {
    const TileOrder::Place place = work.order[index];
    item.b = place.head / problem.heads;
    item.head = place.head % problem.heads;
    item.row0 = place.tile * kRows;
  }
  item.h_kv = item.head / problem.group();
  if (item.step == 1) item.rows = rows - item.row0 < kRows ? rows - item.row0 : kRows;
  return item;
}

}  // namespace attnlang::cuda
