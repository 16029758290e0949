// What the backward needs of each row of queries, made by a pass before the products: the terms
// that turn scores into weights and their gradients into those of scores, and what reached out,
// rounded.
#pragma once

#include <cstdint>

#include "attnlang/device/ptx.cuh"
#include "attnlang/device/softmax.cuh"
#include "attnlang/device/vectors.cuh"
#include "attnlang/host/call.h"
#include "attnlang/host/target.h"
#include "kernels/cuda_problem.cuh"
#include "kernels/gradient_variant.h"

namespace attnlang::cuda {

// Rows go through the kernels in blocks, whose middle stands for their positions: `base` of a row
// and the scores that it is added to are of the same request.
constexpr int kAnchorRows = 128;

ATTNLANG_DEVICE int anchor_of(int q_row, int queries) {
  const int middle = q_row / kAnchorRows * kAnchorRows + kAnchorRows / 2;
  return middle < queries ? middle : queries - 1;
}

// A float of each entry of [batch, heads, rows] vectors, in either of two dtypes.
struct FloatRows {
  const void* data;
  DType dtype;
  int64_t stride[4];

  static FloatRows of(const Tensor& t) {
    FloatRows rows{.data = t.data, .dtype = t.dtype, .stride = {}};
    for (int i = 0; i < 4; ++i) rows.stride[i] = t.stride[i];
    return rows;
  }
  template <class Element>
  ATTNLANG_DEVICE float at(int64_t b, int64_t h, int64_t i, int64_t e) const {
    const int64_t offset = b * stride[0] + h * stride[1] + i * stride[2] + e * stride[3];
    if (dtype == DType::f32) return static_cast<const float*>(data)[offset];
    return to_float32(static_cast<const Element*>(data)[offset]);
  }
};

// Of each row, in the workspace: what turns its scores into weights (-inf: it sees nothing, or is
// past the end), and what its weights' gradients are taken relative to. A head has `padded` rows, a
// multiple of kAnchorRows.
struct RowTerms {
  float *base, *delta;
  int32_t padded;

  ATTNLANG_HD int64_t at(int64_t head, int row) const { return head * padded + row; }
};

template <class Variant, class Element>
struct RowPass {
  Problem<Element> problem;
  typename Variant::Arguments arguments;
  typename Variant::Sums sums;
  FloatRows out, out_grad;
  Scalars lse, lse_grad;
  RowTerms terms;
  VectorRows<Element> grads;  // what reached out, for the products
};

constexpr int kRowWarps = 8;

// What reached the sink and the shift of a row goes on to what they read.
template <class Variant>
ATTNLANG_DEVICE void add_row_partials(const typename Variant::Request& request,
                                      const typename Variant::Row& row, float sink, float shift,
                                      const typename Variant::Sums& sums) {
  Variant::Partials::each([&]<class Partial, int kIndex>() {
    if constexpr (!of_elements(Partial::kSource)) {
      if (!Partial::wanted(sums)) return;
      const float grad = Partial::kSource == Source::sink ? sink : shift;
      if (grad == 0.0f) return;
      const float value = grad * Partial::slope(request, row);
      if constexpr (Partial::kReach == Reach::row) Partial::add(request, row, sums, value, 1);
      else Partial::add(request, sums, value);
    }
  });
}

// With L = log2(2^lse + 2^sink): `base` makes weights of scores, `delta` is what a weight's
// gradient is relative to. `dot`: out . grad.
template <class Variant>
ATTNLANG_DEVICE void finish_terms(const typename Variant::Request& request, int q_row, float lse,
                                  float dot, float lse_grad, float& base, float& delta,
                                  const typename Variant::Sums& sums) {
  const typename Variant::Row row = Variant::row(request, q_row);
  lse *= kLog2E;
  float lacks = 0.0f, whole = lse, ratio = 1.0f, sink = 0.0f;  // ratio: 2^(L - lse)
  if constexpr (Variant::kShift) lacks = Variant::shift(request, row);
  if constexpr (Variant::kSink) {
    const float sunk = Variant::sink(request, row);
    const float top = fmaxf(lse, sunk);
    whole = top + log2_approx(exp2_approx(lse - top) + exp2_approx(sunk - top));
    ratio = exp2_approx(whole - lse);
    const float weight = sunk == kInfinity ? 1.0f : exp2_approx(sunk - whole);
    sink = -weight * dot;
  }
  base = lacks - whole;
  delta = dot - (lse_grad == 0.0f ? 0.0f : lse_grad * ratio);
  add_row_partials<Variant>(request, row, sink, dot - dot / ratio + lse_grad, sums);
}

// A warp a row. Rows that see nothing count as zero, whatever they hold.
template <class Variant, class Element, int kDV>
__global__ void __launch_bounds__(kRowWarps* kWarp)
    row_terms_kernel(const __grid_constant__ RowPass<Variant, Element> pass) {
  const Problem<Element>& problem = pass.problem;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t index = int64_t{blockIdx.x} * kRowWarps + warp_index();
  if (index >= int64_t{problem.batch} * problem.heads * pass.terms.padded) return;
  const int q_row = static_cast<int>(index % pass.terms.padded);
  const int head = static_cast<int>(index / pass.terms.padded);
  const int b = head / problem.heads, h = head % problem.heads;
  const bool exists = q_row < problem.queries;
  float lse = exists ? 0.0f : -kInfinity, lse_grad = 0.0f, dot = 0.0f;
  if (exists && Variant::kSoftmax) {
    lse = *pass.lse.at(b, h, q_row);
    if (pass.lse_grad.data != nullptr) lse_grad = *pass.lse_grad.at(b, h, q_row);
  }
  const bool live = lse != -kInfinity;
  if (exists) {
    Element* row = pass.grads.row(b, h, q_row);
    for (int e = lane; e < kDV; e += kWarp) {
      const float grad = live ? pass.out_grad.template at<Element>(b, h, q_row, e) : 0.0f;
      const Element rounded = from_float32<Element>(grad);
      row[e] = rounded;
      if (Variant::kSoftmax && live) {
        dot += to_float32(rounded) * pass.out.template at<Element>(b, h, q_row, e);
      }
    }
  }
  dot = Warp::sum(dot);
  if (lane != 0) return;
  float base = lse, delta = 0.0f;
  if constexpr (Variant::kSoftmax) {
    if (live) {
      const typename Variant::Params params = Variant::params(pass.arguments);
      const int anchor = anchor_of(q_row, problem.queries);
      const auto request = problem.template request<Variant>(params, b, h, anchor);
      finish_terms<Variant>(request, q_row, lse, dot, lse_grad, base, delta, pass.sums);
    }
  }
  pass.terms.base[index] = base;
  pass.terms.delta[index] = delta;
}

}  // namespace attnlang::cuda
