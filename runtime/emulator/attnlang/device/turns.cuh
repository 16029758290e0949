// The emulator's twin of attnlang/device/turns.cuh, which says what these do.
#pragma once

#include "attnlang/device/ptx.cuh"
#include "attnlang/emulator/turns.h"

namespace attnlang::cuda {

inline void wait_for_turn(const uint32_t* counter, uint32_t turn) {
  emulator::wait_for_turn(counter, turn);
}
inline void pass_turn(uint32_t* counter) { emulator::pass_turn(counter); }

}  // namespace attnlang::cuda
