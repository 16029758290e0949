// The columns that a call selects for each query row (`kv_indices`), as the backward's element loop
// asks for them: a bit each, of one key tile and all rows of a head.
//
// A set of columns is what counts: the order of the indices, and how often one is given, changes no
// gradient.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "attnlang/cpu/parallel.h"
#include "attnlang/cpu/simd.h"
#include "kernels/cpu_selection.h"
#include "kernels/cpu_tile.h"

namespace attnlang::cpu {

// The selections of a call's rows, sorted once; nothing without `kv_indices`.
class RowSelections {
 public:
  explicit RowSelections(const Call& call)
      : given_(call.kv_indices.data != nullptr), block_(block_size(call)) {
    if (!given_) return;
    const int64_t heads = call.k.size[1], queries = call.q.size[2];
    queries_ = queries;
    rows_.resize(call.q.size[0] * heads * queries);
    const int64_t count = static_cast<int64_t>(rows_.size());
    parallel_for(count, thread_count(count), [&](int64_t i, int) {
      const int64_t head = i / queries;
      rows_[i] = SelectedBlocks::of(call, head / heads, head % heads, i % queries).ascending();
    });
  }

  bool given() const { return given_; }

  // The columns of [k0, k0 + n) that row i of a head may see, n <= 64; `head`: b * HKV + h_kv.
  uint64_t columns(int64_t head, int64_t i, int64_t k0, int n) const {
    const std::vector<int32_t>& blocks = rows_[head * queries_ + i];
    uint64_t bits = 0;
    auto next = std::lower_bound(blocks.begin(), blocks.end(), k0 / block_);
    for (; next != blocks.end() && *next * block_ < k0 + n; ++next) {
      const int64_t begin = std::max<int64_t>(*next * block_ - k0, 0);
      const int64_t end = std::min<int64_t>((*next + 1) * block_ - k0, n);
      bits |= first_bits(end) & ~first_bits(begin);
    }
    return bits;
  }

  static uint64_t first_bits(int64_t n) { return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }

 private:
  bool given_;
  int64_t block_, queries_ = 0;
  std::vector<std::vector<int32_t>> rows_;
};

// What the rows of one head select of one key tile.
class TileSelection {
 public:
  TileSelection(const RowSelections& rows, int64_t tiles)
      : rows_(rows), stride_(rows.given() ? tiles * kQueryTile : 0), bits_(kWords * stride_) {}
  bool complete() const { return static_cast<bool>(bits_); }
  bool given() const { return rows_.given(); }

  // Columns [k0, k0 + n) of a head with so many query rows.
  void load(int64_t head, int64_t queries, int64_t k0, int n) {
    whole_ = RowSelections::first_bits(n), any_ = 0;
    for (int64_t i = 0; i < stride_; ++i) {
      const uint64_t bits = i < queries ? rows_.columns(head, i, k0, n) : 0;
      for (int w = 0; w < kWords; ++w) {
        bits_[w * stride_ + i] = static_cast<int32_t>(bits >> (w * kBits));
      }
      any_ |= bits;
    }
  }

  // Whether some row sees a column at all, or column j of the tile.
  bool any() const { return any_ != 0; }
  bool any(int j) const { return (any_ >> j & 1) != 0; }

  // What the rows [q0, q0 + rows) see of the tile.
  Verdict verdict(int64_t q0, int rows) const {
    uint64_t some = 0, each = whole_;
    for (int64_t i = q0; i < q0 + rows; ++i) some |= bits(i), each &= bits(i);
    return some == 0 ? Verdict::empty : each == whole_ ? Verdict::full : Verdict::unknown;
  }

  // Whether the rows from `row` on, a lane each, see column j.
  M keep(int64_t row, int j) const {
    const I words = load_i(bits_.data() + j / kBits * stride_ + row);
    return (words & splat_i(static_cast<int32_t>(uint32_t{1} << j % kBits))) != 0;
  }

 private:
  static constexpr int kBits = 32, kWords = kKeyTile / kBits;
  static_assert(kKeyTile <= 64, "a key tile has a bit a column in 64 of them");

  uint64_t bits(int64_t row) const {
    uint64_t bits = 0;
    for (int w = 0; w < kWords; ++w) {
      bits |= uint64_t{static_cast<uint32_t>(bits_.data()[w * stride_ + row])} << (w * kBits);
    }
    return bits;
  }

  const RowSelections& rows_;
  int64_t stride_;
  uint64_t whole_ = 0, any_ = 0;
  Buffer<int32_t> bits_;  // [word][row]
};

}  // namespace attnlang::cpu
