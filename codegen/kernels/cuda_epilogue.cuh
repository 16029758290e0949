// From sums to results: sink and shift, normalisation, lse, the largest score, the out expression;
// and the merge of partial states, in their order.
//
// The state of a row over some keys, in memory (shared or the workspace), is its accumulator of kDV
// floats followed by its maximum (base 2), its sum and its sum with factors. Every function with a
// `lane` is the work of one warp for one row.
#pragma once

#include "attnlang/device/ptx.cuh"
#include "attnlang/device/softmax.cuh"
#include "attnlang/host/target.h"
#include "attnlang/host/tensor_view.h"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_scores.cuh"

namespace attnlang::cuda {

template <int kDV>
constexpr int kStateFloats = kDV + 4;  // a multiple of 16 bytes

template <int kDV>
ATTNLANG_DEVICE void store_header(float* state, const RowState& row) {
  state[kDV] = row.max;
  state[kDV + 1] = row.sum;
  state[kDV + 2] = row.weighted;
}

// What a row's scores lack, base 2.
template <class Variant>
ATTNLANG_DEVICE float row_shift(const typename Variant::Request& request, int q_row) {
  if constexpr (Variant::kShift) return Variant::shift(request, Variant::row(request, q_row));
  else return 0.0f;
}

struct FinishedRow {
  float factor;   // what the accumulator is multiplied by; 0 for an empty row
  float row_sum;  // of the final weights
  float lse;      // base e; it knows no sink
};

// The scores lack the row's shift: where it is -inf the row is empty, where it is +inf or NaN (so
// `shift - shift` is NaN) its weights are NaN.
template <class Variant>
ATTNLANG_DEVICE FinishedRow finish_row(const typename Variant::Request& request, int q_row,
                                       const RowState& state) {
  const float weights = kWeighted<Variant> ? state.weighted : state.sum;
  if constexpr (!Variant::kSoftmax) {
    return {.factor = 1.0f, .row_sum = weights, .lse = -kInfinity};
  } else {
    const float shift = row_shift<Variant>(request, q_row);
    if (state.sum == 0.0f || shift == -kInfinity) {
      return {.factor = 0.0f, .row_sum = 0.0f, .lse = -kInfinity};
    }
    float factor = 1.0f, total = state.sum;
    if constexpr (Variant::kSink) {
      const float sink = Variant::sink(request, Variant::row(request, q_row)) - shift;
      const float base = finite_reference(fmaxf(state.max, sink));
      factor = exp2_approx(state.max - base);
      total = state.sum * factor + exp2_approx(sink - base);
    }
    factor = factor * reciprocal_approx(total) + (shift - shift);
    return {.factor = factor,
            .row_sum = weights * factor,
            .lse = kLn2 * (state.max + log2_approx(state.sum) + shift)};
  }
}

// The largest score of a row, base e; NaN for a row that has one: it is in the sums, the running
// maxima pass over it.
template <class Variant>
ATTNLANG_DEVICE float largest_score(const typename Variant::Request& request, int q_row,
                                    const RowState& state) {
  if constexpr (!Variant::kSoftmax) return state.max;
  if (state.sum != state.sum && state.max < kInfinity) return state.sum;
  if (state.max == -kInfinity) return state.max;
  return kLn2 * (state.max + row_shift<Variant>(request, q_row));
}

// Whatever the order, the result is the same; NaN stays.
ATTNLANG_DEVICE void raise_max(float* max, float score) {
  int* bits = reinterpret_cast<int*>(max);
  int seen = *reinterpret_cast<volatile int*>(bits);
  while (true) {
    const float old = __int_as_float(seen);
    if (old != old || score <= old) return;
    const int before = atomicCAS(bits, seen, __float_as_int(score));
    if (before == seen) return;
    seen = before;
  }
}

// The states of one row of disjoint keys, in key order: joined into `acc` (kDV floats, maybe one of
// the states' own) and the state returned to every lane. 32 headers are read at once, a lane each,
// and several accumulators are on their way together: the states may lie far away.
template <class Variant, int kDV, class StateOf>
ATTNLANG_DEVICE RowState merge_states(int count, const StateOf& state_of, float* acc, int lane) {
  constexpr int kEach = (kDV + kWarp - 1) / kWarp;
  constexpr int kBatch = kEach <= 4 ? 8 : kEach <= 8 ? 4 : 2;  // loads on their way
  float values[kBatch][kEach];
  const auto load = [&](int first) {  // those of kBatch states
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const float* state = state_of(first + j < count ? first + j : count - 1);
#pragma unroll
      for (int n = 0; n < kEach; ++n) {
        const int e = n * kWarp + lane;
        values[j][n] = first + j < count && e < kDV ? state[e] : 0.0f;
      }
    }
  };
  load(0);  // beside the headers
  RowState merged;
  for (int i = lane; i < count; i += kWarp) merged.max = max_or_nan(merged.max, state_of(i)[kDV]);
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    merged.max = max_or_nan(merged.max, __shfl_xor_sync(~0u, merged.max, step));
  }
  float sums[kEach] = {};
  for (int first = 0; first < count; first += kWarp) {
    const int here = count - first < kWarp ? count - first : kWarp;
    float scale = 0.0f, sum = 0.0f, weighted = 0.0f;
    if (lane < here) {
      const float* header = state_of(first + lane) + kDV;
      scale = Variant::kSoftmax ? rescale(header[0], merged.max) : 1.0f;
      sum = header[1] * scale;
      weighted = header[2] * scale;
    }
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      sum += __shfl_xor_sync(~0u, sum, step);
      weighted += __shfl_xor_sync(~0u, weighted, step);
    }
    merged.sum += sum;
    merged.weighted += weighted;
    for (int i = 0; i < here; i += kBatch) {
      if (first + i != 0) load(first + i);
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const float times = __shfl_sync(~0u, scale, (i + j) % kWarp);
#pragma unroll
        for (int n = 0; n < kEach; ++n) {
          if (i + j < here) sums[n] += values[j][n] * times;
        }
      }
    }
  }
  __syncwarp();
#pragma unroll
  for (int n = 0; n < kEach; ++n) {
    const int e = n * kWarp + lane;
    if (e < kDV) acc[e] = sums[n];
  }
  __syncwarp();
  return merged;
}

// Writes one row: `acc` are its sums, which are lost; `result`: room for a row of out and the
// program's scratch, where the spec has an out expression. `largest`: rises to the row's largest
// score.
template <class Variant, class Element, int kD, int kDV>
ATTNLANG_DEVICE void write_row(const Problem<Element>& problem,
                               const typename Variant::Request& request, int b, int h, int q_row,
                               const RowState& state, float* acc, float* result, int lane) {
  constexpr int kOut = Widths<Variant, kD, kDV>::kOut;
  const FinishedRow finished = finish_row<Variant>(request, q_row, state);
  const float* values = acc;
  if constexpr (Variant::kSoftmax) {
    for (int e = lane; e < kDV; e += kWarp) acc[e] *= finished.factor;
    __syncwarp();
  }
  if constexpr (Variant::kOut) {
    Variant::out(request, q_row, acc, finished.row_sum, finished.lse, result);
    __syncwarp();
    values = result;
  }
  if (problem.wide_out.data != nullptr) {
    float* row = problem.wide_out.row(b, h, q_row);
    for (int e = lane; e < kOut; e += kWarp) row[e * problem.wide_out.stride[3]] = values[e];
  } else {
    Element* row = problem.out.row(b, h, q_row);
    for (int e = lane; e < kOut; e += kWarp) {
      row[e * problem.out.stride[3]] = from_float32<Element>(values[e]);
    }
  }
  if (lane == 0) {
    if (problem.lse.data != nullptr) *problem.lse.at(b, h, q_row) = finished.lse;
    if (problem.max.data != nullptr) {
      raise_max(problem.max.at(b, h), largest_score<Variant>(request, q_row, state));
    }
  }
  __syncwarp();
}

}  // namespace attnlang::cuda
