// Which key tiles a block of rows visits: recursive division by three-valued verdicts.
//
// A range that is empty is dropped whole, one that is full needs no look inside; the cost is
// logarithmic in the keys for masks with few boundaries, whatever the mask. A range is divided by 8,
// not 2: a verdict that scans tensors scans each element once a level.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attnlang/host/verdict.h"

namespace attnlang::cpu {

// Calls visit(k0, k1, verdict) for ranges of [k0, k1) in order: runs of tiles when empty or full,
// single tiles when unknown. k0 is a multiple of `tile`, k1 is one or the end of the keys.
template <class Verdicts, class Visit>
void divide_tiles(int64_t k0, int64_t k1, int64_t tile, const Verdicts& verdict_of,
                  const Visit& visit) {
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
template <class Verdicts, class Run>
void visit_tiles(int64_t k0, int64_t k1, int64_t tile, const Verdicts& verdict_of, const Run& run) {
  divide_tiles(k0, k1, tile, verdict_of, [&](int64_t a, int64_t b, Verdict v) {
    if (is_empty(v)) return;
    for (int64_t k = a; k < b; k += tile) {
      run(k, static_cast<int>(std::min(tile, b - k)), is_unknown(v));
    }
  });
}

}  // namespace attnlang::cpu
