// Which worker does what: the load-balanced schedule of FlashInfer (Ye et al. 2025, Algorithm 1).
//
// From the cost of each work item to chunks of items, each with its worker. A cost unit is a key
// tile that the mask does not hide, so what a window or a document hides weighs nothing. An item
// that is longer than its share is cut into chunks of nearly equal length; the longest chunk goes
// first, to whoever has the least to do. Plain host code: no call, no variant, no torch.
//
// Invariants: every unit of every item lies in exactly one chunk, an item without units is one
// chunk of none; the result depends on the arguments alone; under a `unit_limit` the cuts of an
// item depend on its own cost alone (which worker does it does not matter to what it computes).
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

#include "attnlang/host/chunk.h"

namespace attnlang {

namespace balancing {

constexpr int64_t kUnit = 8;       // what a unit costs
constexpr int64_t kStart = 1;      // what a chunk costs before its first unit
constexpr int32_t kFinest = 4;     // units: no share is made smaller for the sake of balance
constexpr int64_t kTolerance = 8;  // a worker may have an eighth more to do than the mean
constexpr int kMaxHalvings = 2;    // of the average share, while the balance is worse

constexpr int64_t cost_of(int32_t units) { return kUnit * units + kStart; }

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Cuts the items, none longer than `limit`, into chunks in item then key order.
inline void cut(const int32_t* costs, int64_t items, int64_t limit, std::vector<Chunk>& chunks) {
  chunks.clear();
  int32_t slots = 0;
  for (int64_t item = 0; item < items; ++item) {
    const int64_t pieces = std::max<int64_t>(1, divide_up(costs[item], limit));
    int32_t first = 0;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const auto last = static_cast<int32_t>(costs[item] * (piece + 1) / pieces);
      const int32_t slot = pieces == 1 ? -1 : slots++;
      chunks.push_back({static_cast<int32_t>(item), first, last - first, 0, slot});
      first = last;
    }
  }
}

// Deals the chunks out and returns the largest load. Leaves them longest first.
inline int64_t deal(int workers, std::vector<Chunk>& chunks) {
  std::stable_sort(chunks.begin(), chunks.end(),
                   [](const Chunk& a, const Chunk& b) { return a.count > b.count; });
  using Load = std::pair<int64_t, int32_t>;  // what a worker has to do, and which it is
  std::vector<Load> idle(workers);
  for (int32_t worker = 0; worker < workers; ++worker) idle[worker] = {0, worker};
  std::priority_queue<Load, std::vector<Load>, std::greater<>> least({}, std::move(idle));
  int64_t largest = 0;
  for (Chunk& chunk : chunks) {
    const auto [load, worker] = least.top();
    least.pop();
    chunk.worker = worker;
    largest = std::max(largest, load + cost_of(chunk.count));
    least.push({load + cost_of(chunk.count), worker});
  }
  return largest;
}

inline int64_t total_of(const std::vector<Chunk>& chunks) {
  int64_t total = 0;
  for (const Chunk& chunk : chunks) total += cost_of(chunk.count);
  return total;
}

inline bool even(int64_t largest, int64_t total, int workers) {
  const int64_t mean = divide_up(total, workers);
  return largest <= mean + mean / kTolerance;
}

}  // namespace balancing

// Fills `chunks`: grouped by worker (0 first), of each the longest first; slots are numbered in
// item then key order, so that merging states by slot merges them in key order. No chunk is longer
// than `unit_limit`, or, where that is 0, than the average share: total / workers, halved while
// that alone leaves the work uneven. Costs are not negative; fewer than 2 ** 31 chunks may come
// out.
inline void balance(const int32_t* costs, int64_t items, int workers, int32_t unit_limit,
                    std::vector<Chunk>& chunks) {
  int64_t units = 0;
  for (int64_t item = 0; item < items; ++item) units += costs[item];
  const int64_t share = std::max<int64_t>(1, balancing::divide_up(units, workers));
  int64_t limit = unit_limit > 0 ? unit_limit : share;
  balancing::cut(costs, items, limit, chunks);
  int64_t largest = balancing::deal(workers, chunks);
  for (int halvings = 0; unit_limit <= 0 && halvings < balancing::kMaxHalvings; ++halvings) {
    limit /= 2;
    if (limit < balancing::kFinest) break;
    if (balancing::even(largest, balancing::total_of(chunks), workers)) break;
    std::vector<Chunk> finer;
    balancing::cut(costs, items, limit, finer);
    const int64_t found = balancing::deal(workers, finer);
    if (found < largest) {
      largest = found;
      chunks.swap(finer);
    }
  }
  std::stable_sort(chunks.begin(), chunks.end(),
                   [](const Chunk& a, const Chunk& b) { return a.worker < b.worker; });
}

}  // namespace attnlang
