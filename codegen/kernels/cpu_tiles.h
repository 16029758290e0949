// Which key tiles a block of rows visits: recursive division by three-valued verdicts.
//
// A range that is empty is dropped whole, one that is full needs no look inside; the cost is
// logarithmic in the keys for masks with few boundaries, whatever the mask. A range is divided by
// 8, not 2: a verdict that scans tensors scans each element once a level.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attnlang/host/function_ref.h"
#include "attnlang/host/verdict.h"

namespace attnlang::cpu {

using VerdictOf = FunctionRef<Verdict(int64_t k0, int64_t k1)>;

// Calls visit(k0, k1, verdict) for ranges of [k0, k1) in order: runs of tiles when empty or full,
// single tiles when unknown. k0 is a multiple of `tile`, k1 is one or the end of the keys.
[[gnu::cold]] inline void divide_tiles(int64_t k0, int64_t k1, int64_t tile, VerdictOf verdict_of,
                                       FunctionRef<void(int64_t, int64_t, Verdict)> visit) {
  if (k0 >= k1) return;
  const Verdict v = verdict_of(k0, k1);
  if (!is_unknown(v) || k1 - k0 <= tile) {
    visit(k0, k1, v);
    return;
  }
  int64_t step = tile;
  while (step * 8 < k1 - k0) step *= 8;
  for (int64_t k = k0; k < k1; k += step) {
    divide_tiles(k, std::min(k + step, k1), tile, verdict_of, visit);
  }
}

// Calls run(k0, n, masked) for each tile that holds a kept element.
inline void visit_tiles(int64_t k0, int64_t k1, int64_t tile, VerdictOf verdict_of,
                        FunctionRef<void(int64_t, int, bool)> run) {
  const auto run_each = [&](int64_t a, int64_t b, Verdict v) {
    if (is_empty(v)) return;
    for (int64_t k = a; k < b; k += tile) {
      run(k, static_cast<int>(std::min(tile, b - k)), is_unknown(v));
    }
  };
  divide_tiles(k0, k1, tile, verdict_of, run_each);
}

}  // namespace attnlang::cpu
