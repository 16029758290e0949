// CTAs that wait for others: those run on other CPU threads, or have run.
#pragma once

#include <unistd.h>

#include <atomic>

#include "attnlang/emulator/tma.h"

namespace attnlang::emulator {

// The thread polls: others of its CTA run meanwhile, and where none can, other CTAs get time.
inline void wait_for_turn(const uint32_t* counter, uint32_t turn) {
  Cta& c = cta();
  const auto passed = [&] {
    return std::atomic_ref<uint32_t>(*const_cast<uint32_t*>(counter)).load();
  };
  for (uint32_t now = passed(); now != turn; now = passed()) {
    if (now > turn) {
      c.fail("wait_for_turn: turn %u is over, %u blocks have had theirs", turn, now);
    }
    ThreadSet nobody;
    c.poll(nobody, "wait_for_turn(%lld), %lld blocks have had theirs", turn, now);
    usleep(1000);  // <thread>'s clocks do not compile beside CUDA's words
  }
}

inline void pass_turn(uint32_t* counter) {
  Cta& c = cta();
  if (!c.thread().stores.pending.empty()) {
    c.fail("pass_turn: copies of this thread have not completed: tma_store_wait<0> is missing");
  }
  std::atomic_ref<uint32_t>(*counter).fetch_add(1);
}

}  // namespace attnlang::emulator
