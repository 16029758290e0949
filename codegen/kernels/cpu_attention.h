// The entry points of a CPU kernel unit: checks the call, chooses the skeleton, runs its items.
#pragma once

#include <exception>

#include "kernels/cpu_decode.h"
#include "kernels/cpu_forward.h"
#include "kernels/cpu_instance.h"
#include "kernels/cpu_problem.h"
#include "kernels/cpu_schedule.h"
#include "kernels/cpu_selected.h"
#include "kernels/cpu_tiles.h"
#include "kernels/cpu_transforms.h"
#include "kernels/cpu_variant.h"

namespace attnlang::cpu {

// 0, or -1 and a message in `error` (kErrorSize).
template <class Variant, class Element, int kD, int kDV>
int run(const Call& call, char* error) {
  static_assert(check_instance<Variant, Element, kD, kDV>());
  error[0] = '\0';
  if (call.packed != nullptr) return fail(error, "this kernel runs no packed calls");
  if (check_call<Variant, Element, kD, kDV>(call, error) != 0) return -1;
  const Problem<Element> problem(call);
  problem.start_max();
  if (problem.batch == 0 || problem.heads == 0 || problem.queries == 0) return 0;
  try {
    const typename Variant::Params params = Variant::params(call);
    if (call.kv_indices.data != nullptr) {
      if (check_selection(call, error) != 0) return -1;
      const Selected<Variant, Element, kD, kDV> selected(problem, params);
      return run_items(selected, selected.columns(), kDecodeKeys, false, error);
    }
    const bool uneven = Variant::kMask || call.kv_lens.data != nullptr;
    if (problem.queries <= kDecodeQueries) {
      const Decode<Variant, Element, kD, kDV> decode(problem, params);
      return run_items(decode, problem.keys, kDecodeKeys, uneven, error);
    }
    Forward<Variant, Element, kD, kDV> forward(problem, params);
    forward.prepare();
    return run_items(forward, problem.keys, kKeyTile, uneven, error);
  } catch (const std::exception& exception) {
    return fail(error, "%s", exception.what());
  }
}

// How many tiles of 64 queries x 64 keys a call visits.
template <class Variant, class Element, int kD, int kDV>
int count_tiles(const Call& call, TileCounts* counts, char* error) {
  static_assert(check_instance<Variant, Element, kD, kDV>());
  error[0] = '\0';
  *counts = {.full = 0, .partial = 0, .empty = 0, .query_tile = kQueryTile, .key_tile = kKeyTile};
  if (check_call<Variant, Element, kD, kDV>(call, error) != 0) return -1;
  const Problem<Element> problem(call);
  const typename Variant::Params params = Variant::params(call);
  const int64_t key_tiles = (problem.keys + kKeyTile - 1) / kKeyTile;
  for (int64_t b = 0; b < problem.batch; ++b) {
    for (int64_t h = 0; h < problem.heads; ++h) {
      const auto request = problem.template request<Variant>(params, b, h);
      for (int64_t q0 = 0; q0 < problem.queries; q0 += kQueryTile) {
        const int64_t q1 = std::min<int64_t>(q0 + kQueryTile, problem.queries);
        const auto verdict_of = [&](int64_t k0, int64_t k1) {
          return tile_verdict<Variant>(request, q0, q1, k0, k1);
        };
        int64_t visited = 0;
        const auto count = [&](int64_t k0, int64_t k1, Verdict v) {
          const int64_t tiles = (k1 - k0 + kKeyTile - 1) / kKeyTile;
          (is_full(v) ? counts->full : counts->partial) += tiles;
          visited += tiles;
        };
        cover_tiles(tile_coverage<Variant>(request, q0, q1), 0, problem.kv_len(b), kKeyTile,
                    verdict_of, count);
        counts->empty += key_tiles - visited;
      }
    }
  }
  return 0;
}

}  // namespace attnlang::cpu
