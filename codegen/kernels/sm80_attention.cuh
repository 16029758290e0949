// The door of a CUDA unit on mma.sync: checks the call, makes transformed rows, and enqueues the
// skeleton that suits it. Nothing here waits for the device or allocates; the workspace holds
// whatever a launch leaves for a later one, and its size depends on shapes alone.
#pragma once

#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/host/call.h"
#include "kernels/cuda_decode.cuh"
#include "kernels/cuda_items.cuh"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_transforms.cuh"
#include "kernels/sm80_forward.cuh"

namespace attnlang::cuda {

// Every [b, h] to -inf, before scores raise it.
__global__ void start_max_kernel(const Scalars max, int heads, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) *max.at(i / heads, i % heads) = -kInfinity;
}

template <class Element>
const char* start_max(const Problem<Element>& problem, void* stream) {
  constexpr int kThreads = 128;
  if (problem.max.data == nullptr) return nullptr;
  const int count = problem.batch * problem.heads;
  const dim3 grid(static_cast<unsigned>((count + kThreads - 1) / kThreads));
  return launch(start_max_kernel, grid, kThreads, 0, stream, problem.max, problem.heads, count);
}

// `Tiles`: kQueryTile rows and kKeyTile keys of a tile, kStages of them in flight, kWarps of a
// block, kBlocks of these on a multiprocessor at least.
template <class Tiles, int kDV>
constexpr Sm80Shape forward_shape() {
  constexpr int kValueWarps = (kDV + 255) / 256;
  constexpr int kRowWarps = Tiles::kWarps / kValueWarps;
  static_assert(Tiles::kWarps % kValueWarps == 0, "value warps share out the entries of v");
  static_assert(Tiles::kQueryTile % (16 * kRowWarps) == 0, "a warp's rows are whole tiles of 16");
  return {.row_warps = kRowWarps,
          .key_warps = 1,
          .value_warps = kValueWarps,
          .row_tiles = Tiles::kQueryTile / (16 * kRowWarps),
          .key_tile = Tiles::kKeyTile,
          .stages = Tiles::kStages,
          .blocks = Tiles::kBlocks,
          .packed = false};
}

template <class Variant, class Element, int kD, int kDV, class Tiles>
const char* run_forward(const Call& call, Workspace& workspace, const Problem<Element>* problem) {
  using Kernel = Sm80Forward<Variant, Element, kD, kDV, forward_shape<Tiles, kDV>()>;
  const int64_t batch = call.q.size[0], heads = call.q.size[1], queries = call.q.size[2];
  const int64_t kv_heads = call.k.size[1], keys = call.k.size[2];
  const int64_t tiles = (queries + Kernel::kRows - 1) / Kernel::kRows;
  const int64_t items = batch * heads * tiles;
  const Parts parts = take_parts<kDV>(workspace, items, Kernel::kRows,
                                      (keys + Kernel::kKeyTile - 1) / Kernel::kKeyTile);
  if (problem == nullptr) return nullptr;
  const int64_t kv_bytes = keys * (kD + kDV) * static_cast<int64_t>(sizeof(Element));
  const Work<Variant, Element> work{.problem = *problem,
                                    .arguments = Variant::arguments(call),
                                    .order = TileOrder::of(batch, heads, kv_heads, tiles, kv_bytes),
                                    .unit = 1,
                                    .chunks = 1,
                                    .parts = parts,
                                    .selection = {}};
  return launch_items<Kernel>(work, items, call.stream);
}

// Takes the workspace's pieces in order and, unless `problem` is null, enqueues everything.
template <class Variant, class Element, int kD, int kDV, class Tiles>
const char* sm80_enqueue(const Call& call, Workspace& workspace, Problem<Element>* problem) {
  const char* wrong = transform<Variant, Element, kD, kDV>(call, workspace, problem);
  if (wrong != nullptr) return wrong;
  if (Decode<Variant, Element, kD, kDV>::takes(call)) {
    return Decode<Variant, Element, kD, kDV>::run(call, workspace, problem);
  }
  return run_forward<Variant, Element, kD, kDV, Tiles>(call, workspace, problem);
}

inline bool has_no_rows(const Call& call) {
  return call.q.size[0] == 0 || call.q.size[1] == 0 || call.q.size[2] == 0;
}

// Bytes that `sm80_run` needs in the call's workspace.
template <class Variant, class Element, int kD, int kDV, class Tiles>
int64_t sm80_workspace(const Call& call) {
  if (has_no_rows(call)) return 0;
  Workspace workspace(nullptr);
  sm80_enqueue<Variant, Element, kD, kDV, Tiles>(call, workspace, nullptr);
  return workspace.used();
}

// 0, or -1 and a message in `error` (kErrorSize).
template <class Variant, class Element, int kD, int kDV, class Tiles>
int sm80_run(const Call& call, char* error) {
  error[0] = '\0';
  if (check_call<Variant, Element, kD, kDV>(call, error) != 0) return -1;
  if (call.kv_indices.data != nullptr && Selection::check(call, error) != 0) return -1;
  if (has_no_rows(call)) {
    const char* wrong = start_max(problem_of<Variant, Element>(call), call.stream);
    return wrong == nullptr ? 0 : fail(error, "%s", wrong);
  }
  const int64_t needed = sm80_workspace<Variant, Element, kD, kDV, Tiles>(call);
  if (call.workspace_bytes < needed) {
    return fail(error, "a workspace of %" PRId64 " bytes is needed, got %" PRId64, needed,
                call.workspace_bytes);
  }
  Problem<Element> problem = problem_of<Variant, Element>(call);
  const char* wrong = start_max(problem, call.stream);
  Workspace workspace(call.workspace);
  if (wrong == nullptr) {
    wrong = sm80_enqueue<Variant, Element, kD, kDV, Tiles>(call, workspace, &problem);
  }
  return wrong == nullptr ? 0 : fail(error, "%s", wrong);
}

}  // namespace attnlang::cuda
