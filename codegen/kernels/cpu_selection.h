// `kv_indices` as kernels read it: the blocks of columns that a query row may see.
#pragma once

#include <algorithm>
#include <cinttypes>
#include <cstdint>
#include <functional>
#include <vector>

#include "attnlang/host/call.h"
#include "kernels/call_check.h"

namespace attnlang::cpu {

// The selection of one query row of a key/value head: `count` block numbers.
struct SelectedBlocks {
  const char* data;
  DType dtype;
  int64_t count, stride;  // in bytes

  static SelectedBlocks of(const Call& call, int64_t b, int64_t h_kv, int64_t i) {
    const Tensor& t = call.kv_indices;
    const int64_t width = t.dtype == DType::i32 ? 4 : 8;
    const int64_t offset = b * t.stride[0] + h_kv * t.stride[1] + i * t.stride[2];
    return {.data = static_cast<const char*>(t.data) + offset * width,
            .dtype = t.dtype,
            .count = t.size[3],
            .stride = t.stride[3] * width};
  }
  int64_t operator[](int64_t i) const {
    const char* at = data + i * stride;
    return dtype == DType::i32 ? *reinterpret_cast<const int32_t*>(at)
                               : *reinterpret_cast<const int64_t*>(at);
  }

  // Those that it selects, ascending, each once.
  std::vector<int32_t> ascending() const {
    std::vector<int32_t> blocks;
    blocks.reserve(count);
    for (int64_t n = 0; n < count; ++n) {
      const int64_t block = (*this)[n];
      if (block >= 0) blocks.push_back(static_cast<int32_t>(block));
    }
    const auto unordered = std::adjacent_find(blocks.begin(), blocks.end(), std::greater_equal<>());
    if (unordered != blocks.end()) {
      std::sort(blocks.begin(), blocks.end());
      blocks.erase(std::unique(blocks.begin(), blocks.end()), blocks.end());
    }
    return blocks;
  }
};

// A block that holds every column is one like any larger one.
inline int64_t block_size(const Call& call) {
  return std::clamp<int64_t>(call.kv_block, 1, std::max<int64_t>(call.k.size[2], 1));
}

// 0, or -1 and a message: of the shape, or of the first index that is no block.
inline int check_selection(const Call& call, char* error) {
  const Tensor& t = call.kv_indices;
  const int64_t batch = call.q.size[0], kv_heads = call.k.size[1], queries = call.q.size[2];
  if (t.rank != 4 || !same_shape(t, batch, kv_heads, queries) ||
      (t.dtype != DType::i32 && t.dtype != DType::i64)) {
    return fail(error, "`kv_indices` is not int32 or int64 [B, HKV, Q, K]");
  }
  if (call.kv_block < 1) {
    return fail(error, "`kv_block` is %" PRId64 ", expected 1 or more", call.kv_block);
  }
  const int64_t size = block_size(call), blocks = (call.k.size[2] + size - 1) / size;
  for (int64_t row = 0; row < batch * kv_heads * queries; ++row) {
    const int64_t head = row / queries, i = row % queries;
    const auto selected = SelectedBlocks::of(call, head / kv_heads, head % kv_heads, i);
    for (int64_t n = 0; n < selected.count; ++n) {
      const int64_t block = selected[n];
      if (block >= -1 && block < blocks) continue;
      return fail(error,
                  "`kv_indices`[%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                  "] selects block %" PRId64 " of %" PRId64,
                  head / kv_heads, head % kv_heads, i, n, block, blocks);
    }
  }
  return 0;
}

}  // namespace attnlang::cpu
