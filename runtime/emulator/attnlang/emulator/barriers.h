// Barriers of a CTA: __syncthreads, named barriers, mbarriers; registers handed between warps.
#pragma once

#include "attnlang/emulator/warp.h"

namespace attnlang::emulator {

// --- __syncthreads and named barriers ---

inline void complete(Cta& c, int id) {
  NamedBarrier& barrier = c.named_barriers[id];
  if (id != 0) {
    for (size_t w = 0; w < c.warps().size(); ++w) {
      const uint32_t lanes = barrier.joined.lanes[w];
      if (lanes != 0 && lanes != kFullMask) {
        c.fail("named barrier %d: only lanes %08x of warp %zu take part; warps must whole", id,
               lanes, w);
      }
    }
  }
  ThreadSet waiting = barrier.waiting;
  barrier = {};
  c.wake(waiting);
}

// The threads that have exited do not count at __syncthreads.
inline void leave_barriers(Cta& c) {
  NamedBarrier& barrier = c.named_barriers[0];
  if (barrier.arrived != 0 && barrier.arrived == c.live_threads()) complete(c, 0);
}

inline void join_barrier(const char* operation, int id, int threads, bool wait) {
  Cta& c = cta();
  Thread& me = c.thread();
  NamedBarrier& barrier = c.named_barriers[id];
  if (barrier.joined.has(me.number)) {
    c.fail("%s: the thread arrives a second time before barrier %d completes", operation, id);
  }
  if (barrier.arrived == 0) barrier.expected = threads;
  if (id != 0 && barrier.expected != threads) {
    c.fail("%s: barrier %d is for %d threads here and for %d elsewhere", operation, id, threads,
           barrier.expected);
  }
  barrier.joined.add(me.number);
  ++barrier.arrived;
  if (barrier.arrived == (id == 0 ? c.live_threads() : threads)) {
    complete(c, id);
  } else if (wait) {
    barrier.waiting.add(me.number);
    if (id == 0) c.block("__syncthreads");
    else c.block("named_barrier_sync(%lld, %lld)", id, threads);
  }
}

inline void join_named_barrier(const char* operation, int id, int threads, bool wait) {
  Cta& c = cta();
  if (id < 1 || id > 15) c.fail("%s: barrier %d; named barriers are 1 to 15", operation, id);
  if (threads <= 0 || threads % 32 != 0 || threads > c.threads_per_cta()) {
    c.fail("%s: %d threads at barrier %d of a CTA of %d; whole warps are expected", operation,
           threads, id, c.threads_per_cta());
  }
  join_barrier(operation, id, threads, wait);
}

// --- mbarriers ---

constexpr uint64_t kBarrierMark = 0x6d62617272696572u;  // what stands in their memory

inline uint32_t checked_offset(const char* operation, const void* p, size_t bytes,
                               size_t alignment) {
  Cta& c = cta();
  if (!c.shared().holds(p, bytes)) {
    c.fail("%s: the address is not in the %u bytes of shared memory of the CTA", operation,
           c.shared().bytes());
  }
  const uint32_t offset = c.shared().offset(p);
  if (offset % alignment != 0) {
    c.fail("%s: shared + %u is not a multiple of %zu bytes", operation, offset, alignment);
  }
  return offset;
}

inline void init_mbarrier(uint64_t* barrier, int count) {
  Cta& c = cta();
  const uint32_t offset = checked_offset("mbarrier_init", barrier, 8, 8);
  if (count < 1 || count >= (1 << 20)) c.fail("mbarrier_init: a count of %d", count);
  if (c.mbarriers.contains(offset)) c.fail("mbarrier_init: shared + %u is one already", offset);
  c.mbarriers[offset] =
      Mbarrier{.count = count, .pending = count, .bytes = 0, .phase = 0, .waiting = {}};
  *barrier = kBarrierMark ^ offset;
}

inline Mbarrier& mbarrier_at(const char* operation, uint32_t offset) {
  Cta& c = cta();
  const auto found = c.mbarriers.find(offset);
  if (found == c.mbarriers.end()) {
    c.fail("%s: no mbarrier was initialised at shared + %u", operation, offset);
  }
  uint64_t mark;
  std::memcpy(&mark, c.shared().base() + offset, 8);
  if (mark != (kBarrierMark ^ offset)) {
    c.fail("%s: the mbarrier at shared + %u was overwritten", operation, offset);
  }
  return found->second;
}

// Takes arrivals and bytes off a phase, which completes where nothing is left.
inline void advance_mbarrier(const char* operation, uint32_t offset, int arrivals, int64_t bytes) {
  Cta& c = cta();
  Mbarrier& barrier = mbarrier_at(operation, offset);
  if (arrivals > barrier.pending) {
    c.fail("%s: one arrival more than the %d of a phase at shared + %u", operation, barrier.count,
           offset);
  }
  barrier.pending -= arrivals;
  barrier.bytes += bytes;
  if (barrier.bytes >= (1 << 20) || barrier.bytes <= -(1 << 20)) {
    c.fail("%s: %lld bytes to come at shared + %u; a barrier counts to 2^20 - 1", operation,
           static_cast<long long>(barrier.bytes), offset);
  }
  if (barrier.pending == 0 && barrier.bytes == 0) {
    ++barrier.phase;
    barrier.pending = barrier.count;
    c.wake(barrier.waiting);
  }
}

inline void wait_mbarrier(const uint64_t* at, int parity) {
  Cta& c = cta();
  const uint32_t offset = checked_offset("mbarrier_wait", at, 8, 8);
  if (parity != 0 && parity != 1) c.fail("mbarrier_wait: a parity of %d", parity);
  Mbarrier& barrier = mbarrier_at("mbarrier_wait", offset);
  if (static_cast<int>(barrier.phase & 1) != parity) return;
  const uint64_t phase = barrier.phase;
  barrier.waiting.add(c.thread().number);
  c.block("mbarrier_wait(shared + %lld, parity %lld)", offset, parity);
  if (barrier.phase > phase + 1) {
    c.fail(
        "mbarrier_wait: the barrier at shared + %u ran ahead by %llu phases while this thread "
        "waited",
        offset, static_cast<unsigned long long>(barrier.phase - phase));
  }
}

inline bool try_wait_mbarrier(const uint64_t* at, int parity) {
  Cta& c = cta();
  const uint32_t offset = checked_offset("mbarrier_try_wait", at, 8, 8);
  if (parity != 0 && parity != 1) c.fail("mbarrier_try_wait: a parity of %d", parity);
  Mbarrier& barrier = mbarrier_at("mbarrier_try_wait", offset);
  if (static_cast<int>(barrier.phase & 1) != parity) return true;
  c.poll(barrier.waiting, "mbarrier_try_wait(shared + %lld, parity %lld)", offset, parity);
  return static_cast<int>(barrier.phase & 1) != parity;
}

// --- setmaxnreg ---

inline void change_registers(const char* operation, int registers, bool increase) {
  Cta& c = cta();
  const bool last = meet<bool>(operation, kFullMask, registers, [](auto& in, auto& out) {
    (void)in;
    for (int l = 0; l < kWarpSize; ++l) to<bool>(out, l) = l == 0;
  });
  Warp& warp = *c.thread().warp;
  if (last) {
    const int change = registers - warp.registers;
    if (increase ? change < 0 : change > 0) {
      c.fail("%s: from %d registers to %d", operation, warp.registers, registers);
    }
    while (increase && change > c.free_registers) {
      c.waiting_for_registers.add(c.thread().number);
      c.block("registers_increase<%lld>, %lld a thread are free", registers, c.free_registers);
    }
    c.free_registers -= change;
    warp.registers = registers;
    if (change < 0) c.wake(c.waiting_for_registers);
  }
  meet<bool>(operation, kFullMask, registers, [](auto&, auto&) {});
}

}  // namespace attnlang::emulator
