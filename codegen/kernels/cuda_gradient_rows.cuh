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

// Entries that one access moves.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Several {
  T entries[kCount];
};

// Floats of [batch, heads, rows] vectors, in either of two dtypes.
struct FloatRows {
  static constexpr int kMost = 4;

  const void* data;
  DType dtype;
  int64_t stride[4];
  bool several;  // kMost entries may be read at once

  static FloatRows of(const Tensor& t) {
    FloatRows rows{.data = t.data, .dtype = t.dtype, .stride = {}, .several = t.stride[3] == 1};
    const int bytes = t.dtype == DType::f32 ? 4 : 2;
    rows.several = rows.several && reinterpret_cast<uintptr_t>(t.data) % (kMost * bytes) == 0;
    for (int i = 0; i < 4; ++i) {
      rows.stride[i] = t.stride[i];
      if (i < 3 && t.size[i] > 1) rows.several = rows.several && t.stride[i] % kMost == 0;
    }
    return rows;
  }
  // Of a row, kCount entries from e on; more than one only where `several`.
  template <class Element, int kCount>
  ATTNLANG_DEVICE void load(int64_t row, int e, float (&x)[kCount]) const {
    const int64_t at = row + e * stride[3];
    if (dtype == DType::f32) copy<kCount>(static_cast<const float*>(data) + at, x);
    else copy<kCount>(static_cast<const Element*>(data) + at, x);
  }
  ATTNLANG_DEVICE int64_t row(int64_t b, int64_t h, int64_t i) const {
    return b * stride[0] + h * stride[1] + i * stride[2];
  }
  // Of all rows those from `begin` on, whatever the request.
  ATTNLANG_DEVICE void take(int64_t begin) {
    const int64_t bytes = dtype == DType::f32 ? sizeof(float) : sizeof(uint16_t);
    data = static_cast<const char*>(data) + begin * stride[2] * bytes;
    stride[0] = 0;
  }

 private:
  template <int kCount, class T>
  static ATTNLANG_DEVICE void copy(const T* from, float (&x)[kCount]) {
    const auto read = *reinterpret_cast<const Several<T, kCount>*>(from);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if constexpr (sizeof(T) == sizeof(float)) x[i] = read.entries[i];
      else x[i] = to_float32(read.entries[i]);
    }
  }
};

// Of each row, in the workspace: what turns its scores into weights (-inf: it sees nothing, or is
// past the end), and what its weights' gradients are taken relative to. The rows of a request and
// head begin at a multiple of kAnchorRows, and so many whole blocks of them are there.
//
// `delta` is as good as out, whose products summed up rounded weights. Where parameters gather what
// reached many scores, that shows: so what reached a row's arguments is added up once more, and
// what it lacks of `total`, which is known, makes `exact` of delta.
struct RowTerms {
  float *base, *delta;
  float *total, *exact;
  int64_t request, head;  // from one to the next

  ATTNLANG_HD int64_t at(int b, int h, int row) const { return b * request + h * head + row; }
  // Of all rows those from `begin` on.
  ATTNLANG_DEVICE void take(int64_t begin) {
    for (float** each : {&base, &delta, &total, &exact}) *each += begin;
  }
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
  VectorRows<Element> rests;  // what `grads` lacks of it; no data: nobody asks
  int32_t* has_rest;          // of a head: whether that is anything
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
// gradient is relative to, `total` what those of the arguments add up to. `dot`: out . grad.
template <class Variant>
ATTNLANG_DEVICE void finish_terms(const typename Variant::Request& request, int q_row, float lse,
                                  float dot, float lse_grad, float& base, float& delta,
                                  float& total, const typename Variant::Sums& sums) {
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
  total = dot - dot / ratio + lse_grad;
  add_row_partials<Variant>(request, row, sink, total, sums);
}

// Writes what reached a row of out, rounded, zeros where it is not `live`, and where they are asked
// for the rests; returns the lane's part of its product with out.
template <class Variant, class Element, int kDV, int kCount>
ATTNLANG_DEVICE float round_row(const RowPass<Variant, Element>& pass, int b, int h, int q_row,
                                bool live, int lane) {
  Element* target = pass.grads.row(b, h, q_row);
  const int64_t reached = pass.out_grad.row(b, h, q_row), out = pass.out.row(b, h, q_row);
  const bool rests = pass.rests.data != nullptr;
  float dot = 0.0f;
  bool lacks = false;
#pragma unroll
  for (int e = lane * kCount; e < kDV; e += kWarp * kCount) {
    float grad[kCount] = {}, value[kCount] = {};
    if (live) pass.out_grad.template load<Element>(reached, e, grad);
    if (Variant::kSoftmax && live) pass.out.template load<Element>(out, e, value);
    Several<Element, kCount> rounded, rest;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      rounded.entries[i] = from_float32<Element>(grad[i]);
      const float near = to_float32(rounded.entries[i]);
      const float lack = grad[i] - near;
      rest.entries[i] = from_float32<Element>(lack);
      lacks = lacks || lack != 0.0f;
      dot += (rests ? grad[i] : near) * value[i];
    }
    *reinterpret_cast<Several<Element, kCount>*>(target + e) = rounded;
    if (rests) {
      *reinterpret_cast<Several<Element, kCount>*>(pass.rests.row(b, h, q_row) + e) = rest;
    }
  }
  if (rests && lacks) pass.has_rest[b * pass.problem.heads + h] = 1;
  return dot;
}

// One warp's work: the row of a request and head, which may be past the end. Rows that see nothing
// count as zero, whatever they hold.
template <class Variant, class Element, int kDV>
ATTNLANG_DEVICE void find_row_terms(const RowPass<Variant, Element>& pass, int b, int h,
                                    int q_row) {
  constexpr int kCount = kDV % (4 * kWarp) == 0 ? 4 : kDV % (2 * kWarp) == 0 ? 2 : 1;
  static_assert(kCount <= FloatRows::kMost);
  const Problem<Element>& problem = pass.problem;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const bool exists = q_row < problem.queries;
  float lse = exists ? 0.0f : -kInfinity, lse_grad = 0.0f, dot = 0.0f;
  if (exists && Variant::kSoftmax) {
    lse = *pass.lse.at(b, h, q_row);
    if (pass.lse_grad.data != nullptr) lse_grad = *pass.lse_grad.at(b, h, q_row);
  }
  const bool live = lse != -kInfinity;
  if (exists) {
    const bool several = pass.out_grad.several && (!Variant::kSoftmax || pass.out.several);
    dot = several ? round_row<Variant, Element, kDV, kCount>(pass, b, h, q_row, live, lane)
                  : round_row<Variant, Element, kDV, 1>(pass, b, h, q_row, live, lane);
  }
  dot = Warp::sum(dot);
  if (lane != 0) return;
  float base = lse, delta = 0.0f, total = 0.0f;
  if constexpr (Variant::kSoftmax) {
    if (live) {
      const typename Variant::Params params = Variant::params(pass.arguments);
      const int anchor = anchor_of(q_row, problem.queries);
      const auto request = problem.template request<Variant>(params, b, h, anchor);
      finish_terms<Variant>(request, q_row, lse, dot, lse_grad, base, delta, total, pass.sums);
    }
  }
  const int64_t index = pass.terms.at(b, h, q_row);
  pass.terms.base[index] = base;
  pass.terms.delta[index] = delta;
  pass.terms.total[index] = total;
}

// A warp a row.
template <class Variant, class Element, int kDV>
__global__ void __launch_bounds__(kRowWarps* kWarp)
    row_terms_kernel(const __grid_constant__ RowPass<Variant, Element> pass) {
  static_assert(kAnchorRows % kRowWarps == 0);
  const auto blocks = static_cast<unsigned>(pass.terms.head / kRowWarps);  // of a head
  const int head = static_cast<int>(blockIdx.x / blocks), heads = pass.problem.heads;
  const int q_row = static_cast<int>(blockIdx.x % blocks) * kRowWarps + warp_index();
  find_row_terms<Variant, Element, kDV>(pass, head / heads, head % heads, q_row);
}

}  // namespace attnlang::cuda
