// The running softmax of a fragment's two rows, base 2.
//
// A thread holds, of 8 columns of a 16-row accumulator, four values: rows r and r + 8 (r = lane /
// 4), two neighbouring columns each; so it is for mma.m16n8 and for wgmma. Fragments are flat
// arrays: value (n, row, c) of column 8 n + 2 (lane % 4) + c stands at 4 n + 2 row + c. The four
// lanes of a quad share their rows; a thread's sums are those of its own columns until `quad_sum`.
#pragma once

#include "attnlang/device/ptx.cuh"
#include "attnlang/host/target.h"

namespace attnlang::cuda {

constexpr float kInfinity = __builtin_huge_valf();
constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;

ATTNLANG_DEVICE constexpr int fragment_index(int n, int row, int c) { return 4 * n + 2 * row + c; }

ATTNLANG_DEVICE float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
ATTNLANG_DEVICE float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

// NaN if one is.
ATTNLANG_DEVICE float max_or_nan(float a, float b) { return a != a || a > b ? a : b; }
ATTNLANG_DEVICE float quad_max_or_nan(float x) {
  x = max_or_nan(x, __shfl_xor_sync(~0u, x, 1));
  return max_or_nan(x, __shfl_xor_sync(~0u, x, 2));
}

// What weights are taken relative to: 0 for a row that has seen nothing but -inf.
ATTNLANG_DEVICE float finite_reference(float top) { return top == -kInfinity ? 0.0f : top; }

// What a sum relative to `old` is multiplied by to be relative to `top`, the later maximum.
ATTNLANG_DEVICE float rescale(float old, float top) {
  return exp2_approx(old - finite_reference(top));
}

struct RowState {
  float max = -kInfinity;
  float sum = 0.0f;
  float weighted = 0.0f;  // with factors, where out reads it
};

// Scores to weights of one row of a fragment, whose state they join; `top`: the largest of the
// thread's own scores. Returns what the row's accumulator is to be multiplied by. NaN passes over
// the maximum and reaches its row through the weights. kFactor: weights are multiplied by `factors`
// after the sum has counted them; kWeighted: the sum of the products is kept too.
template <bool kFactor, bool kWeighted, int kValues>
ATTNLANG_DEVICE float softmax_row(int row, float top, float (&scores)[kValues],
                                  const float* factors, RowState& state) {
  top = fmaxf(state.max, quad_max(top));
  const float base = finite_reference(top);
  const float scale = exp2_approx(state.max - base);
  float sum = state.sum * scale, weighted = state.weighted * scale;
#pragma unroll
  for (int n = 0; n < kValues / 4; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int at = fragment_index(n, row, c);
      const float weight = exp2_approx(scores[at] - base);
      sum += weight;
      if constexpr (kFactor) {
        scores[at] = weight * factors[at];
        if constexpr (kWeighted) weighted += scores[at];
      } else {
        scores[at] = weight;
      }
    }
  }
  state = {.max = top, .sum = sum, .weighted = weighted};
  return scale;
}

// A row of an accumulator, times `scale`.
template <int kValues>
ATTNLANG_DEVICE void scale_row(int row, float scale, float (&acc)[kValues]) {
#pragma unroll
  for (int n = 0; n < kValues / 4; ++n) {
    acc[fragment_index(n, row, 0)] *= scale;
    acc[fragment_index(n, row, 1)] *= scale;
  }
}

}  // namespace attnlang::cuda
