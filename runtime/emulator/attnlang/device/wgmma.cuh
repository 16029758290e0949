// The emulator's twin of attnlang/device/wgmma.cuh, which says what these do.
#pragma once

#include "attnlang/device/ptx.cuh"
#include "attnlang/emulator/wgmma.h"

namespace attnlang::cuda {

inline uint64_t matrix_descriptor(const void* shared, int leading_bytes, int stride_bytes) {
  return (uint64_t{1} << 62) | (uint64_t((stride_bytes & 0x3ffff) >> 4) << 32) |
         (uint64_t((leading_bytes & 0x3ffff) >> 4) << 16) |
         uint64_t((shared_address(shared) & 0x3ffff) >> 4);
}

inline uint64_t moved(uint64_t descriptor, int bytes) {
  const uint32_t low = static_cast<uint32_t>(descriptor) + static_cast<uint32_t>(bytes >> 4);
  return (descriptor >> 32 << 32) | low;
}

inline void wgmma_fence() { emulator::cta().thread().products.fenced = true; }
inline void wgmma_commit() { emulator::commit_products(); }
template <int kPending>
void wgmma_wait() {
  emulator::wait_products(kPending);
}
template <int kCount>
void fence_registers(float (&)[kCount]) {}

template <class Element, int kN, bool kTransposeB>
void wgmma_ss(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(kN == 32 || (kN >= 64 && kN <= 256 && kN % 16 == 0));
  emulator::issue_product(d, kN, a, nullptr, b, kTransposeB, std::is_same_v<Element, Half>,
                          accumulate);
}
template <class Element, int kN, bool kTransposeB>
void wgmma_rs(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  static_assert(kN == 32 || (kN >= 64 && kN <= 256 && kN % 16 == 0));
  emulator::issue_product(d, kN, 0, a, b, kTransposeB, std::is_same_v<Element, Half>, accumulate);
}

}  // namespace attnlang::cuda
