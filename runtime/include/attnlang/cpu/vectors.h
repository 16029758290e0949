// What the spec's vector expressions call: reductions, rotations, rows of tensors as floats.
//
// A vector of n floats stands in an array of `row_room(n)`: whole lanes, and one vector more for
// slices, which are read from their start on. What lies past its end means nothing.
#pragma once

#include <algorithm>
#include <cmath>

#include "attnlang/cpu/element.h"
#include "attnlang/cpu/math.h"

namespace attnlang::cpu {

constexpr int row_room(int n) { return (n + kLanes - 1) / kLanes * kLanes + kLanes; }

// x with zeros in the lanes past kWidth, lane 0 being entry d.
template <int kWidth>
[[gnu::always_inline]] inline F within(int d, F x) {
  if constexpr (kWidth % kLanes == 0) return x;
  else return select(iota_i() + d < kWidth, x, F{});
}

namespace detail {

template <int kWidth>
inline float sum_of_squares(const float* x) {
  F total{};
  for (int d = 0; d < kWidth; d += kLanes) {
    const F y = within<kWidth>(d, load_f(x + d));
    total += y * y;
  }
  return sum(total);
}

}  // namespace detail

// What rms_norm multiplies each entry by: 1 / sqrt(mean(x ** 2) + eps).
template <int kWidth>
inline float rms_factor(const float* x, float eps) {
  return 1.0f / std::sqrt(detail::sum_of_squares<kWidth>(x) / kWidth + eps);
}

// What l2_norm multiplies each entry by: 1 / max(sqrt(sum(x ** 2)), eps).
template <int kWidth>
inline float l2_factor(const float* x, float eps) {
  return 1.0f / std::max(std::sqrt(detail::sum_of_squares<kWidth>(x)), eps);
}

// One value a pair of rope, in turns (of 2 pi) for each unit of position.
template <int kPairs>
struct Turns {
  double of[(kPairs + kLanes - 1) / kLanes * kLanes];
};

constexpr double kTurnsPerRadian = 0.159154943091895335769;

// base ** (-2t / dims) for pair t.
template <int kPairs>
inline Turns<kPairs> rope_turns(double base) {
  Turns<kPairs> turns{};
  for (int t = 0; t < kPairs; ++t) {
    turns.of[t] = std::pow(base, -static_cast<double>(t) / kPairs) * kTurnsPerRadian;
  }
  return turns;
}

// freqs[t] for pair t.
template <int kPairs, class T>
inline Turns<kPairs> rope_turns(const View<T, 1>& freqs) {
  Turns<kPairs> turns{};
  for (int t = 0; t < kPairs && !freqs.empty(); ++t) {
    const T* at = freqs.data + clamp_index(t, freqs.size[0]) * freqs.stride[0];
    if constexpr (std::is_same_v<T, double>) turns.of[t] = *at * kTurnsPerRadian;
    else turns.of[t] = static_cast<double>(read_element(at)) * kTurnsPerRadian;
  }
  return turns;
}

namespace detail {

// Sine and cosine of `quarters` * pi / 2, |quarters| <= 2: the nearest whole quarter turn, and
// polynomials on [-pi / 4, pi / 4] (Cephes, 1e-7).
[[gnu::always_inline]] inline void sine_cosine(F quarters, F* sine, F* cosine) {
  const F whole = round(quarters);
  const F x = (quarters - whole) * 1.57079632679f;
  const F y = x * x;
  F s = splat_f(-1.9515295891e-4f);
  s = s * y + 8.3321608736e-3f;
  s = s * y - 1.6666654611e-1f;
  s = x + x * y * s;
  F c = splat_f(2.443315711809948e-5f);
  c = c * y - 1.388731625493765e-3f;
  c = c * y + 4.166664568298827e-2f;
  c = 1.0f - 0.5f * y + y * y * c;
  const I turn = whole_to_int(whole) & 3;
  const M odd = (turn & 1) != 0;
  const F a = odd ? c : s, b = odd ? s : c;
  *sine = (F)((I)a ^ (turn << 30 & INT32_MIN));
  *cosine = (F)((I)b ^ ((turn + 1) << 30 & INT32_MIN));
}

}  // namespace detail

// Turns the kDims entries of x from kStart on, pair t by position * turns[t], into `out`; the rest
// is copied. Angles are reduced in double: a position of 1e6 loses nothing.
template <int kWidth, int kStart, int kDims, bool kInterleaved>
inline void rope(float* out, const float* x, double position, const Turns<kDims / 2>& turns) {
  constexpr int kPairs = kDims / 2;
  alignas(64) float sine[row_room(kPairs)], cosine[row_room(kPairs)];
  for (int t = 0; t < kPairs; t += kLanes) {
    alignas(64) float quarters[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const double turn = position * turns.of[t + i];
      quarters[i] = static_cast<float>(4.0 * (turn - __builtin_rint(turn)));
    }
    F s, c;
    detail::sine_cosine(load_f(quarters), &s, &c);
    store(sine + t, s);
    store(cosine + t, c);
  }
  std::copy_n(x, kStart, out);
  std::copy_n(x + kStart + kDims, kWidth - kStart - kDims, out + kStart + kDims);
  constexpr int kStep = kInterleaved ? 2 : 1, kApart = kInterleaved ? 1 : kPairs;
  for (int t = 0; t < kPairs; ++t) {
    const int i = kStart + t * kStep, j = i + kApart;
    const float a = x[i], b = x[j];
    out[i] = a * cosine[t] - b * sine[t];
    out[j] = a * sine[t] + b * cosine[t];
  }
}

// The kWidth entries of a row of q, k or v as floats, zeros after them.
template <int kWidth, class Element>
inline void load_vector(float* out, const Element* row, int64_t inner) {
  row_to_float(out, row, inner, kWidth);
  std::fill(out + kWidth, out + row_room(kWidth), 0.0f);
}

// The same of row (b, h, i), clamped: lanes past the last row read some row.
template <int kWidth, class Element>
inline void load_vector(float* out, const View<Element, 4>& tensor, int64_t b, int64_t h,
                        int64_t i) {
  if (tensor.empty()) {
    std::fill_n(out, row_room(kWidth), 0.0f);
    return;
  }
  const Element* row = tensor.data + b * tensor.stride[0] + h * tensor.stride[1] +
                       clamp_index(i, tensor.size[2]) * tensor.stride[2];
  load_vector<kWidth>(out, row, tensor.stride[3]);
}

// f of each lane.
template <class Function>
[[gnu::always_inline]] inline F lanes_of(I rows, const Function& f) {
  F r{};
  for (int i = 0; i < kLanes; ++i) r[i] = f(int64_t{rows[i]});
  return r;
}

}  // namespace attnlang::cpu
