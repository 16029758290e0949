// Hand-written functors of the shape that attnlang/emit generates for CUDA (docs/cuda-kernels.md),
// one feature each: what a kernel is tested with before any compiler is.
#pragma once

#include <cstdint>

#include "attnlang/device/ptx.cuh"
#include "attnlang/device/scalar.cuh"
#include "attnlang/host/call.h"
#include "attnlang/host/coverage.h"
#include "attnlang/host/interval.h"
#include "attnlang/host/target.h"
#include "attnlang/host/tensor_view.h"
#include "attnlang/host/verdict.h"

namespace attnlang::cuda {

// The columns of one half-line.
ATTNLANG_DEVICE Coverage columns(const HalfLine& line) { return covered(line, line); }

// Plain attention; others derive from it and hide what differs. `number` and `real`: the call's
// first two scalars, an int and a float.
struct Plain {
  static constexpr bool kSoftmax = true, kMask = false, kColumnMask = false, kSink = false;
  static constexpr bool kShift = false, kFactor = false, kRowSum = false;
  static constexpr bool kQuery = false, kKey = false, kValue = false, kOut = false;
  static constexpr bool kValueFromKey = false, kValueSharesKey = false;
  static constexpr int kQueryStart = 0, kKeyStart = 0, kValueStart = 0;
  static constexpr float kLog2 = 1.44269504088896340736f;

  struct Arguments {
    float scale, real;
    int64_t number;
  };
  static Arguments arguments(const Call& call) {
    return {.scale = static_cast<float>(call.scale),
            .real = call.scalars == nullptr ? 0.0f : static_cast<float>(call.scalars[1].real),
            .number = call.scalars == nullptr ? 0 : call.scalars[0].integer};
  }
  struct Params {
    float scale, real;
    int64_t number;
  };
  ATTNLANG_DEVICE static Params params(const Arguments& a) { return {a.scale, a.real, a.number}; }

  struct Request {
    const Params& p;
    int64_t b, h, size_Q, size_KV, q_offset, kv_offset, anchor;
  };
  ATTNLANG_DEVICE static Request request(const Params& p, int64_t b, int64_t h, int64_t,
                                         int64_t q_len, int64_t kv_len, int64_t q_offset,
                                         int64_t kv_offset, int64_t anchor) {
    return {p, b, h, q_len, kv_len, q_offset, kv_offset, anchor};
  }
  struct Row {
    int32_t q_row, q_idx;
  };
  ATTNLANG_DEVICE static Row row(const Request& r, int32_t q_row) {
    return {q_row, q_row + static_cast<int32_t>(r.q_offset)};
  }
  struct Column {
    int32_t kv_col, kv_idx;
  };
  ATTNLANG_DEVICE static Column column(const Request& r, int32_t kv_col) {
    return {kv_col, kv_col + static_cast<int32_t>(r.kv_offset)};
  }
  ATTNLANG_DEVICE static float score(const Request& r, const Row&, const Column&, float dot) {
    return dot * (r.p.scale * kLog2);
  }
  ATTNLANG_DEVICE static Interval q_positions(const Request& r, int64_t q0, int64_t q1) {
    return Interval{q0, q1 - 1} + Interval::point(r.q_offset);
  }
  ATTNLANG_DEVICE static Interval kv_positions(const Request& r, int64_t k0, int64_t k1) {
    return Interval{k0, k1 - 1} + Interval::point(r.kv_offset);
  }
};

// The same, with the trait of a score that is a multiple of the dot product.
template <class Base>
struct Scaled : Base {
  static constexpr bool kScaled = true;
  ATTNLANG_DEVICE static float scale(const typename Base::Request& r) {
    return r.p.scale * Base::kLog2;
  }
};

struct Causal : Plain {
  static constexpr bool kMask = true;
  ATTNLANG_DEVICE static bool keep(const Request&, const Row& row, const Column& column, float) {
    return column.kv_idx <= row.q_idx;
  }
  ATTNLANG_DEVICE static Verdict tile(const Request& r, int64_t q0, int64_t q1, int64_t k0,
                                      int64_t k1) {
    return kv_positions(r, k0, k1) <= q_positions(r, q0, q1);
  }
  ATTNLANG_DEVICE static Coverage ranges(const Request& r, int64_t q0, int64_t q1) {
    return columns(at_most(q_positions(r, q0, q1) - r.kv_offset));
  }
};

// 0 <= i - j < number.
struct Window : Plain {
  static constexpr bool kMask = true;
  ATTNLANG_DEVICE static bool keep(const Request& r, const Row& row, const Column& column, float) {
    const int64_t distance = int64_t{row.q_idx} - column.kv_idx;
    return 0 <= distance && distance < r.p.number;
  }
  ATTNLANG_DEVICE static Verdict tile(const Request& r, int64_t q0, int64_t q1, int64_t k0,
                                      int64_t k1) {
    const Interval distance = q_positions(r, q0, q1) - kv_positions(r, k0, k1);
    return (Interval::point(0) <= distance) & (distance < Interval::point(r.p.number));
  }
  ATTNLANG_DEVICE static Coverage ranges(const Request& r, int64_t q0, int64_t q1) {
    const Interval q = q_positions(r, q0, q1) - Interval::point(r.kv_offset);
    const HalfLine last = at_most(q), first = at_least(q - (r.p.number - 1));
    return covered([&](int64_t column) { return last(column) & first(column); }, last, first);
  }
};

// Nothing is known of any tile: (i + j) % 3 != 0.
struct Scattered : Plain {
  static constexpr bool kMask = true;
  ATTNLANG_DEVICE static bool keep(const Request&, const Row& row, const Column& column, float) {
    return (row.q_idx + column.kv_idx + 3000) % 3 != 0;
  }
  ATTNLANG_DEVICE static Verdict tile(const Request&, int64_t, int64_t, int64_t, int64_t) {
    return Verdict::unknown;
  }
  ATTNLANG_DEVICE static Coverage ranges(const Request&, int64_t, int64_t) {
    return Coverage::unknown();
  }
};

// j < number, whatever the rows: keys beyond may hold NaN.
struct Padded : Plain {
  static constexpr bool kMask = true, kColumnMask = true;
  ATTNLANG_DEVICE static bool column_keep(const Request& r, const Column& column) {
    return column.kv_col < r.p.number;
  }
  ATTNLANG_DEVICE static bool keep(const Request& r, const Row&, const Column& column, float) {
    return column_keep(r, column);
  }
  ATTNLANG_DEVICE static Verdict tile(const Request& r, int64_t, int64_t, int64_t k0, int64_t k1) {
    return Interval{k0, k1 - 1} < Interval::point(r.p.number);
  }
  ATTNLANG_DEVICE static Coverage ranges(const Request& r, int64_t, int64_t) {
    return columns(at_most(Interval::point(r.p.number - 1)));
  }
};

// Soft cap under a causal mask: real * tanh(s / real).
struct SoftCap : Causal {
  static constexpr bool kCapped = true, kSoftCap = true;
  ATTNLANG_DEVICE static float cap_height(const Request& r) { return r.p.real * kLog2; }
  ATTNLANG_DEVICE static float cap_slope(const Request& r) { return r.p.scale / r.p.real; }
  ATTNLANG_DEVICE static float score(const Request& r, const Row&, const Column&, float dot) {
    return r.p.real * kLog2 * tanh(dot * (r.p.scale / r.p.real));
  }
  ATTNLANG_DEVICE static float score_small(const Request& r, const Row&, const Column&, float dot) {
    return r.p.real * kLog2 * tanh_small(dot * (r.p.scale / r.p.real));
  }
  ATTNLANG_DEVICE static float small_dot(const Request& r) {
    return kSmallTanh / fabsf(r.p.scale / r.p.real);
  }
};

// s + slope(h) * (j - i), positions relative to the anchor's; the row's part is the shift.
struct Slopes : Causal {
  static constexpr bool kShift = true;
  ATTNLANG_DEVICE static float slope(const Request& r) {
    return r.p.real / static_cast<float>(r.h + 1) * kLog2;
  }
  ATTNLANG_DEVICE static float score(const Request& r, const Row&, const Column& column,
                                     float dot) {
    const auto distance =
        static_cast<float>(column.kv_idx - static_cast<int32_t>(r.anchor + r.q_offset));
    return dot * (r.p.scale * kLog2) + slope(r) * distance;
  }
  ATTNLANG_DEVICE static float shift(const Request& r, const Row& row) {
    return slope(r) * static_cast<float>(r.anchor + r.q_offset - row.q_idx);
  }
};

// A window with exp(real * (h + 1)) in the denominator.
struct Sink : Window {
  static constexpr bool kSink = true;
  ATTNLANG_DEVICE static float sink(const Request& r, const Row&) {
    return r.p.real * static_cast<float>(r.h + 1) * kLog2;
  }
};

// Weights times 1 + (i + j) % 2, and out = acc / (1 + row_sum).
struct Factor : Causal {
  static constexpr bool kFactor = true, kRowSum = true, kOut = true;
  ATTNLANG_DEVICE static float factor(const Request&, const Row& row, const Column& column, float) {
    return static_cast<float>(1 + (row.q_idx + column.kv_idx + 3000) % 2);
  }
  ATTNLANG_DEVICE static void out(const Request&, int64_t, const float* acc, float row_sum, float,
                                  float* result) {
    for (int e = static_cast<int>(threadIdx.x) % 32; e < kWidth; e += 32) {
      result[e] = acc[e] / (1.0f + row_sum);
    }
  }
  static constexpr int kWidth = 32;
};

// Without softmax: w = max(s, 0), causal.
struct Relu : Causal {
  static constexpr bool kSoftmax = false;
  ATTNLANG_DEVICE static float score(const Request& r, const Row&, const Column&, float dot) {
    return dot * r.p.scale;
  }
  ATTNLANG_DEVICE static float weight(const Request& r, const Row& row, const Column& column,
                                      float dot) {
    return fmaxf(score(r, row, column, dot), 0.0f);
  }
};

// q' = 2 q, k' = k * (column % 3), v' = v + 1, causal.
struct Transformed : Causal {
  static constexpr bool kQuery = true, kKey = true, kValue = true;
  static constexpr int kWidth = 32;
  ATTNLANG_DEVICE static void query(const Request&, int64_t, const float* x, float* y) {
    for (int d = static_cast<int>(threadIdx.x) % 32; d < kWidth; d += 32) y[d] = 2.0f * x[d];
  }
  ATTNLANG_DEVICE static void key(const Request&, int64_t column, const float* x, float* y) {
    const auto times = static_cast<float>(column % 3);
    for (int d = static_cast<int>(threadIdx.x) % 32; d < kWidth; d += 32) y[d] = times * x[d];
  }
  ATTNLANG_DEVICE static void value(const Request&, int64_t, const float* x, float* y) {
    for (int d = static_cast<int>(threadIdx.x) % 32; d < kWidth; d += 32) y[d] = x[d] + 1.0f;
  }
};

// v is the first half of k: read from the key's own tile.
struct ValueOfKey : Causal {
  static constexpr bool kValueFromKey = true;
};

}  // namespace attnlang::cuda
