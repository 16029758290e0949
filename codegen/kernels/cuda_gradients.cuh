// What reaches the elements of a fragment, and the parameters that they read.
#pragma once

#include "attnlang/device/ptx.cuh"
#include "attnlang/device/softmax.cuh"
#include "attnlang/device/vectors.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_gradient_sums.cuh"
#include "kernels/cuda_problem.cuh"
#include "kernels/gradient_variant.h"

namespace attnlang::cuda {

// What an element gives to the products, what reached softmax's argument (the weight, without one)
// and the factor, and the softmax's own weight; zeros where it is not kept.
struct ElementGradient {
  float weight, slope, argument, factor, share;
};

// `grad`: what reached the weight; `base` and `delta` are of the row.
template <class Variant, bool kMasked>
ATTNLANG_DEVICE ElementGradient element_gradient(const typename Variant::Request& request,
                                                 const typename Variant::Row& row,
                                                 const typename Variant::Column& column,
                                                 bool exists, float dot, float grad, float base,
                                                 float delta) {
  bool live = true;
  if constexpr (kMasked) {
    live = exists;
    if constexpr (Variant::kMask) live = live && Variant::keep(request, row, column, dot);
  }
  float dropout = 1.0f;
  if constexpr (Variant::kDropout) dropout = Variant::dropout(request, row, column);
  ElementGradient e{};
  if constexpr (Variant::kSoftmax) {
    const float p = exp2_approx(Variant::score(request, row, column, dot) + base);
    live = live && p != 0.0f;
    float all = dropout;
    if constexpr (Variant::kFactor) all = Variant::factor(request, row, column, dot);
    e.share = p;
    e.weight = p * all;
    e.argument = p * (grad * all - delta);
    e.factor = grad * p * dropout;
  } else {
    e.weight = Variant::weight(request, row, column, dot);
    e.argument = grad * dropout;
  }
  e.slope = Variant::dot_gradient(request, row, column, dot, e.argument, e.factor);
  return live ? e : ElementGradient{};
}

// The sums of the partial derivatives by what elements read, of the two rows of a thread's
// fragment: those that reach columns, or (not kColumns) all others.
//
// A row's arguments are taken relative to a `delta` that is not exact. What that is worth comes out
// at the row's end: sums over it are mended then, by the sums of what each weight multiplies; sums
// over columns come later, and take the exact one.
template <class Variant, bool kColumns>
class PartialSums {
 public:
  using Request = typename Variant::Request;
  using Row = typename Variant::Row;
  using Column = typename Variant::Column;
  using Sums = typename Variant::Sums;
  using Partials = typename Variant::Partials;

  template <class Partial>
  static constexpr bool kTaken =
      of_elements(Partial::kSource) && (Partial::kReach == Reach::column) == kColumns;
  static constexpr bool kMends = !kColumns && Variant::kSoftmax;

  ATTNLANG_DEVICE void start() {
#pragma unroll
    for (auto& both : values_) both[0] = both[1] = 0.0f;
#pragma unroll
    for (auto& both : shares_) both[0] = both[1] = 0.0f;
    arguments_[0] = arguments_[1] = 0.0f;
  }

  // What the arguments of row `i` of the fragment add up to.
  ATTNLANG_DEVICE float arguments(int i) const { return quad_sum(arguments_[i]); }

  // An element of row `i` of the fragment. `adds`: no other warp has the same element.
  ATTNLANG_DEVICE void add(int i, const Request& request, const Row& row, const Column& column,
                           float dot, const ElementGradient& e, bool adds, const Sums& sums) {
    if constexpr (kMends) arguments_[i] += e.argument;
    Partials::each([&]<class Partial, int kIndex>() {
      if constexpr (kTaken<Partial>) {
        if (!Partial::wanted(sums)) return;
        const float grad = Partial::kSource == Source::factor ? e.factor : e.argument;
        if (grad == 0.0f && (e.share == 0.0f || !kMended<Partial>)) return;
        const float slope = Partial::slope(request, row, column, dot);
        if constexpr (Partial::kReach == Reach::element) {
          if (adds) Partial::add(request, row, column, sums, grad * slope, 1);
        } else {
          values_[kIndex][i] += grad * slope;
          if constexpr (kMended<Partial>) shares_[kIndex][i] += e.share * slope;
        }
      }
    });
  }

  // The four lanes of a quad share a fragment's rows. `exists`: of each of the lane's two.
  ATTNLANG_DEVICE void finish_columns(const Request& request, const Column (&columns)[2],
                                      const bool (&exists)[2], int lane, const Sums& sums) {
    Partials::each([&]<class Partial, int kIndex>() {
      if constexpr (kTaken<Partial> && Partial::kReach == Reach::column) {
        if (!Partial::wanted(sums)) return;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float value = quad_sum(values_[kIndex][i]);
          if (exists[i] && lane % 4 == 0) Partial::add(request, columns[i], sums, value, 1);
        }
      }
    });
  }
  // `lacks`: what the rows' delta lacks.
  ATTNLANG_DEVICE void finish_rows(const Request& request, const Row (&rows)[2],
                                   const bool (&exists)[2], const float (&lacks)[2], int lane,
                                   const Sums& sums) {
    Partials::each([&]<class Partial, int kIndex>() {
      if constexpr (kTaken<Partial> && Partial::kReach == Reach::row) {
        if (!Partial::wanted(sums)) return;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float value = quad_sum(mended<Partial, kIndex>(i, lacks[i]));
          if (exists[i] && lane % 4 == 0) Partial::add(request, rows[i], sums, value, 1);
        }
      } else if constexpr (kTaken<Partial> && Partial::kReach == Reach::request) {
        if (!Partial::wanted(sums)) return;
        const float value =
            Warp::sum(mended<Partial, kIndex>(0, lacks[0]) + mended<Partial, kIndex>(1, lacks[1]));
        if (lane == 0 && value != 0.0f) Partial::add(request, sums, value);
      }
    });
  }

 private:
  static constexpr int kCount = Partials::kCount > 0 ? Partials::kCount : 1;
  template <class Partial>
  static constexpr bool kMended =
      kMends && Partial::kSource == Source::argument &&
      (Partial::kReach == Reach::row || Partial::kReach == Reach::request);

  template <class Partial, int kIndex>
  ATTNLANG_DEVICE float mended(int i, float lack) const {
    const float value = values_[kIndex][i];
    if constexpr (kMended<Partial>) return value - lack * shares_[kIndex][i];
    else return value;
  }

  float values_[kCount][2];
  float shares_[kMends ? kCount : 1][2];
  float arguments_[2];
};

}  // namespace attnlang::cuda
