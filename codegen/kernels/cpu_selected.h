// Attention of the columns that a call selects, for each query row its own: `kv_indices`.
//
// A work item is (request, key/value head, query row, up to kDecodeRows heads of the group, part of
// the columns): the heads share the selection and go through its columns together, as in `Decode`.
// Columns come in ascending order and each once, so a result depends on the set alone. The cost
// follows what is selected, never the keys that there are.
#pragma once

#include <algorithm>
#include <cinttypes>
#include <functional>
#include <vector>

#include "kernels/cpu_decode.h"
#include "kernels/cpu_problem.h"

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

template <class Variant, class Element, int kD, int kDV>
class Selected : public Decode<Variant, Element, kD, kDV> {
  using Base = Decode<Variant, Element, kD, kDV>;
  using Base::problem;

 public:
  using typename Base::Item;
  using typename Base::Params;
  using typename Base::Scratch;
  using typename Base::State;

  Selected(const Problem<Element>& problem, const Params& params)
      : Base(problem, params), block_(block_size(problem.call)) {}

  // The most that a row can select, which says how work is cut.
  int64_t columns() const {
    const int64_t blocks = (problem().keys + block_ - 1) / block_;
    return std::min(std::min(problem().call.kv_indices.size[3], blocks) * block_, problem().keys);
  }
  int64_t chunks() const { return (problem().group() + kDecodeRows - 1) / kDecodeRows; }
  int64_t items() const {
    return problem().batch * problem().kv_heads * problem().queries * chunks();
  }
  int64_t items_of_a_head() const { return chunks(); }

  Item item(int64_t index) const {
    const int64_t row = index / chunks(), first_head = index % chunks() * kDecodeRows;
    const int64_t head = row / problem().queries, i = row % problem().queries;
    return {
        .b = head / problem().kv_heads,
        .h_kv = head % problem().kv_heads,
        .row0 = first_head * problem().queries + i,
        .rows = static_cast<int>(std::min<int64_t>(kDecodeRows, problem().group() - first_head)),
        .step = problem().queries};
  }

  // The state of an item over the columns [k0, k1) of its selection, counted in ascending order.
  void run(const Item& item, int64_t k0, int64_t k1, Scratch& scratch, State& state) const {
    typename Base::Requests requests;
    this->start(item, requests, scratch, state);
    const std::vector<int32_t> blocks = selection(item);
    k1 = std::min(k1, count(blocks, problem().kv_len(item.b)));
    for (int64_t k = k0; k < k1; k += kDecodeKeys) {
      const int n = static_cast<int>(std::min<int64_t>(kDecodeKeys, k1 - k));
      load_columns(blocks, k, n, scratch.columns);
      const int64_t first = scratch.columns[0], last = scratch.columns[n - 1];
      Verdict verdict = Verdict::unknown;  // that of a gap might be costly, and says little
      if (last - first == n - 1) verdict = this->verdict(item, requests, first, last + 1);
      if (is_empty(verdict)) continue;
      this->run_block(is_unknown(verdict), item, requests, n, scratch, state);
    }
  }

 private:
  // The selected blocks, ascending, each once.
  std::vector<int32_t> selection(const Item& item) const {
    const auto selected =
        SelectedBlocks::of(problem().call, item.b, item.h_kv, item.row0 % problem().queries);
    std::vector<int32_t> blocks;
    blocks.reserve(selected.count);
    for (int64_t n = 0; n < selected.count; ++n) {
      if (selected[n] >= 0) blocks.push_back(static_cast<int32_t>(selected[n]));
    }
    const auto unordered = std::adjacent_find(blocks.begin(), blocks.end(), std::greater_equal<>());
    if (unordered != blocks.end()) {
      std::sort(blocks.begin(), blocks.end());
      blocks.erase(std::unique(blocks.begin(), blocks.end()), blocks.end());
    }
    return blocks;
  }

  // How many of their columns a request of `length` columns has.
  int64_t count(const std::vector<int32_t>& blocks, int64_t length) const {
    const auto behind = [&](int32_t block) { return block * block_ < length; };
    const int64_t whole =
        std::partition_point(blocks.begin(), blocks.end(), behind) - blocks.begin();
    if (whole == 0) return 0;
    return (whole - 1) * block_ + std::min(block_, length - blocks[whole - 1] * block_);
  }

  // Columns k .. k + n - 1 of the selection; the rest repeat the last one.
  void load_columns(const std::vector<int32_t>& blocks, int64_t k, int n, int32_t* columns) const {
    int64_t at = k / block_, offset = k % block_;
    for (int j = 0; j < n; ++j) {
      columns[j] = static_cast<int32_t>(blocks[at] * block_ + offset);
      if (++offset == block_) offset = 0, ++at;
    }
    std::fill(columns + n, columns + kDecodeKeys, columns[n - 1]);
  }

  int64_t block_;
};

}  // namespace attnlang::cpu
