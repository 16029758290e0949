// What the spec's vector expressions call on a GPU: a row of floats in memory is the work of one
// warp, whose lanes share out its entries, or (in products for one row or column) of one thread.
#pragma once

#include <math.h>

#include <cstdint>

#include "attnlang/device/arguments.cuh"
#include "attnlang/device/scalar.cuh"

namespace attnlang::cuda {

constexpr int row_room(int n) { return n; }

// Entries of a loop over `d` are those of the row.
template <int kWidth>
ATTNLANG_DEVICE float within(int, float x) {
  return x;
}

// The turns (of 2 pi) of each pair of a rope for one unit of position: base ** (-2t / dims), or
// freqs[t].
template <int kPairs>
struct Turns {
  double log2_base;
  const void* freqs;
  DType dtype;
  int64_t size, stride;

  ATTNLANG_DEVICE double of(int t) const {
    constexpr double kTurnsPerRadian = 0.159154943091895335769;
    if (freqs != nullptr) {
      return read_as<double>(freqs, dtype, clamp_index(t, size) * stride) * kTurnsPerRadian;
    }
    return ::exp2(log2_base * -static_cast<double>(t) / kPairs) * kTurnsPerRadian;
  }
};

template <int kPairs>
ATTNLANG_DEVICE Turns<kPairs> rope_turns(double base) {
  return {.log2_base = ::log2(base), .freqs = nullptr, .dtype = DType::f64, .size = 0, .stride = 0};
}
template <int kPairs, class T>
ATTNLANG_DEVICE Turns<kPairs> rope_turns(const View<T, 1>& freqs) {
  return {.log2_base = 0,
          .freqs = freqs.data,
          .dtype = dtype_of<T>(),
          .size = freqs.size[0],
          .stride = freqs.stride[0]};
}

// Functions of whole rows, by `Who`: its entries are first(), first() + kStep ...
template <class Who>
struct RowFunctions {
  template <int kWidth>
  ATTNLANG_DEVICE static float sum_of_squares(const float* x) {
    float total = 0;
    for (int d = Who::first(); d < kWidth; d += Who::kStep) total += x[d] * x[d];
    return Who::sum(total);
  }

  // What rms_norm multiplies each entry by: 1 / sqrt(mean(x ** 2) + eps).
  template <int kWidth>
  ATTNLANG_DEVICE static float rms_factor(const float* x, float eps) {
    return 1.0f / sqrtf(sum_of_squares<kWidth>(x) / kWidth + eps);
  }

  // What l2_norm multiplies each entry by: 1 / max(sqrt(sum(x ** 2)), eps).
  template <int kWidth>
  ATTNLANG_DEVICE static float l2_factor(const float* x, float eps) {
    return 1.0f / fmaxf(sqrtf(sum_of_squares<kWidth>(x)), eps);
  }

  // Turns the kDims entries of x from kStart on, pair t by position * turns.of(t), into `out`; the
  // rest is copied. Angles are reduced in double: a position of 1e6 loses nothing.
  template <int kWidth, int kStart, int kDims, bool kInterleaved>
  ATTNLANG_DEVICE static void rope(float* out, const float* x, double position,
                                   const Turns<kDims / 2>& turns) {
    constexpr int kPairs = kDims / 2;
    constexpr int kStride = kInterleaved ? 2 : 1, kApart = kInterleaved ? 1 : kPairs;
    for (int d = Who::first(); d < kWidth; d += Who::kStep) {
      if (d < kStart || d >= kStart + kDims) out[d] = x[d];
    }
    for (int t = Who::first(); t < kPairs; t += Who::kStep) {
      const double turn = position * turns.of(t);
      const float angle = static_cast<float>(turn - rint(turn)) * 6.283185307179586f;
      const float sine = sinf(angle), cosine = cosf(angle);
      const int i = kStart + t * kStride, j = i + kApart;
      const float a = x[i], b = x[j];
      out[i] = a * cosine - b * sine;
      out[j] = a * sine + b * cosine;
    }
    Who::sync();
  }
};

struct Thread : RowFunctions<Thread> {
  static constexpr int kStep = 1;
  ATTNLANG_DEVICE static int first() { return 0; }
  ATTNLANG_DEVICE static float sum(float x) { return x; }
  ATTNLANG_DEVICE static void sync() {}
};

struct Warp : RowFunctions<Warp> {
  static constexpr int kStep = 32;
  ATTNLANG_DEVICE static int first() { return static_cast<int>(threadIdx.x) % kStep; }
  ATTNLANG_DEVICE static float sum(float x) {
#pragma unroll
    for (int apart = kStep / 2; apart > 0; apart /= 2) x += __shfl_xor_sync(~0u, x, apart);
    return x;
  }
  ATTNLANG_DEVICE static void sync() { __syncwarp(); }
};

// The kWidth entries of row (b, h, i) of q, k or v as floats, i clamped.
template <int kWidth, class Element>
ATTNLANG_DEVICE void load_vector(float* out, const View<Element, 4>& tensor, int64_t b, int64_t h,
                                 int64_t i) {
  const Element* row = tensor.data + b * tensor.stride[0] + h * tensor.stride[1] +
                       clamp_index(i, tensor.size[2]) * tensor.stride[2];
#pragma unroll 1
  for (int d = 0; d < kWidth; ++d) {
    out[d] = tensor.empty() ? 0.0f : to_float32(row[d * tensor.stride[3]]);
  }
}

// f of a row or a column.
template <class Function>
ATTNLANG_DEVICE float lanes_of(int32_t row, const Function& f) {
  return f(int64_t{row});
}

}  // namespace attnlang::cuda
