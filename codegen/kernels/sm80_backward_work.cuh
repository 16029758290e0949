// What a backward kernel is launched with: the shape of its blocks, and the call.
#pragma once

#include <cstdint>

#include "attnlang/host/target.h"
#include "kernels/cuda_gradient_rows.cuh"
#include "kernels/cuda_problem.cuh"

namespace attnlang::cuda {

// Whose gradients a kernel makes.
enum class Side { keys, queries };

// kRows of a block stay, kTile of the other side come at once; `split` warps share out the entries
// of the results, and each makes the weights for itself.
struct BackwardShape {
  int rows, tile, split;

  constexpr int warps() const { return rows / 16 * split; }
};

template <class Variant, class Element>
struct BackwardWork {
  Problem<Element> problem;
  typename Variant::Arguments arguments;
  typename Variant::Sums sums;
  RowTerms terms;
  VectorRows<const Element> out_grad;
  VectorRows<const Element>
      rests;                    // what `out_grad` lacks of what reached out, whole blocks of rows
  const int32_t* has_rest;      // of a head
  VectorRows<Element> q, k, v;  // results
  TileOrder order;
  int32_t first_b, first_h, heads;  // of queries: which of them this launch is for
};

// What a block makes: the first of its rows, of one request and head of its side.
struct BackwardPlace {
  int32_t b, head, row0;
};

// Of a dense call. The first keys, which most rows see, and the last queries come first.
template <bool kOfKeys, class Variant, class Element>
ATTNLANG_DEVICE BackwardPlace place_in(const BackwardWork<Variant, Element>& work, int rows) {
  const auto place = work.order[static_cast<int>(blockIdx.x)];
  if constexpr (kOfKeys) {
    return {.b = place.head / work.problem.kv_heads,
            .head = place.head % work.problem.kv_heads,
            .row0 = (work.order.tiles - 1 - place.tile) * rows};
  } else {
    return {.b = work.first_b + place.head / work.heads,
            .head = work.first_h + place.head % work.heads,
            .row0 = place.tile * rows};
  }
}

}  // namespace attnlang::cuda
