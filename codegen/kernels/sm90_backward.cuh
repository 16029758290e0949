// The gradients of q, k and v on Hopper, a block of keys a CTA: a warp that loads, warps that have
// sums of queries added, and warpgroups that multiply (sm90_backward_consumer.cuh).
#pragma once

#include "attnlang/device/mbarrier.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/host/target.h"
#include "kernels/sm90_backward_consumer.cuh"
#include "kernels/sm90_backward_layout.cuh"
#include "kernels/sm90_backward_loader.cuh"
#include "kernels/sm90_backward_queries.cuh"

namespace attnlang::cuda::sm90 {

template <class Variant_, class Element, int kD, int kDV, BackwardBlock kBlock>
struct BackwardKernel {
  using Variant = Variant_;
  using L = BackwardLayout<kD, kDV, kBlock>;
  using Work = HopperWork<Variant, Element>;
  using Loader = BackwardLoader<Variant, Element, L>;
  using Consumer = BackwardConsumer<Variant, Element, kD, kDV, L>;

  static ATTNLANG_DEVICE void run(const BackwardMaps& maps, const Work& work) {
    const L layout{dynamic_shared<char>()};
    start(layout, work);
    const auto params = Variant::params(work.arguments);
    const int group = warp_index() / 4;
    if (group == 0) {
      if constexpr (L::kHandsOver) registers_decrease<L::kProducerRegisters>();
      if (warp_index() == 0) {
        Loader loader(layout, maps, work);
        loader.load_rows();
        loader.run();
      } else if (warp_index() <= L::kConsumers) {
        add_sums<Variant, Element>(layout, work, warp_index() - 1);
      }
    } else {
      if constexpr (L::kHandsOver) registers_increase<L::kConsumerRegisters>();
      Consumer(layout, work, params, group - 1).run();
    }
  }

 private:
  static ATTNLANG_DEVICE void start(L layout, const Work& work) {
    auto& control = layout.control();
    if (threadIdx.x == 0) {
      mbarrier_init(&control.rows_full, 1);
      mbarrier_init(&control.rows_empty, L::kConsumers * 4);
      mbarrier_init(&control.landed, 1);
      for (int stage = 0; stage < L::kStages; ++stage) {
        mbarrier_init(&control.first_full[stage], 1);
        mbarrier_init(&control.second_full[stage], 1);
        mbarrier_init(&control.empty[stage], L::kConsumers * 4);
      }
      for (int buffer = 0; buffer < 2; ++buffer) {
        mbarrier_init(&control.slopes_full[buffer], L::kConsumers * 4);
      }
      for (int group = 0; group < L::kConsumers; ++group) {
        mbarrier_init(&control.sums_full[group], 4);
        mbarrier_init(&control.sums_empty[group], 1);
      }
      mbarrier_init_fence();
    }
    if (threadIdx.x == kWarp) {
      control.place = BlockPlace::of(work, static_cast<int>(blockIdx.x), L::kRows);
    }
    __syncthreads();
  }
};

template <class Kernel>
__global__ void __launch_bounds__(Kernel::L::kThreads, 1)
    backward(const __grid_constant__ BackwardMaps maps,
             const __grid_constant__ typename Kernel::Work work) {
  Kernel::run(maps, work);
}

}  // namespace attnlang::cuda::sm90
