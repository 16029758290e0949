// Scores to weights in the registers of a warpgroup's accumulator: device/softmax.cuh says which
// thread holds which element.
//
// Where the score is a multiple of the dot product, maxima are those of raw products and a weight
// is exp2 of one fused multiply-add. Where weights have factors, which may read the dot product,
// the score is made twice rather than kept beside it: registers are what a tile is limited by.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attnlang/device/ptx.cuh"
#include "attnlang/device/scalar.cuh"
#include "attnlang/device/softmax.cuh"
#include "attnlang/device/wgmma.cuh"
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

// The score is a multiple of the tanh of a multiple of the dot: `cap_height`, `cap_slope`.
template <class V>
constexpr bool kSoftCap = [] {
  if constexpr (requires { V::kSoftCap; }) return V::kSoftCap && !V::kFactor;
  else return false;
}();

// 0, known once `weight` is: an exponential is not negative. What is made from it comes after that
// exponential, wherever else the assembler would have put it.
ATTNLANG_DEVICE int zero_after(float weight) {
  return static_cast<int>(static_cast<uint32_t>(__float_as_int(fmaxf(weight, 0.0f))) >> 31);
}

// kSumColumns: of the accumulator.
template <class Variant, int kKeyTile, int kSumColumns>
class Softmax {
 public:
  using Request = typename Variant::Request;
  using Rows = ThreadRows<Variant, false>;
  static constexpr bool kScaled = kScaledScore<Variant>;
  // Scores rise with dots: maxima are those of dots, a score is made with its weight.
  static constexpr bool kDots = kScaled || kSoftCap<Variant>;
  static constexpr int kValues = kKeyTile / 2;
  // The wider the sums, the longer their product runs: so many of the first row's blocks of 8
  // columns become weights before it is waited for.
  static constexpr int kFirst = std::min(kSumColumns / 32, kValues / 4);

  ATTNLANG_DEVICE void start(const Request& request) {
    if constexpr (kScaled) {
      const float scale = Variant::scale(request);
      sign_ = scale < 0.0f ? -1.0f : 1.0f;
      // A masked element is -inf times the scale: that may be tiny but not 0.
      scale_ = fmaxf(fabsf(scale), 0x1p-126f);
    }
    if constexpr (kCappedScore<Variant>) small_ = Variant::small_dot(request);
    if constexpr (kSoftCap<Variant>) {
      const float height = Variant::cap_height(request), slope = Variant::cap_slope(request);
      sign_ = height * slope < 0.0f ? -1.0f : 1.0f;
      height_ = fabsf(height);
      slope_ = fabsf(slope);
      cap_ = SmallTanh::of(height_, slope_);
    }
  }

  // The states of the thread's two rows: sums are the thread's, maxima the rows'.
  ATTNLANG_DEVICE RowState state(int i) const {
    return {.max = scaled(top_[i]), .sum = sum_[i], .weighted = weighted_[i]};
  }

  // Whether full tiles must be weighed as masked ones are: these alone look at the sign of a scale
  // and of a cap.
  ATTNLANG_DEVICE bool needs_sign() const { return kDots && sign_ < 0.0f; }

  // A tile's dots to weights, `k0` the thread's first column; `rescale`: what earlier sums are
  // multiplied by. `beside(weight)` is called with an exponential, when the first row's rescale is
  // known and enough is under way: it is time to see to the sums.
  template <bool kMasked, class Beside>
  ATTNLANG_DEVICE void weigh(const Rows& rows, int k0, int end, float (&s)[kValues],
                             float (&rescale)[2], const Beside& beside) {
    // Where all dots of a warp's 16 rows are small, also hidden ones, none needs the score of large
    // ones. Else each dot chooses its own: what a row's scores are depends on no other row.
    if constexpr (kCappedScore<Variant> && (!kMasked || kSoftCap<Variant>)) {
      float most[2] = {};
#pragma unroll
      for (int i = 0; i < kValues; ++i) most[i % 2] = fmaxf(most[i % 2], fabsf(s[i]));
      if (__all_sync(~0u, fmaxf(most[0], most[1]) <= small_)) {
        weigh_as<kMasked, true>(rows, k0, end, s, rescale, beside);
        return;
      }
    }
    weigh_as<kMasked, false>(rows, k0, end, s, rescale, beside);
  }

 private:
  // kSmall: all dots are small enough for a cheaper score.
  template <bool kMasked, bool kSmall, class Beside>
  ATTNLANG_DEVICE void weigh_as(const Rows& rows, int k0, int end, float (&s)[kValues],
                                float (&rescale)[2], const Beside& beside) {
    if constexpr (Variant::kFactor) {
      weigh_with_factors<kMasked, kSmall>(rows, k0, end, s, rescale);
      beside(0.0f);
    } else {
      if constexpr (!kDots || kMasked) {
        for_each(
            rows, k0,
            [&](int at, int, int kv_col, const auto& request, const auto& row, const auto& column) {
              s[at] =
                  this->template score<kMasked, kSmall>(request, row, column, kv_col, end, s[at]);
            });
      }
      // A row after the other: the second one's maximum is found beside the first one's
      // exponentials.
      constexpr int kBlocks = kValues / 4;
      const float base = raise(0, row_top<kSmall>(0, -kInfinity, s), rescale[0]);
      exponentiate<kMasked, kSmall>(0, 0, kFirst, base, s);
      beside(sum_[0]);
      exponentiate<kMasked, kSmall>(0, kFirst, kBlocks, base, s);
      const int least = __float_as_int(-kInfinity) - zero_after(s[0]);
      const float other = raise(1, row_top<kSmall>(1, __int_as_float(least), s), rescale[1]);
      exponentiate<kMasked, kSmall>(1, 0, kBlocks, other, s);
    }
  }

  // The largest of a row's scores (dots, where the score is scaled), of the thread's columns.
  // `least`: -inf.
  template <bool kSmall>
  ATTNLANG_DEVICE float row_top(int i, float least, const float (&s)[kValues]) const {
    float top[2] = {least, least};  // of halves: two short chains
#pragma unroll
    for (int n = 0; n < kValues / 4; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) top[c] = fmaxf(top[c], s[fragment_index(n, i, c)]);
    }
    const float most = fmaxf(top[0], top[1]);
    if constexpr (kSoftCap<Variant>) {
      return most == -kInfinity ? most : capped<kSmall>(most, 0.0f);
    }
    return most;
  }

  // A row's maximum rises to the quad's largest `top`. Returns what weights are relative to.
  ATTNLANG_DEVICE float raise(int i, float top, float& rescale) {
    top = quad_max(fmaxf(top_[i], top));  // NaN reaches its row through the weight
    const float base = finite_reference(scaled(top));
    rescale = relative(top_[i], base);
    top_[i] = top;
    sum_[i] *= rescale;
    weighted_[i] *= rescale;
    return base;
  }

  // Scores (or dots) of a row, of the blocks first ... last - 1 of 8 columns, to weights.
  template <bool kMasked, bool kSmall>
  ATTNLANG_DEVICE void exponentiate(int i, int first, int last, float base, float (&s)[kValues]) {
#pragma unroll
    for (int n = first; n < last; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& weight = s[fragment_index(n, i, c)];
        if constexpr (kSoftCap<Variant>) {
          const float dot = weight;
          weight = exp2_approx(capped<kSmall>(dot, base));
          if (kMasked && dot == -kInfinity) weight = 0.0f;
        } else {
          weight = relative(weight, base);
        }
        sum_[i] += weight;
      }
    }
  }

  template <bool kMasked, bool kSmall>
  ATTNLANG_DEVICE void weigh_with_factors(const Rows& rows, int k0, int end, float (&s)[kValues],
                                          float (&rescale)[2]) {
    float top[2] = {-kInfinity, -kInfinity};
    for_each(
        rows, k0,
        [&](int at, int i, int kv_col, const auto& request, const auto& row, const auto& column) {
          top[i] = fmaxf(top[i], this->template score<kMasked, kSmall>(request, row, column, kv_col,
                                                                       end, s[at]));
        });
    float base[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      base[i] = raise(i, top[i], rescale[i]);
    }
    for_each(
        rows, k0,
        [&](int at, int i, int kv_col, const auto& request, const auto& row, const auto& column) {
          const float dot = s[at];
          const float score =
              this->template score<kMasked, kSmall>(request, row, column, kv_col, end, dot);
          const float weight = relative(score, base[i]);
          sum_[i] += weight;
          // 0 beside a weight of 0, whatever the factor is there.
          const float factor = Variant::factor(request, row, column, dot);
          s[at] = score == -kInfinity ? 0.0f : weight * factor;
          if constexpr (kWeighted<Variant>) weighted_[i] += s[at];
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

  // -inf where masked; where `kDots` the dot, with the sign of the scale or cap.
  template <bool kMasked, bool kSmall, class Row, class Column>
  ATTNLANG_DEVICE float score(const Request& request, const Row& row, const Column& column,
                              int kv_col, int end, float dot) const {
    float score = dot;
    if constexpr (kDots) {
      if constexpr (kMasked) score = dot * sign_;
    } else if constexpr (kSmall) {
      score = Variant::score_small(request, row, column, dot);
    } else {
      score = Variant::score(request, row, column, dot);
      if constexpr (kCappedScore<Variant>) {
        if (fabsf(dot) <= small_) score = Variant::score_small(request, row, column, dot);
      }
    }
    return is_kept<Variant, kMasked>(request, row, column, kv_col, end, dot) ? score : -kInfinity;
  }

  // The soft cap's score of a dot, less `base`.
  template <bool kSmall>
  ATTNLANG_DEVICE float capped(float dot, float base) const {
    const float small = fmaf(dot, cap_.over(dot), -base);
    if constexpr (kSmall) return small;
    else return fabsf(dot) <= small_ ? small : fmaf(height_, tanh(slope_ * dot), -base);
  }

  ATTNLANG_DEVICE float scaled(float top) const { return kScaled ? top * scale_ : top; }
  // The weight of a score (or dot) beside the reference.
  ATTNLANG_DEVICE float relative(float score, float base) const {
    if constexpr (kScaled) return exp2_approx(fmaf(score, scale_, -base));
    // Two ways make a capped score: its last product is rounded in both, not fused in one of them.
    if constexpr (kCappedScore<Variant>) return exp2_approx(__fadd_rn(score, -base));
    return exp2_approx(score - base);
  }

  float top_[2] = {-kInfinity, -kInfinity};  // of raw dots where the score is scaled
  float sum_[2] = {}, weighted_[2] = {};
  float scale_ = 1.0f, sign_ = 1.0f;
  float small_ = 0.0f, height_ = 0.0f, slope_ = 0.0f;  // of a cap: see `Variant::small_dot`
  SmallTanh cap_;
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
