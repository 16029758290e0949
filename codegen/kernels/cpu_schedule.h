// How a call's work is cut up, ordered, and its partial results merged.
//
// Cuts depend on shapes alone, never on the number of threads, and states merge in key order: a
// result is the same, bit for bit, on any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "attnlang/cpu/parallel.h"
#include "attnlang/host/call.h"
#include "attnlang/host/function_ref.h"
#include "kernels/cpu_problem.h"

namespace attnlang::cpu {

constexpr int64_t kEnoughItems = 64;   // below this many items, keys are split
constexpr int64_t kMinPartKeys = 512;  // a part is worth its merge

// Keys [begin(i), begin(i + 1)) of part i of `parts`, whole tiles.
struct KeyParts {
  int64_t parts;
  int64_t keys_per_part;

  // `least`: keys that a part is worth.
  static KeyParts of(int64_t items, int64_t keys, int64_t tile, int64_t least = kMinPartKeys) {
    const int64_t wanted = items == 0 ? 1 : kEnoughItems / items;
    const int64_t most = keys / least;
    const int64_t parts = std::max<int64_t>(1, std::min(wanted, most));
    const int64_t tiles = (keys + tile - 1) / tile;
    const int64_t per_part = std::max<int64_t>(1, (tiles + parts - 1) / parts) * tile;
    return {.parts = parts, .keys_per_part = per_part};
  }
  int64_t begin(int64_t part) const { return part * keys_per_part; }
};

// The order in which items are handed out: costly ones first, so that none is left for the end. But
// `together` neighbours at a time, costly groups first: they go through the same keys, which are
// then still in the cache.
[[gnu::cold]] inline std::vector<int64_t> longest_first(int64_t items, int64_t together,
                                                        int threads,
                                                        FunctionRef<int64_t(int64_t)> cost_of) {
  constexpr int64_t kChunk = 16;
  std::vector<int64_t> costs(items), groups((items + together - 1) / together), order(items);
  parallel_for((items + kChunk - 1) / kChunk, threads, [&](int64_t chunk, int) {
    for (int64_t i = chunk * kChunk; i < std::min(items, (chunk + 1) * kChunk); ++i) {
      costs[i] = cost_of(i);
    }
  });
  for (int64_t i = 0; i < items; ++i) groups[i / together] += costs[i], order[i] = i;
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const int64_t x = a / together, y = b / together;
    if (x != y) return groups[x] != groups[y] ? groups[x] > groups[y] : x < y;
    return costs[a] != costs[b] ? costs[a] > costs[b] : a < b;
  });
  return order;
}

// Runs an algorithm (Forward, Decode) over all its items: states, merges, rows.
template <class Algorithm>
[[gnu::cold]] int run_items(const Algorithm& algorithm, int64_t keys, int64_t tile, bool uneven,
                            char* error) {
  const int64_t items = algorithm.items();
  const KeyParts cut = KeyParts::of(items, keys, tile);
  const int threads = thread_count(items * cut.parts);
  Buffer<typename Algorithm::Scratch> scratch(threads);
  Buffer<typename Algorithm::State> states(cut.parts > 1 ? items * cut.parts : 0);
  if (!scratch || !states) return fail(error, "out of memory for %d threads", threads);

  if (cut.parts == 1) {
    std::vector<int64_t> order;
    if (uneven && threads > 1) {
      order = longest_first(items, algorithm.items_of_a_head(), threads,
                            [&](int64_t i) { return algorithm.cost(algorithm.item(i)); });
    }
    parallel_for(items, threads, [&](int64_t i, int thread) {
      const auto item = algorithm.item(order.empty() ? i : order[i]);
      auto& state = scratch[thread].state;
      algorithm.run(item, 0, keys, scratch[thread], state);
      algorithm.finish(item, state);
    });
    return 0;
  }

  parallel_for(items * cut.parts, threads, [&](int64_t i, int thread) {
    const int64_t part = i % cut.parts;
    algorithm.run(algorithm.item(i / cut.parts), cut.begin(part), cut.begin(part + 1),
                  scratch[thread], states[i]);
  });
  parallel_for(items, threads, [&](int64_t i, int) {
    const auto item = algorithm.item(i);
    auto& state = states[i * cut.parts];
    for (int64_t part = 1; part < cut.parts; ++part) {
      Algorithm::merge(state, states[i * cut.parts + part], item);
    }
    algorithm.finish(item, state);
  });
  return 0;
}

}  // namespace attnlang::cpu
