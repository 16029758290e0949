// cp.async: copies that happen at their wait, at an arrival that somebody waits for, or before.
#pragma once

#include "attnlang/emulator/barriers.h"

namespace attnlang::emulator {

inline void issue_copy(void* shared, const void* global, uint32_t bytes, bool valid) {
  Cta& c = cta();
  checked_offset("cp_async", shared, bytes, bytes);
  if (valid && reinterpret_cast<uintptr_t>(global) % bytes != 0) {
    c.fail("cp_async: the address in global memory is not a multiple of %u bytes", bytes);
  }
  if (valid && global == nullptr) c.fail("cp_async: from a null pointer");
  CopyQueue& queue = c.thread().copies;
  queue.pending.push_back({.to = static_cast<std::byte*>(shared),
                           .from = valid ? static_cast<const std::byte*>(global) : nullptr,
                           .bytes = bytes,
                           .barrier = 0,
                           .group = queue.open_group});
}

// The oldest copy or arrival of a thread.
inline void complete_copy(Cta& c, Thread& thread) {
  const Copy copy = thread.copies.pending.front();
  thread.copies.pending.pop_front();
  if (copy.to == nullptr) {
    advance_mbarrier("cp_async_arrive", copy.barrier, 1, 0);
    return;
  }
  if (copy.from == nullptr) std::memset(copy.to, 0, copy.bytes);
  else std::memcpy(copy.to, copy.from, copy.bytes);
  c.shared().record_write(c.shared().offset(copy.to), copy.bytes, thread.number, c.tick());
}

inline void commit_copies() { ++cta().thread().copies.open_group; }

inline void wait_copies(int pending_groups) {
  Cta& c = cta();
  Thread& me = c.thread();
  CopyQueue& queue = me.copies;
  while (!queue.pending.empty() &&
         queue.pending.front().group + static_cast<uint64_t>(pending_groups) < queue.open_group) {
    complete_copy(c, me);
  }
}

inline void arrive_after_copies(uint64_t* barrier) {
  Cta& c = cta();
  const uint32_t offset = checked_offset("cp_async_arrive", barrier, 8, 8);
  mbarrier_at("cp_async_arrive", offset);
  CopyQueue& queue = c.thread().copies;
  queue.pending.push_back(
      {.to = nullptr, .from = nullptr, .bytes = 0, .barrier = offset, .group = queue.open_group});
}

// One copy, or all up to the next arrival; false where there is none.
inline bool advance_copies(Cta& c, Thread& thread, bool to_an_arrival) {
  CopyQueue& queue = thread.copies;
  if (!to_an_arrival) {
    if (queue.pending.empty()) return false;
    complete_copy(c, thread);
    return true;
  }
  size_t arrival = 0;
  while (arrival < queue.pending.size() && queue.pending[arrival].to != nullptr) ++arrival;
  if (arrival == queue.pending.size()) return false;
  for (size_t i = 0; i <= arrival; ++i) complete_copy(c, thread);
  return true;
}

}  // namespace attnlang::emulator
