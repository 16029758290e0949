// A CUDA unit of packed calls on mma.sync, of sm_80 and later.
#pragma once

#include <cstdint>

#include "attnlang/host/call.h"
#include "kernels/cuda_packed.cuh"
#include "kernels/sm80_attention.cuh"

namespace attnlang::cuda {

template <class Variant, class Element, int kD, int kDV, class Tiles, class PageElement>
struct Sm80Packed {
  using Kernel = Sm80Forward<Variant, Element, kD, kDV, with_pages(forward_shape<Tiles, kDV>()),
                             Held<Variant, Element, PageElement>>;
  using Many = PackedLaunch<Kernel, ManyRows<Kernel::kRows>, Variant, Element>;
  using Attention =
      PackedAttention<Variant, Element, kD, kDV, Many, Tiles::kLargeShared, PageElement>;
};

// Bytes that `sm80_packed_run` needs in the call's workspace. `Tiles`: those of the skeleton for
// many rows, and kLargeShared, as `Decode` has it.
template <class Variant, class Element, int kD, int kDV, class Tiles, class PageElement>
int64_t sm80_packed_workspace(const Call& call) {
  return Sm80Packed<Variant, Element, kD, kDV, Tiles, PageElement>::Attention::workspace(call);
}

// 0, or -1 and a message in `error` (kErrorSize).
template <class Variant, class Element, int kD, int kDV, class Tiles, class PageElement>
int sm80_packed_run(const Call& call, char* error) {
  return Sm80Packed<Variant, Element, kD, kDV, Tiles, PageElement>::Attention::run(call, error);
}

}  // namespace attnlang::cuda
