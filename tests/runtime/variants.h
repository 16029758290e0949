// Hand-written functors as the emitter would print them (docs/cpu-variant.md), for kernel tests.
#pragma once

#include <limits>

#include "kernels/cpu_attention.h"

namespace attnlang::cpu {

// What most functors share: positions, the call's scale, and column tiles of positions.
struct Positions {
  static constexpr bool kSoftmax = true;
  static constexpr bool kMask = false;
  static constexpr bool kColumnMask = false;
  static constexpr bool kSink = false;
  static constexpr bool kQuery = false, kKey = false, kValue = false, kOut = false;
  static constexpr bool kValueFromKey = false, kValueSharesKey = false;
  static constexpr int kQueryStart = 0, kKeyStart = 0, kValueStart = 0;
  static constexpr bool kShift = false;
  static constexpr bool kFactor = false;
  static constexpr bool kRowSum = false;
  static constexpr bool kReadsColumns = true;
  static constexpr bool kMaskReadsScore = false;

  struct Params {
    float scale;
    Call call;
  };
  static Params params(const Call& call) { return {float(call.scale), call}; }

  struct Request {
    const Params& p;
    int64_t b, h, h_kv, q_len, kv_len, q_offset, kv_offset;
  };
  static Request request(const Params& p, int64_t b, int64_t h, int64_t h_kv, int64_t q_len,
                         int64_t kv_len, int64_t q_offset, int64_t kv_offset, int64_t) {
    return {p, b, h, h_kv, q_len, kv_len, q_offset, kv_offset};
  }

  struct Row {
    I q_row, q_idx;
  };
  static Row row(const Request& r, I q_row) { return {q_row, q_row + int32_t(r.q_offset)}; }

  struct Column {
    I kv_col, kv_idx;
  };
  static Column column(const Request& r, I kv_col) {
    return {kv_col, kv_col + int32_t(r.kv_offset)};
  }
  struct ColumnTile {
    alignas(64) int32_t kv_col[kMaxKeyTile];
    alignas(64) int32_t kv_idx[kMaxKeyTile];
  };
  static void store(ColumnTile& tile, int j, const Column& column) {
    cpu::store(tile.kv_col + j, column.kv_col);
    cpu::store(tile.kv_idx + j, column.kv_idx);
  }
  static Column broadcast(const ColumnTile& tile, int j) {
    return {splat_i(tile.kv_col[j]), splat_i(tile.kv_idx[j])};
  }

  static F score(const Request& r, const Row&, const Column&, F dot) {
    return dot * (r.p.scale * kLog2E);
  }

  // Nothing in closed form: verdicts find the tiles.
  static Coverage ranges(const Request&, int64_t, int64_t) { return Coverage::unknown(); }

  static Interval q_idx(const Request& r, int64_t q0, int64_t q1) {
    return Interval{q0, q1 - 1} + Interval::point(r.q_offset);
  }
  static Interval kv_idx(const Request& r, int64_t k0, int64_t k1) {
    return Interval{k0, k1 - 1} + Interval::point(r.kv_offset);
  }
};

struct Plain : Positions {};

// 0 <= q_idx - kv_idx < window, window an int parameter; a sink tensor[HQ]: tensors[0].
struct CausalWindowSink : Positions {
  static constexpr bool kMask = true;
  static constexpr bool kSink = true;
  static M keep(const Request& r, const Row& row, const Column& column, F) {
    const I distance = row.q_idx - column.kv_idx;
    return (distance >= 0) & (distance < saturate(r.p.call.scalars[0].integer));
  }
  static Verdict tile(const Request& r, int64_t q0, int64_t q1, int64_t k0, int64_t k1) {
    const Interval distance = q_idx(r, q0, q1) - kv_idx(r, k0, k1);
    return (distance >= Interval::point(0)) &
           (distance < Interval::point(r.p.call.scalars[0].integer));
  }
  static F sink(const Request& r, const Row&) {
    return splat_f(load(view<float, 1>(r.p.call.tensors[0]), r.h) * kLog2E);
  }
};

// Soft cap (a float parameter) with ALiBi slopes[HQ] on top, causal.
struct CapAlibi : Positions {
  static constexpr bool kMask = true;
  static F score(const Request& r, const Row& row, const Column& column, F dot) {
    const float cap = float(r.p.call.scalars[0].real);
    const float slope = load(view<float, 1>(r.p.call.tensors[0]), r.h);
    const F capped = cap * tanh(dot * (r.p.scale / cap));
    return (capped + slope * to_float(column.kv_idx - row.q_idx)) * kLog2E;
  }
  static M keep(const Request&, const Row& row, const Column& column, F) {
    return column.kv_idx <= row.q_idx;
  }
  static Verdict tile(const Request& r, int64_t q0, int64_t q1, int64_t k0, int64_t k1) {
    return kv_idx(r, k0, k1) <= q_idx(r, q0, q1);
  }
};

// keep[b, kv_col] of bool, hidden keys and values may hold NaN; and rows see no later key than
// limit[b, q_row] (int32), -1 for an empty row.
struct Padding : Positions {
  static constexpr bool kMask = true;
  static constexpr bool kColumnMask = true;
  static M column_keep(const Request& r, const Column& column) {
    return load(view<bool, 2>(r.p.call.tensors[0]), r.b, column.kv_col);
  }
  static M keep(const Request& r, const Row& row, const Column& column, F) {
    return column_keep(r, column) &
           (column.kv_col <= load(view<int32_t, 2>(r.p.call.tensors[1]), r.b, row.q_row));
  }
  static Verdict tile(const Request& r, int64_t q0, int64_t q1, int64_t k0, int64_t k1) {
    const Interval q_row{q0, q1 - 1}, kv_col{k0, k1 - 1}, b = Interval::point(r.b);
    return load(view<bool, 2>(r.p.call.tensors[0]), b, kv_col) &
           (kv_col <= load(view<int32_t, 2>(r.p.call.tensors[1]), b, q_row));
  }
};

// sigmoid(scale * dot + bias) without normalisation, causal.
struct SigmoidCausal : CapAlibi {
  static constexpr bool kSoftmax = false;
  static F score(const Request& r, const Row&, const Column&, F dot) { return dot * r.p.scale; }
  static F weight(const Request& r, const Row&, const Column&, F dot) {
    return sigmoid(dot * r.p.scale + float(r.p.call.scalars[0].real));
  }
};

}  // namespace attnlang::cpu
