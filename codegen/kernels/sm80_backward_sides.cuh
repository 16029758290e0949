// The two sides of a backward with mma.sync: one launch for keys and values, then those for
// queries.
#pragma once

#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/host/call.h"
#include "attnlang/host/gradients.h"
#include "kernels/cuda_gradient_sums.cuh"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_transforms.cuh"
#include "kernels/sm80_backward.cuh"

namespace attnlang::cuda {

// `Tiles`: kKeyRows keys of a block that go through tiles of kQueryTile rows, kKeySplit warps
// beside each other; kQueryRows, kKeyTile and kQuerySplit the other way.
template <class Variant, class Element, int kD, int kDV, class Tiles>
class Sm80Sides {
  static constexpr BackwardShape kKeyShape{Tiles::kKeyRows, Tiles::kQueryTile, Tiles::kKeySplit};
  static constexpr BackwardShape kQueryShape{Tiles::kQueryRows, Tiles::kKeyTile,
                                             Tiles::kQuerySplit};
  using Sums = GradientSums<Variant>;

 public:
  template <Side kSide, bool kSums>
  using Kernel = Sm80Backward<Variant, Element, kD, kDV,
                              kSide == Side::keys ? kKeyShape : kQueryShape, kSide, kSums>;
  static constexpr bool kPacked = false;
  using Work = BackwardWork<Variant, Element>;

  // Needs no workspace; without `work` nothing is enqueued. Kernels that add up what elements give
  // to parameters (`sums`) are others: what is not wanted takes no registers.
  static const char* run(const Call& call, const Gradients& gradients, Workspace&, const Work* work,
                         bool sums) {
    if (work == nullptr) return nullptr;
    if constexpr (Variant::Partials::kOfElements) {
      if (sums) return run<true>(call, gradients, *work);
    }
    return run<false>(call, gradients, *work);
  }

 private:
  // What the queries find out about a row's sums, keys take as given.
  template <bool kSums>
  static const char* run(const Call& call, const Gradients& gradients, const Work& work) {
    const char* wrong = run_queries<kSums>(call, gradients, work);
    return wrong == nullptr ? run_keys<kSums>(call, work) : wrong;
  }

  template <bool kSums>
  static const char* run_keys(const Call& call, Work work) {
    const int64_t rows = kKeyShape.rows, bytes = call.q.size[2] * (kD + kDV) * 2;
    const int64_t tiles = (call.k.size[2] + rows - 1) / rows, heads = call.k.size[1];
    if (heads == 0) return nullptr;  // without heads of queries, keys still get zeros
    work.order = TileOrder::of(call.k.size[0], heads, heads, tiles, bytes);
    return start<Kernel<Side::keys, kSums>>(call, work);
  }

  template <bool kSums>
  static const char* run_queries(const Call& call, const Gradients& gradients, Work work) {
    const bool by_request = kSums && Sums::apart(gradients, true);
    const bool by_head = kSums && Sums::apart(gradients, false);
    const int batch = work.problem.batch, heads = work.problem.heads;
    if (heads == 0) return nullptr;
    const int requests_each = by_request ? 1 : batch, heads_each = by_head ? 1 : heads;
    const int64_t rows = kQueryShape.rows, bytes = call.k.size[2] * (kD + kDV) * 2;
    const int64_t tiles = (call.q.size[2] + rows - 1) / rows;
    const int group = by_head ? 1 : work.problem.group();
    const char* wrong = nullptr;
    for (int b = 0; b < batch; b += requests_each) {
      for (int h = 0; h < heads && wrong == nullptr; h += heads_each) {
        work.first_b = b, work.first_h = h, work.heads = heads_each;
        work.order = TileOrder::of(requests_each, heads_each, heads_each / group, tiles, bytes);
        wrong = start<Kernel<Side::queries, kSums>>(call, work);
      }
    }
    return wrong;
  }

  template <class K>
  static const char* start(const Call& call, const Work& work) {
    const int64_t items = work.order.items();
    if (items == 0) return nullptr;
    return launch(sm80_backward_kernel<K>, dim3(static_cast<unsigned>(items)), K::kThreads,
                  K::kSharedBytes, call.stream, work);
  }
};

}  // namespace attnlang::cuda
