// The gradients of attention, with queries in the lanes: five products a tile.
//
//   S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q, dQ^T += K^T dS^T
//
// Weights are computed again from the scores and the lse. A work item is (request, key head, part
// of the keys): it owns the gradients of its keys and values; those of the queries are its own too
// where its keys are all there are, else sums over the parts of a head, added in the order of the
// parts. How work is cut depends on shapes alone.
#pragma once

#include <algorithm>
#include <deque>
#include <vector>

#include "attnlang/cpu/parallel.h"
#include "attnlang/host/gradients.h"
#include "kernels/cpu_backward_partials.h"
#include "kernels/cpu_backward_queries.h"
#include "kernels/cpu_backward_selection.h"
#include "kernels/cpu_backward_tile.h"
#include "kernels/cpu_gradient_sums.h"
#include "kernels/cpu_gradient_variant.h"
#include "kernels/cpu_problem.h"
#include "kernels/cpu_schedule.h"
#include "kernels/cpu_tiles.h"
#include "kernels/cpu_variant.h"

namespace attnlang::cpu {

// A part of the keys has its own copy of the query gradients, to be cleared, written and added up.
constexpr int64_t kMinBackwardKeys = 1024;

// What a thread works in, whatever the problem: room for so many query tiles and keys.
template <class Variant, class Element, int kD, int kDV>
struct BackwardWorker {
  Buffer<BackwardTile<Variant, Element, kD, kDV>> scratch;
  typename BackwardTile<Variant, Element, kD, kDV>::Queries queries;
  PartialSums<Variant> partials;
  TileSelection selection;
  Buffer<float> keys, values;     // the gradients of an item's keys and values, rows padded
  Buffer<float> query_grads;      // of a head, where nothing is added to them
  const void* problem = nullptr;  // whose rows `queries` holds, of this request and head
  int64_t b = 0, h = 0;

  BackwardWorker(int64_t tiles, int64_t most_keys, const RowSelections& selections)
      : scratch(1),
        queries(tiles),
        partials(tiles),
        selection(selections, tiles),
        keys(most_keys * padded_lanes(kD)),
        values(most_keys * padded_lanes(kDV)),
        query_grads(tiles * kQueryTile * kD) {}
  bool complete() const {
    return scratch && queries.complete() && partials.complete() && selection.complete() && keys &&
           values && query_grads;
  }
};

// The gradients of one problem: a dense call, or a request of a packed one.
template <class Variant, class Element, int kD, int kDV>
class Backward {
 public:
  using Params = typename Variant::Params;
  using Request = typename Variant::Request;
  using Row = typename Variant::Row;
  using Sums = typename Variant::Sums;
  using Scratch = BackwardTile<Variant, Element, kD, kDV>;
  using Queries = typename Scratch::Queries;
  using Worker = BackwardWorker<Variant, Element, kD, kDV>;

  // `heads`: the key heads of all problems of the call, which say how finely keys are cut.
  Backward(const Problem<Element>& problem, const Params& params, const Gradients& gradients,
           int64_t heads)
      : problem_(problem),
        params_(params),
        gradients_(gradients),
        tiles_((problem.queries + kQueryTile - 1) / kQueryTile),
        cut_(KeyParts::of(heads, problem.keys, kKeyTile, kMinBackwardKeys)),
        query_grads_(is_cut() ? problem.batch * problem.heads * cut_.parts * head_size() : 0) {}

  bool complete() const { return static_cast<bool>(query_grads_); }
  int64_t tiles() const { return tiles_; }
  int64_t keys_per_part() const { return cut_.keys_per_part; }
  int64_t items() const { return problem_.batch * problem_.kv_heads * cut_.parts; }
  int64_t item_cost() const { return problem_.queries * cut_.keys_per_part; }
  // What `write_queries` is to do once all items are done.
  int64_t query_blocks() const { return is_cut() ? problem_.batch * problem_.heads * tiles_ : 0; }

  // Where key head `slab` adds to the parameters' gradients; `whole` are those of the call.
  Sums sums(const Gradients& whole, GradientSums& targets, int64_t slab) const {
    return Variant::sums(gradients_, [&](int i) {
      float* base = targets.at(i, slab);
      const int tensor = i - Variant::kScalarCount;
      if (base == nullptr || tensor < 0) return base;
      return base + (static_cast<const float*>(gradients_.tensors[tensor].data) -
                     static_cast<const float*>(whole.tensors[tensor].data));
    });
  }

  // All work of one key head, in order.
  void run_slab(int64_t h_kv, Worker& worker, const Sums& sums) {
    for (int64_t b = 0; b < problem_.batch; ++b) {
      for (int64_t part = 0; part < cut_.parts; ++part) {
        run_item((b * problem_.kv_heads + h_kv) * cut_.parts + part, worker, sums);
      }
    }
  }

  void run_item(int64_t index, Worker& worker, const Sums& sums) {
    const int64_t head = index / cut_.parts, part = index % cut_.parts;
    const int64_t begin = std::min(cut_.begin(part), problem_.keys);
    const int64_t end =
        part + 1 == cut_.parts ? problem_.keys : std::min(cut_.begin(part + 1), problem_.keys);
    const Item item{problem_.first + head / problem_.kv_heads, head % problem_.kv_heads, begin,
                    end};
    std::fill_n(worker.keys.data(), (end - begin) * kKeyRow, 0.0f);
    std::fill_n(worker.values.data(), (end - begin) * kValueRow, 0.0f);
    const int64_t group = problem_.group();
    for (int64_t h = item.h_kv * group; h < (item.h_kv + 1) * group; ++h) {
      float* query_grads =
          is_cut() ? this->query_grads(item.b, h, part) : worker.query_grads.data();
      clear_queries(query_grads);
      run_head(item, h, part == 0, worker, query_grads, sums);
      if (is_cut()) continue;
      for (int64_t tile = 0; tile < tiles_; ++tile) write_tile(item.b, h, tile, query_grads);
    }
    write_keys(item, worker);
  }

  // A query tile of a head: the sum over the parts, in their order.
  void write_queries(int64_t block) {
    const int64_t tile = block % tiles_, head = block / tiles_;
    const int64_t b = problem_.first + head / problem_.heads, h = head % problem_.heads;
    write_tile(b, h, tile, query_grads(b, h, 0));
  }

 private:
  static constexpr int64_t kKeyRow = padded_lanes(kD), kValueRow = padded_lanes(kDV);

  struct Item {
    int64_t b, h_kv, k0, k1;  // columns [k0, k1) of the tensors; those that exist end earlier
  };

  bool is_cut() const { return cut_.parts > 1; }

  // `query_grads`: of the head's first part; the others follow.
  void write_tile(int64_t b, int64_t h, int64_t tile, const float* query_grads) const {
    alignas(64) float columns[kLanes * kLanes], rows[kLanes * padded(kD)];
    const int count = tile_rows(tile);
    for (int m = 0; m < count; m += kLanes) {
      const float* first =
          query_grads + tile * kQueryTile * kD + m / kPanel * kD * kPanel + m % kPanel;
      for (int d = 0; d < kD; d += kLanes) {
        const int width = std::min(kLanes, kD - d);
        for (int i = 0; i < width; ++i) {
          F total{};
          for (int64_t part = 0; part < cut_.parts; ++part) {
            total += load_f(first + part * head_size() + (d + i) * kPanel);
          }
          store(columns + i * kLanes, total);
        }
        transpose(rows + d, padded(kD), kLanes, columns, kLanes, width);
      }
      for (int i = 0; i < std::min(kLanes, count - m); ++i) {
        float_to_row(gradient_row<Element>(gradients_.q, b, h, tile * kQueryTile + m + i),
                     gradients_.q.stride[3], rows + i * padded(kD), kD);
      }
    }
  }

  int64_t head_size() const { return tiles_ * kQueryTile * kD; }
  float* query_grads(int64_t b, int64_t h, int64_t part) {
    return query_grads_.data() +
           (((b - problem_.first) * problem_.heads + h) * cut_.parts + part) * head_size();
  }
  Request request(int64_t b, int64_t h, int64_t tile) const {
    const int64_t q0 = tile * kQueryTile;
    return problem_.template request<Variant>(params_, b, h, q0 + tile_rows(tile) / 2);
  }
  int tile_rows(int64_t tile) const {
    return static_cast<int>(std::min<int64_t>(kQueryTile, problem_.queries - tile * kQueryTile));
  }

  void clear_queries(float* grads) const {
    for (int64_t m = 0; m < problem_.queries; m += kPanel) {
      const int64_t lanes = padded_lanes(std::min<int64_t>(kPanel, problem_.queries - m));
      for (int d = 0; d < kD; ++d) std::fill_n(grads + m * kD + d * kPanel, lanes, 0.0f);
    }
  }

  // `first`: what reaches a row without its keys (sink, shift) is added by the first part alone.
  void run_head(const Item& item, int64_t h, bool first, Worker& worker, float* query_grads,
                const Sums& sums) {
    Scratch& scratch = *worker.scratch.data();
    // The parts of a head follow each other: the next may find its queries packed.
    if (worker.problem != this || worker.b != item.b || worker.h != h) {
      load_head(item.b, h, scratch, worker.queries);
      worker.problem = this, worker.b = item.b, worker.h = h;
    }
    worker.partials.start_head(tiles_);
    scratch.operands.start();
    const auto kv = problem_.kv(item.b, item.h_kv);
    const int64_t end = std::min(item.k1, problem_.kv_len(item.b));
    // All keys pass by a block of queries before the next: what is kept of it stays in the cache.
    const int64_t block = worker.selection.given() ? problem_.queries : Queries::kBlock;
    for (int64_t q0 = 0; q0 < problem_.queries; q0 += block) {
      const Range rows{q0, std::min(q0 + block, problem_.queries)};
      for (int64_t k0 = item.k0; k0 < end; k0 += kKeyTile) {
        const int n = static_cast<int>(std::min<int64_t>(kKeyTile, end - k0));
        run_keys(item, h, kv, rows, k0, n, worker, query_grads, sums);
      }
    }
    if constexpr (Variant::Partials::kCount > 0) finish_head(item.b, h, first, worker, sums);
  }

  void run_keys(const Item& item, int64_t h, const StridedKv<Element>& kv, const Range& block,
                int64_t k0, int n, Worker& worker, float* query_grads, const Sums& sums) {
    Scratch& scratch = *worker.scratch.data();
    const Request whole = problem_.template request<Variant>(params_, item.b, h);
    const TileSelection* selection = nullptr;
    if (worker.selection.given()) {
      worker.selection.load(item.b * problem_.kv_heads + item.h_kv, problem_.queries, k0, n);
      if (!worker.selection.any()) return;
      selection = &worker.selection;
    }
    bool loaded = false;
    float* key_grads = worker.keys.data() + (k0 - item.k0) * kKeyRow;
    float* value_grads = worker.values.data() + (k0 - item.k0) * kValueRow;
    const auto verdict_of = [&](int64_t q0, int64_t q1) {
      return tile_verdict<Variant>(whole, q0, q1, k0, k0 + n);
    };
    const auto run = [&](int64_t q0, int rows, bool masked) {
      if (selection != nullptr) {
        const Verdict selected = selection->verdict(q0, rows);
        if (is_empty(selected)) return;
        masked |= is_unknown(selected);
      }
      if (!loaded) {
        scratch.load_keys(whole, kv, k0, n, selection);
        worker.partials.start_keys();
        loaded = true;
      }
      const int64_t tile = q0 / kQueryTile;
      const Request request = this->request(item.b, h, tile);
      const TilePlace place{tile, rows, k0, n};
      if (masked || rows < kQueryTile) {
        scratch.template elements<true>(request, place, selection, worker.queries);
      } else {
        scratch.template elements<false>(request, place, nullptr, worker.queries);
      }
      const ElementGradients gradients{scratch.dots, scratch.reached, scratch.factors};
      worker.partials.add_elements(request, place, scratch.rows, scratch.columns, gradients, sums);
      scratch.products(place, worker.queries, query_grads, key_grads, value_grads);
    };
    visit_tiles(query_coverage<Variant>(whole, k0, k0 + n), block.begin, block.end, kQueryTile,
                verdict_of, run);
    if (loaded) worker.partials.finish_keys(whole, k0, n, sums);
  }

  // From the queries and what reached out and lse to what the element loop needs of each row.
  void load_head(int64_t b, int64_t h, Scratch& scratch, Queries& queries) const {
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      const Request request = this->request(b, h, tile);
      load_rows<Variant>(request, tile * kQueryTile, scratch.rows);
      queries.template load<Variant::kSoftmax>(problem_, gradients_, b, h, tile);
      for (int m = 0; m < padded_lanes(tile_rows(tile)); m += kLanes) {
        queries.template row_terms<Variant>(request, scratch.rows[m / kLanes],
                                            tile * kQueryTile + m);
      }
    }
  }

  // What was gathered by rows and by the whole head, and what reached sinks and shifts.
  void finish_head(int64_t b, int64_t h, bool first, Worker& worker, const Sums& sums) const {
    Row* rows = worker.scratch.data()->rows;
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      const Request request = this->request(b, h, tile);
      load_rows<Variant>(request, tile * kQueryTile, rows);
      worker.partials.finish_rows(request, tile, tile_rows(tile), rows, worker.queries.sink.data(),
                                  worker.queries.shift.data(), first, sums);
    }
    worker.partials.finish_head(problem_.template request<Variant>(params_, b, h), sums);
  }

  void write_keys(const Item& item, Worker& worker) const {
    for (int64_t j = item.k0; j < item.k1; ++j) {
      float_to_row(gradient_row<Element>(gradients_.k, item.b, item.h_kv, j),
                   gradients_.k.stride[3], worker.keys.data() + (j - item.k0) * kKeyRow, kD);
      float_to_row(gradient_row<Element>(gradients_.v, item.b, item.h_kv, j),
                   gradients_.v.stride[3], worker.values.data() + (j - item.k0) * kValueRow, kDV);
    }
  }

  const Problem<Element>& problem_;
  const Params& params_;
  const Gradients& gradients_;
  const int64_t tiles_;
  const KeyParts cut_;
  Buffer<float> query_grads_;
};

// The gradients of a call's problems. Without parameters, items go as they come, costly ones first;
// with parameters, a slab is all work of one key head, in order.
template <class Variant, class Element, int kD, int kDV>
int run_problems(std::deque<Backward<Variant, Element, kD, kDV>>& problems, const Gradients& whole,
                 const RowSelections& selections, int64_t kv_heads, char* error) {
  using Problem = Backward<Variant, Element, kD, kDV>;
  struct Place {
    Problem* problem;
    int64_t index;
  };
  std::vector<Place> items, blocks;
  int64_t tiles = 0, most_keys = 0;
  for (Problem& problem : problems) {
    if (!problem.complete()) return fail(error, "out of memory");
    for (int64_t i = 0; i < problem.items(); ++i) items.push_back({&problem, i});
    for (int64_t i = 0; i < problem.query_blocks(); ++i) blocks.push_back({&problem, i});
    tiles = std::max(tiles, problem.tiles());
    most_keys = std::max(most_keys, problem.keys_per_part());
  }
  GradientSums sums(whole, Variant::kScalarCount, Variant::kTensorCount, Variant::kOwned, kv_heads);
  const int64_t count = static_cast<int64_t>(items.size());
  const int64_t slabs = sums.any() ? kv_heads : count;
  const int threads = thread_count(slabs);
  std::deque<typename Problem::Worker> workers;
  for (int i = 0; i < threads; ++i) {
    if (!workers.emplace_back(tiles, most_keys, selections).complete()) {
      return fail(error, "out of memory");
    }
  }
  if (sums.any()) {
    parallel_for(slabs, threads, [&](int64_t slab, int thread) {
      for (Problem& problem : problems) {
        problem.run_slab(slab, workers[thread], problem.sums(whole, sums, slab));
      }
    });
    sums.finish();
  } else {
    const std::vector<int64_t> order =
        longest_first(count, 1, 1, [&](int64_t i) { return items[i].problem->item_cost(); });
    parallel_for(count, threads, [&](int64_t i, int thread) {
      const Place& item = items[order[i]];
      item.problem->run_item(item.index, workers[thread], Variant::no_sums());
    });
  }
  const int64_t block_count = static_cast<int64_t>(blocks.size());
  parallel_for(block_count, thread_count(block_count),
               [&](int64_t i, int) { blocks[i].problem->write_queries(blocks[i].index); });
  return 0;
}

}  // namespace attnlang::cpu
