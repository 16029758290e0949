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

}  // namespace attnlang::cuda
