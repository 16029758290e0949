// The emulator's twin of attnlang/device/mbarrier.cuh, which says what these do.
#pragma once

#include "attnlang/device/ptx.cuh"

namespace attnlang::cuda {

inline void mbarrier_init(uint64_t* barrier, int count) { emulator::init_mbarrier(barrier, count); }
inline void mbarrier_init_fence() {}
inline void mbarrier_arrive(uint64_t* barrier) {
  const uint32_t offset = emulator::checked_offset("mbarrier_arrive", barrier, 8, 8);
  emulator::advance_mbarrier("mbarrier_arrive", offset, 1, 0);
}
inline void mbarrier_expect(uint64_t* barrier, int bytes) {
  const uint32_t offset = emulator::checked_offset("mbarrier_expect", barrier, 8, 8);
  emulator::advance_mbarrier("mbarrier_expect", offset, 1, bytes);
}
inline bool mbarrier_try_wait(uint64_t* barrier, int parity) {
  return emulator::try_wait_mbarrier(barrier, parity);
}
inline void mbarrier_wait(uint64_t* barrier, int parity) {
  emulator::wait_mbarrier(barrier, parity);
}
inline void cp_async_arrive(uint64_t* barrier) { emulator::arrive_after_copies(barrier); }

inline void fence_async_shared() {
  emulator::Cta& c = emulator::cta();
  c.last_fence = c.thread().last_fence = c.tick();
}

template <int kRegisters>
void registers_increase() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  emulator::change_registers("registers_increase", kRegisters, true);
}
template <int kRegisters>
void registers_decrease() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  emulator::change_registers("registers_decrease", kRegisters, false);
}

}  // namespace attnlang::cuda
