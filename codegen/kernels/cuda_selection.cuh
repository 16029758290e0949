// The columns that a call selects for each query row (`kv_indices`): as sets, ascending.
//
// One kernel makes of every row's indices a list of blocks in the workspace, each once and only
// those that the request has; -1 pads, and an index that is no block is left out. The lists then
// say which rows of k and v an item gathers; its cost follows what is selected.
#pragma once

#include <algorithm>
#include <cinttypes>
#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/host/target.h"
#include "kernels/cuda_problem.cuh"

namespace attnlang::cuda {

// Stands where a row has selected no further column; no column has this number.
constexpr int kNoColumn = static_cast<int>(kPositionLimit);

struct Selection {
  int32_t* blocks;   // [B * HKV, Q, capacity]; null: the call selects nothing
  int32_t* counts;   // [B * HKV, Q]
  int32_t capacity;  // the most blocks that a row can select
  int32_t size;      // columns of a block

  // Of one row of a request of `keys` columns.
  struct Row {
    const int32_t* blocks;
    int32_t size, columns;

    ATTNLANG_DEVICE int column(int j) const {
      if (j >= columns) return kNoColumn;
      return size == 1 ? blocks[j] : blocks[j / size] * size + j % size;
    }
  };
  ATTNLANG_DEVICE Row row(int64_t index, int keys) const {
    const int32_t* row = blocks + index * capacity;
    const int count = counts[index];
    if (count == 0) return {row, size, 0};
    const int rest = keys - row[count - 1] * size;
    return {row, size, (count - 1) * size + (rest < size ? rest : size)};
  }

  // A block that holds every column is one like any larger one.
  static int32_t block_size(const Call& call) {
    const int64_t keys = std::max<int64_t>(call.k.size[2], 1);
    return static_cast<int32_t>(std::clamp<int64_t>(call.kv_block, 1, keys));
  }
  static int64_t rows(const Call& call) { return call.q.size[0] * call.k.size[1] * call.q.size[2]; }
  static int64_t most_blocks(const Call& call) {
    const int64_t size = block_size(call);
    return std::min(call.kv_indices.size[3], (call.k.size[2] + size - 1) / size);
  }
  // What `start` needs of the workspace.
  static int64_t bytes(const Call& call) {
    if (call.kv_indices.data == nullptr) return 0;
    return rows(call) * (most_blocks(call) + 1) * static_cast<int64_t>(sizeof(int32_t));
  }
  static int check(const Call& call, char* error) {
    const Tensor& t = call.kv_indices;
    if (t.rank != 4 || !same_shape(t, call.q.size[0], call.k.size[1], call.q.size[2]) ||
        (t.dtype != DType::i32 && t.dtype != DType::i64)) {
      return fail(error, "`kv_indices` is not int32 or int64 [B, HKV, Q, K]");
    }
    if (call.kv_block < 1) {
      return fail(error, "`kv_block` is %" PRId64 ", expected 1 or more", call.kv_block);
    }
    return 0;
  }
};

// The indices as the call passed them, [B, HKV, Q, K].
struct Indices {
  const void* data;
  bool wide;  // int64
  int64_t count, stride[4];

  static Indices of(const Tensor& t) {
    return {.data = t.data,
            .wide = t.dtype == DType::i64,
            .count = t.size[3],
            .stride = {t.stride[0], t.stride[1], t.stride[2], t.stride[3]}};
  }
  ATTNLANG_DEVICE int64_t at(int64_t offset) const {
    return wide ? static_cast<const int64_t*>(data)[offset]
                : static_cast<const int32_t*>(data)[offset];
  }
};

constexpr int kSelectWarps = 4;
constexpr int kSelectWindow = 32768;  // blocks that are looked at together: a flag each

// The sum of the lanes before this one, and of all.
template <class T>
struct LaneSums {
  T before, all;
};
template <class T>
ATTNLANG_DEVICE LaneSums<T> lane_sums(T x, int lane) {
  T sum = x;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const T other = __shfl_sync(~0u, sum, lane < step ? lane : lane - step);
    if (lane >= step) sum += other;
  }
  return {sum - x, __shfl_sync(~0u, sum, kWarp - 1)};
}

// A block of threads a row.
template <class Element>
__global__ void __launch_bounds__(kSelectWarps* kWarp)
    select_columns(const Problem<Element> problem, const Indices indices,
                   const Selection selection) {
  constexpr int kThreads = kSelectWarps * kWarp;
  constexpr int kWords = kSelectWindow / 4 / kSelectWarps;  // of a warp, four flags each
  auto* words = dynamic_shared<uint32_t>();
  auto* flags = reinterpret_cast<uint8_t*>(words);
  uint32_t* totals = words + kSelectWindow / 4;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int64_t index = blockIdx.x;
  const int query = static_cast<int>(index % problem.queries);
  const int head = static_cast<int>(index / problem.queries);
  const int b = head / problem.kv_heads;
  const int keys = problem.kv_len(b);
  const int64_t blocks = (int64_t{keys} + selection.size - 1) / selection.size;
  const int64_t offset = b * indices.stride[0] + head % problem.kv_heads * indices.stride[1] +
                         query * indices.stride[2];
  int32_t* result = selection.blocks + index * selection.capacity;
  int found = 0;
  for (int64_t first = 0; first < blocks; first += kSelectWindow) {
    for (int i = thread; i < kSelectWindow / 4; i += kThreads) words[i] = 0;
    __syncthreads();
    for (int64_t n = thread; n < indices.count; n += kThreads) {
      const int64_t block = indices.at(offset + n * indices.stride[3]);
      if (first <= block && block < blocks && block < first + kSelectWindow) {
        flags[block - first] = 1;
      }
    }
    __syncthreads();
    int count = 0;
    for (int i = lane; i < kWords; i += kWarp) count += __popc(words[warp * kWords + i]);
    count = lane_sums(count, lane).all;
    if (lane == 0) totals[warp] = static_cast<uint32_t>(count);
    __syncthreads();
    int at = found;
    for (int w = 0; w < kSelectWarps; ++w) {
      if (w < warp) at += static_cast<int>(totals[w]);
      found += static_cast<int>(totals[w]);
    }
    for (int i = 0; i < kWords; i += kWarp) {
      const int word = warp * kWords + i + lane;
      const uint32_t four = words[word];
      const LaneSums<int> sums = lane_sums(__popc(four), lane);
      int to = at + sums.before;
      for (int j = 0; j < 4; ++j) {
        if ((four >> (8 * j) & 1u) != 0) result[to++] = static_cast<int32_t>(first) + 4 * word + j;
      }
      at += sums.all;
    }
    __syncthreads();
  }
  if (thread == 0) selection.counts[index] = found;
}

// Enqueues the making of the lists in `workspace`; null, or what is wrong.
template <class Element>
const char* start_selection(const Call& call, const Problem<Element>& problem, void* workspace,
                            Selection& selection) {
  const int64_t rows = Selection::rows(call);
  selection.counts = static_cast<int32_t*>(workspace);
  selection.blocks = selection.counts + rows;
  selection.capacity = static_cast<int32_t>(Selection::most_blocks(call));
  selection.size = Selection::block_size(call);
  const size_t shared = kSelectWindow + kSelectWarps * sizeof(uint32_t);
  return launch(select_columns<Element>, dim3(static_cast<unsigned>(rows)), kSelectWarps * kWarp,
                shared, call.stream, problem, Indices::of(call.kv_indices), selection);
}

}  // namespace attnlang::cuda
