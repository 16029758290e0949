// Blocks that take turns at a place of global memory: a counter says how many have had theirs.
//
// A block may wait only for blocks before it in the grid, which start before it does: then some
// block can always go on.
#pragma once

#include <cstdint>

namespace attnlang::cuda {

// By one thread: until `turn` blocks have had theirs. What they wrote is seen then, and what this
// thread has the copy engine do comes after it.
__device__ __forceinline__ void wait_for_turn(const uint32_t* counter, uint32_t turn) {
  uint32_t passed;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(passed) : "l"(counter) : "memory");
  } while (passed != turn);
  asm volatile("fence.proxy.async.global;" ::: "memory");
}
// By the thread whose turn it was, once tma_store_wait has seen its copies complete.
__device__ __forceinline__ void pass_turn(uint32_t* counter) {
  asm volatile("fence.proxy.async.global;\nred.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter)
               : "memory");
}

}  // namespace attnlang::cuda
