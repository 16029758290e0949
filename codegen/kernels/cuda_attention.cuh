// The door of a CUDA unit: checks the call, makes transformed rows, and enqueues the skeleton that
// suits it. Nothing here waits for the device or allocates; the workspace holds whatever a launch
// leaves for a later one, and its size depends on shapes, strides and alignment alone.
#pragma once

#include <cinttypes>
#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/host/call.h"
#include "kernels/cuda_decode.cuh"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_transforms.cuh"

namespace attnlang::cuda {

// Every [b, h] to -inf, before scores raise it. Each unit of an object has its own.
[[maybe_unused]] static __global__ void start_max_kernel(const Scalars max, int heads, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) *max.at(i / heads, i % heads) = -kInfinity;
}

template <class Element>
const char* start_max(const Problem<Element>& problem, void* stream) {
  constexpr int kThreads = 128;
  const int count = problem.batch * problem.heads;
  if (problem.max.data == nullptr || count == 0) return nullptr;
  const dim3 grid(static_cast<unsigned>((count + kThreads - 1) / kThreads));
  return launch(start_max_kernel, grid, kThreads, 0, stream, problem.max, problem.heads, count);
}

inline bool has_no_rows(const Call& call) {
  return call.q.size[0] == 0 || call.q.size[1] == 0 || call.q.size[2] == 0;
}

// `Forward`: the architecture's skeleton for many query rows. Its `run(call, workspace, problem)`
// takes its pieces of the workspace and, unless `problem` is null, enqueues; null, or what is
// wrong. `kLargeShared`: whether the architecture gives a block 200 KiB of shared memory.
template <class Variant, class Element, int kD, int kDV, class Forward>
class Attention {
  using FewRows = Decode<Variant, Element, kD, kDV, Forward::kLargeShared>;

 public:
  // Bytes that `run` needs in the call's workspace.
  static int64_t workspace(const Call& call) {
    if (has_no_rows(call)) return 0;
    Workspace workspace(nullptr);
    enqueue(call, workspace, nullptr);
    return workspace.used();
  }

  // 0, or -1 and a message in `error` (kErrorSize).
  static int run(const Call& call, char* error) {
    error[0] = '\0';
    if (check_call<Variant, Element, kD, kDV>(call, error) != 0) return -1;
    if (call.kv_indices.data != nullptr && Selection::check(call, error) != 0) return -1;
    Problem<Element> problem = problem_of<Variant, Element>(call);
    const int64_t needed = workspace(call);
    if (call.workspace_bytes < needed) {
      return fail(error, "a workspace of %" PRId64 " bytes is needed, got %" PRId64, needed,
                  call.workspace_bytes);
    }
    Workspace pieces(call.workspace);
    const char* wrong = start_max(problem, call.stream);
    if (wrong == nullptr && !has_no_rows(call)) wrong = enqueue(call, pieces, &problem);
    return wrong == nullptr ? 0 : fail(error, "%s", wrong);
  }

 private:
  // Takes the workspace's pieces in order and, unless `problem` is null, enqueues everything.
  static const char* enqueue(const Call& call, Workspace& workspace, Problem<Element>* problem) {
    const char* wrong = transform<Variant, Element, kD, kDV>(
        call, workspace, problem, DensePasses<Variant, Element, kD, kDV>{});
    if (wrong != nullptr) return wrong;
    if (FewRows::takes(call)) return FewRows::run(call, workspace, problem);
    return Forward::run(call, workspace, problem);
  }
};

}  // namespace attnlang::cuda
