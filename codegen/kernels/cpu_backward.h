// The gradients of attention, with queries in the lanes: five products a tile.
//
//   S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q, dQ^T += K^T dS^T
//
// Weights are computed again from the scores and the lse. A work item is (request, key head, part
// of the keys): it owns the gradients of its keys and values; those of the queries are sums over
// the parts of a head, added in the order of the parts. How work is cut depends on shapes alone.
#pragma once

#include <algorithm>
#include <exception>
#include <memory>
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

template <class Variant, class Element, int kD, int kDV>
class Backward {
 public:
  using Params = typename Variant::Params;
  using Request = typename Variant::Request;
  using Row = typename Variant::Row;
  using Sums = typename Variant::Sums;
  using Queries = HeadQueries<kD, kDV>;
  using Scratch = BackwardTile<Variant, Element, kD, kDV>;

  Backward(const Problem<Element>& problem, const Params& params, const Gradients& gradients)
      : problem_(problem),
        params_(params),
        gradients_(gradients),
        tiles_((problem.queries + kQueryTile - 1) / kQueryTile),
        heads_(problem.batch * problem.kv_heads),
        cut_(KeyParts::of(heads_, problem.keys, kKeyTile)),
        selections_(problem.call),
        query_grads_(problem.batch * problem.heads * cut_.parts * head_size()) {}

  int run(char* error) {
    if (!query_grads_) return fail(error, "out of memory");
    GradientSums sums(gradients_, Variant::kScalarCount, Variant::kTensorCount, Variant::kOwned,
                      problem_.kv_heads);
    // With parameters, a slab is one key head's work in order; without, items go as they come.
    const int64_t slabs = sums.any() ? problem_.kv_heads : heads_ * cut_.parts;
    const int threads = thread_count(slabs);
    std::vector<Worker> workers;
    for (int i = 0; i < threads; ++i) {
      workers.emplace_back(tiles_, cut_.keys_per_part, selections_);
      if (!workers.back().complete()) return fail(error, "out of memory");
    }
    parallel_for(slabs, threads, [&](int64_t slab, int thread) {
      if (!sums.any()) {
        run_item(slab / cut_.parts, slab % cut_.parts, workers[thread], Variant::no_sums());
        return;
      }
      Sums own = Variant::sums(gradients_, [&](int i) { return sums.at(i, slab); });
      for (int64_t b = 0; b < problem_.batch; ++b) {
        for (int64_t part = 0; part < cut_.parts; ++part) {
          run_item(b * problem_.kv_heads + slab, part, workers[thread], own);
        }
      }
    });
    sums.finish();
    const int64_t blocks = problem_.batch * problem_.heads * tiles_;
    parallel_for(blocks, thread_count(blocks), [&](int64_t i, int) { write_queries(i); });
    return 0;
  }

 private:
  // What a thread works in.
  struct Worker {
    std::unique_ptr<Buffer<Scratch>> scratch = std::make_unique<Buffer<Scratch>>(1);
    std::unique_ptr<Queries> queries;
    std::unique_ptr<PartialSums<Variant>> partials;
    std::unique_ptr<TileSelection> selection;
    std::unique_ptr<Buffer<float>> keys, values;  // the gradients of an item's keys and values
    Worker(int64_t tiles, int64_t keys_per_part, const RowSelections& selections)
        : queries(std::make_unique<Queries>(tiles)),
          partials(std::make_unique<PartialSums<Variant>>(tiles)),
          selection(std::make_unique<TileSelection>(selections, tiles)),
          keys(std::make_unique<Buffer<float>>(keys_per_part * kD)),
          values(std::make_unique<Buffer<float>>(keys_per_part * kDV)) {}
    bool complete() const {
      return *scratch && queries->complete() && partials->complete() && selection->complete() &&
             *keys && *values;
    }
  };

  struct Item {
    int64_t b, h_kv, k0, k1;  // columns [k0, k1) of the tensors; those that exist end earlier
  };

  int64_t head_size() const { return tiles_ * kQueryTile * kD; }
  float* query_grads(int64_t b, int64_t h, int64_t part) {
    return query_grads_.data() + ((b * problem_.heads + h) * cut_.parts + part) * head_size();
  }
  Request request(int64_t b, int64_t h, int64_t tile) const {
    const int64_t q0 = tile * kQueryTile;
    return problem_.template request<Variant>(params_, b, h, q0 + tile_rows(tile) / 2);
  }
  int tile_rows(int64_t tile) const {
    return static_cast<int>(std::min<int64_t>(kQueryTile, problem_.queries - tile * kQueryTile));
  }

  void run_item(int64_t head, int64_t part, Worker& worker, const Sums& sums) {
    const int64_t begin = std::min(cut_.begin(part), problem_.keys);
    const int64_t end =
        part + 1 == cut_.parts ? problem_.keys : std::min(cut_.begin(part + 1), problem_.keys);
    const Item item{head / problem_.kv_heads, head % problem_.kv_heads, begin, end};
    std::fill_n(worker.keys->data(), (end - begin) * kD, 0.0f);
    std::fill_n(worker.values->data(), (end - begin) * kDV, 0.0f);
    const int64_t group = problem_.group();
    for (int64_t h = item.h_kv * group; h < (item.h_kv + 1) * group; ++h) {
      float* query_grads = this->query_grads(item.b, h, part);
      clear_queries(query_grads);
      run_head(item, h, part == 0, worker, query_grads, sums);
    }
    write_keys(item, worker);
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
    Scratch& scratch = *worker.scratch->data();
    Queries& queries = *worker.queries;
    load_head(item.b, h, scratch, queries);
    worker.partials->start_head();
    std::fill_n(scratch.no_key, kD, 0.0f);
    scratch.tile.start();
    const auto kv = problem_.kv(item.b, item.h_kv);
    const int64_t end = std::min(item.k1, problem_.kv_len(item.b));
    for (int64_t k0 = item.k0; k0 < end; k0 += kKeyTile) {
      const int n = static_cast<int>(std::min<int64_t>(kKeyTile, end - k0));
      run_keys(item, h, kv, k0, n, worker, query_grads, sums);
    }
    if constexpr (Variant::Partials::kCount > 0) finish_head(item.b, h, first, worker, sums);
  }

  void run_keys(const Item& item, int64_t h, const StridedKv<Element>& kv, int64_t k0, int n,
                Worker& worker, float* query_grads, const Sums& sums) {
    Scratch& scratch = *worker.scratch->data();
    const Request whole = problem_.template request<Variant>(params_, item.b, h);
    const TileSelection* selection = nullptr;
    if (worker.selection->given()) {
      worker.selection->load(item.b * problem_.kv_heads + item.h_kv, problem_.queries, k0, n);
      if (!worker.selection->any()) return;
      selection = worker.selection.get();
    }
    scratch.load_keys(whole, kv, k0, n, selection);
    worker.partials->start_keys();
    float* key_grads = worker.keys->data() + (k0 - item.k0) * kD;
    float* value_grads = worker.values->data() + (k0 - item.k0) * kDV;
    const auto verdict_of = [&](int64_t q0, int64_t q1) {
      return tile_verdict<Variant>(whole, q0, q1, k0, k0 + n);
    };
    const auto run = [&](int64_t q0, int rows, bool masked) {
      if (selection != nullptr) {
        const Verdict selected = selection->verdict(q0, rows);
        if (is_empty(selected)) return;
        masked |= is_unknown(selected);
      }
      const int64_t tile = q0 / kQueryTile;
      const Request request = this->request(item.b, h, tile);
      const TilePlace place{tile, rows, k0, n};
      if (masked || rows < kQueryTile) {
        scratch.template elements<true>(request, place, selection, *worker.queries);
      } else {
        scratch.template elements<false>(request, place, nullptr, *worker.queries);
      }
      const ElementGradients gradients{scratch.dots, scratch.reached, scratch.factors};
      worker.partials->add_elements(request, place, scratch.rows, scratch.columns, gradients, sums);
      scratch.products(place, *worker.queries, query_grads, key_grads, value_grads);
    };
    visit_tiles(query_coverage<Variant>(whole, k0, k0 + n), 0, problem_.queries, kQueryTile,
                verdict_of, run);
    worker.partials->finish_keys(whole, k0, n, sums);
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
    Row* rows = worker.scratch->data()->rows;
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      const Request request = this->request(b, h, tile);
      load_rows<Variant>(request, tile * kQueryTile, rows);
      worker.partials->finish_rows(request, tile, tile_rows(tile), rows,
                                   worker.queries->sink.data(), worker.queries->shift.data(), first,
                                   sums);
    }
    worker.partials->finish_head(problem_.template request<Variant>(params_, b, h), sums);
  }

  void write_keys(const Item& item, Worker& worker) const {
    for (int64_t j = item.k0; j < item.k1; ++j) {
      float_to_row(gradient_row<Element>(gradients_.k, item.b, item.h_kv, j),
                   gradients_.k.stride[3], worker.keys->data() + (j - item.k0) * kD, kD);
      float_to_row(gradient_row<Element>(gradients_.v, item.b, item.h_kv, j),
                   gradients_.v.stride[3], worker.values->data() + (j - item.k0) * kDV, kDV);
    }
  }

  // Query tile `block` of all heads: the sum over the parts, in their order.
  void write_queries(int64_t block) {
    const int64_t tile = block % tiles_, head = block / tiles_;
    const int64_t b = head / problem_.heads, h = head % problem_.heads;
    alignas(64) float row[kD];
    for (int m = 0; m < tile_rows(tile); ++m) {
      std::fill_n(row, kD, 0.0f);
      for (int64_t part = 0; part < cut_.parts; ++part) {
        const float* column = query_grads(b, h, part) + tile * kQueryTile * kD +
                              m / kPanel * kD * kPanel + m % kPanel;
        for (int d = 0; d < kD; ++d) row[d] += column[d * kPanel];
      }
      float_to_row(gradient_row<Element>(gradients_.q, b, h, tile * kQueryTile + m),
                   gradients_.q.stride[3], row, kD);
    }
  }

  const Problem<Element>& problem_;
  const Params& params_;
  const Gradients& gradients_;
  const int64_t tiles_, heads_;
  const KeyParts cut_;
  const RowSelections selections_;
  Buffer<float> query_grads_;
};

// 0, or -1 and a message in `error` (kErrorSize).
template <class Variant, class Element, int kD, int kDV>
int run_backward(const Call& call, const Gradients& gradients, char* error) {
  static_assert(check_variant<Variant>());
  static_assert(check_gradient_variant<Variant>());
  error[0] = '\0';
  if (check_call<Element, kD, kDV, kDV>(call, error) != 0) return -1;
  if (call.kv_indices.data != nullptr && check_selection(call, error) != 0) return -1;
  const Problem<Element> problem(call);
  const typename Variant::Params params = Variant::params(call);
  if (problem.batch == 0 || problem.heads == 0) return 0;
  try {
    return Backward<Variant, Element, kD, kDV>(problem, params, gradients).run(error);
  } catch (const std::exception& exception) {
    return fail(error, "%s", exception.what());
  }
}

}  // namespace attnlang::cpu
