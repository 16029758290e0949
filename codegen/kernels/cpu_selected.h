// Attention of the columns that a call selects, for each query row its own: `kv_indices`.
//
// A work item is (request, key/value head, query row, up to kDecodeRows heads of the group, part of
// the columns): the heads share the selection and go through its columns together, as in `Decode`.
// Columns come in ascending order and each once, so a result depends on the set alone. The cost
// follows what is selected, never the keys that there are.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/cpu_decode.h"
#include "kernels/cpu_problem.h"
#include "kernels/cpu_selection.h"

namespace attnlang::cpu {

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
    const std::vector<int32_t> blocks =
        SelectedBlocks::of(problem().call, item.b, item.h_kv, item.row0 % problem().queries)
            .ascending();
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
