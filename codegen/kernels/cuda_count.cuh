// How many tiles a call visits: a thread for each tile of query rows.
#pragma once

#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/host/call.h"
#include "attnlang/host/target.h"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_tiles.cuh"

namespace attnlang::cuda {

template <class Variant, class Element>
struct Counted {
  Problem<Element> problem;
  typename Variant::Arguments arguments;
  TileCounts* counts;  // zeros
  int32_t query_tile, key_tile;
};

constexpr int kCountThreads = 128;

template <class Variant, class Element>
__global__ void __launch_bounds__(kCountThreads)
    count_kernel(const __grid_constant__ Counted<Variant, Element> counted) {
  const Problem<Element>& problem = counted.problem;
  const int query_tile = counted.query_tile, key_tile = counted.key_tile;
  const int tiles = (problem.queries + query_tile - 1) / query_tile;
  const int64_t index = int64_t{blockIdx.x} * kCountThreads + threadIdx.x;
  if (index == 0) counted.counts->query_tile = query_tile, counted.counts->key_tile = key_tile;
  if (index >= int64_t{problem.batch} * problem.heads * tiles) return;
  const int q0 = static_cast<int>(index % tiles) * query_tile;
  const int q1 = q0 + query_tile < problem.queries ? q0 + query_tile : problem.queries;
  const int head = static_cast<int>(index / tiles);
  const int b = head / problem.heads, h = head % problem.heads;
  const typename Variant::Params params = Variant::params(counted.arguments);
  const auto request = problem.template request<Variant>(params, b, h, q0);
  const int length = problem.kv_len(b);
  unsigned long long full = 0, partial = 0;
  for (int k0 = 0; k0 < length; k0 += key_tile) {
    const int k1 = k0 + key_tile < length ? k0 + key_tile : length;
    const Verdict verdict = tile_verdict<Variant>(request, q0, q1, k0, k1);
    full += is_full(verdict);
    partial += is_unknown(verdict);
  }
  const unsigned long long all = (problem.keys + key_tile - 1) / key_tile;
  auto* sums = reinterpret_cast<unsigned long long*>(counted.counts);
  atomicAdd(sums, full);
  atomicAdd(sums + 1, partial);
  atomicAdd(sums + 2, all - full - partial);
}

// 0, or -1 and a message in `error` (kErrorSize); `counts` lies in the GPU's memory.
template <class Variant, class Element, int kD, int kDV, class Tiles>
int count_tiles(const Call& call, TileCounts* counts, char* error) {
  error[0] = '\0';
  if (check_call<Variant, Element, kD, kDV>(call, error) != 0) return -1;
  const char* wrong = fill_bytes(counts, 0, sizeof(TileCounts), call.stream);
  const Counted<Variant, Element> counted{.problem = problem_of<Variant, Element>(call),
                                          .arguments = Variant::arguments(call),
                                          .counts = counts,
                                          .query_tile = Tiles::kQueryTile,
                                          .key_tile = Tiles::kKeyTile};
  const int64_t tiles = (call.q.size[2] + Tiles::kQueryTile - 1) / Tiles::kQueryTile;
  const int64_t items = call.q.size[0] * call.q.size[1] * tiles;
  if (wrong == nullptr) {
    const dim3 grid(static_cast<unsigned>(items / kCountThreads + 1));
    wrong = launch(count_kernel<Variant, Element>, grid, kCountThreads, 0, call.stream, counted);
  }
  return wrong == nullptr ? 0 : fail(error, "%s", wrong);
}

}  // namespace attnlang::cuda
