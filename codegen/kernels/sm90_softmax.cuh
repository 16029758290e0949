// Scores to weights in the registers of a warpgroup's accumulator: device/softmax.cuh says which
// thread holds which element.
//
// Where the score is a multiple of the dot product, maxima are those of raw products and a weight
// is exp2 of one fused multiply-add. Where weights have factors, which may read the dot product,
// the score is made twice rather than kept beside it: registers are what a tile is limited by.
#pragma once

#include "attnlang/device/ptx.cuh"
#include "attnlang/device/softmax.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_scores.cuh"

namespace attnlang::cuda::sm90 {

// score = scale(request) * dot.
template <class Variant>
constexpr bool kScaledScore = [] {
  if constexpr (requires { Variant::kScaled; }) return Variant::kScaled && !Variant::kFactor;
  else return false;
}();

// The score of a small dot is cheaper.
template <class V>
constexpr bool kCappedScore = [] {
  if constexpr (requires { V::kCapped; }) return V::kCapped;
  else return false;
}();

template <class Variant, int kKeyTile>
class Softmax {
 public:
  using Request = typename Variant::Request;
  using Rows = ThreadRows<Variant, false>;
  static constexpr bool kScaled = kScaledScore<Variant>;
  static constexpr int kValues = kKeyTile / 2;

  ATTNLANG_DEVICE void start(const Request& request) {
    if constexpr (kScaled) {
      const float scale = Variant::scale(request);
      sign_ = scale < 0.0f ? -1.0f : 1.0f;
      // A masked element is -inf times the scale: that may be tiny but not 0.
      scale_ = fmaxf(fabsf(scale), 0x1p-126f);
    }
  }

  // The states of the thread's two rows: sums are the thread's, maxima the rows'.
  ATTNLANG_DEVICE RowState state(int i) const {
    return {.max = scaled(top_[i]), .sum = sum_[i], .weighted = weighted_[i]};
  }

  // Whether full tiles must be weighed as masked ones are: these alone look at the scale's sign.
  ATTNLANG_DEVICE bool needs_sign() const { return kScaled && sign_ < 0.0f; }

  // A tile's dots to weights, `k0` the thread's first column; `rescale`: what earlier sums are
  // multiplied by.
  template <bool kMasked>
  ATTNLANG_DEVICE void weigh(const Rows& rows, int k0, int end, float (&s)[kValues],
                             float (&rescale)[2]) {
    if constexpr (kCappedScore<Variant> && !kMasked) {
      float most = 0.0f;
#pragma unroll
      for (int i = 0; i < kValues; ++i) most = fmaxf(most, fabsf(s[i]));
      if (__all_sync(~0u, most <= Variant::small_dot(rows.requests[0]))) {
        weigh_as<false, true>(rows, k0, end, s, rescale);
        return;
      }
    }
    weigh_as<kMasked, false>(rows, k0, end, s, rescale);
  }

 private:
  // kSmall: all dots are small enough for a cheaper score.
  template <bool kMasked, bool kSmall>
  ATTNLANG_DEVICE void weigh_as(const Rows& rows, int k0, int end, float (&s)[kValues],
                                float (&rescale)[2]) {
    float top[2] = {top_[0], top_[1]};
    for_each(
        rows, k0,
        [&](int at, int i, int kv_col, const auto& request, const auto& row, const auto& column) {
          const float score =
              this->template score<kMasked, kSmall>(request, row, column, kv_col, end, s[at]);
          top[i] = fmaxf(top[i], score);  // NaN reaches its row through the weight
          if constexpr (!Variant::kFactor) s[at] = score;
        });
    float base[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      top[i] = quad_max(top[i]);
      base[i] = finite_reference(scaled(top[i]));
      rescale[i] = relative(top_[i], base[i]);
      top_[i] = top[i];
      sum_[i] *= rescale[i];
      weighted_[i] *= rescale[i];
    }
    for_each(
        rows, k0,
        [&](int at, int i, int kv_col, const auto& request, const auto& row, const auto& column) {
          if constexpr (!Variant::kFactor) {
            s[at] = relative(s[at], base[i]);
            sum_[i] += s[at];
          } else {
            const float dot = s[at];
            const float score =
                this->template score<kMasked, kSmall>(request, row, column, kv_col, end, dot);
            const float weight = relative(score, base[i]);
            sum_[i] += weight;
            // 0 beside a weight of 0, whatever the factor is there.
            const float factor = Variant::factor(request, row, column, dot);
            s[at] = score == -kInfinity ? 0.0f : weight * factor;
            if constexpr (kWeighted<Variant>) weighted_[i] += s[at];
          }
        });
  }

  template <class Visit>
  static ATTNLANG_DEVICE void for_each(const Rows& rows, int k0, const Visit& visit) {
#pragma unroll
    for (int n = 0; n < kValues / 4; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int kv_col = k0 + 8 * n + c;
        rows.for_column(kv_col,
                        [&](int i, const auto& request, const auto& row, const auto& column) {
                          visit(fragment_index(n, i, c), i, kv_col, request, row, column);
                        });
      }
    }
  }

  // -inf where masked; of a scaled score the dot, with the scale's sign.
  template <bool kMasked, bool kSmall, class Row, class Column>
  ATTNLANG_DEVICE float score(const Request& request, const Row& row, const Column& column,
                              int kv_col, int end, float dot) const {
    float score = dot;
    if constexpr (kSmall) score = Variant::score_small(request, row, column, dot);
    else if constexpr (!kScaled) score = Variant::score(request, row, column, dot);
    else if constexpr (kMasked) score = dot * sign_;
    return is_kept<Variant, kMasked>(request, row, column, kv_col, end, dot) ? score : -kInfinity;
  }

  ATTNLANG_DEVICE float scaled(float top) const { return kScaled ? top * scale_ : top; }
  // The weight of a score (or dot) beside the reference.
  ATTNLANG_DEVICE float relative(float score, float base) const {
    return exp2_approx(kScaled ? fmaf(score, scale_, -base) : score - base);
  }

  float top_[2] = {-kInfinity, -kInfinity};  // of raw dots where the score is scaled
  float sum_[2] = {}, weighted_[2] = {};
  float scale_ = 1.0f, sign_ = 1.0f;
};

// Weights as the left operand of the second product.
template <class Element, int kKeyTile>
ATTNLANG_DEVICE void pack_weights(const float (&s)[kKeyTile / 2], uint32_t (&p)[kKeyTile / 16][4]) {
#pragma unroll
  for (int k = 0; k < kKeyTile / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) p[k][i] = pack<Element>(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
  }
}

}  // namespace attnlang::cuda::sm90
