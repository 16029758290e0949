// A CTA in emulation: its threads as fibers, who of them may run, and what to say when none can.
//
// All of a CTA runs on one CPU thread, so that between two waits a fiber has the CTA to itself. A
// fiber that must wait calls block(); who makes its condition true calls wake(). Asynchronous work
// is queued with the thread that issued it (copies.h, tma.h, wgmma.h) and completes at its wait, or
// before, where the schedule says so.
#pragma once

#include <array>
#include <bit>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "attnlang/emulator/fiber.h"
#include "attnlang/emulator/queues.h"
#include "attnlang/emulator/schedule.h"
#include "attnlang/emulator/shared_memory.h"

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// What a kernel reads; set for each thread as it runs.
[[gnu::visibility("hidden")]] inline constinit thread_local uint3 threadIdx = {};
[[gnu::visibility("hidden")]] inline constinit thread_local uint3 blockIdx = {};
[[gnu::visibility("hidden")]] inline constinit thread_local dim3 blockDim = {};
[[gnu::visibility("hidden")]] inline constinit thread_local dim3 gridDim = {};

namespace attnlang::emulator {

constexpr int kWarpSize = 32, kMaxWarps = 32, kMaxThreads = kWarpSize * kMaxWarps;

// A set of threads of a CTA: a mask of lanes a warp.
struct ThreadSet {
  std::array<uint32_t, kMaxWarps> lanes = {};
  bool has(int thread) const { return (lanes[thread / 32] >> (thread % 32)) & 1; }
  void add(int thread) { lanes[thread / 32] |= 1u << (thread % 32); }
  void remove(int thread) { lanes[thread / 32] &= ~(1u << (thread % 32)); }
  bool empty() const {
    for (uint32_t mask : lanes) {
      if (mask != 0) return false;
    }
    return true;
  }
};

struct Warp;

struct Thread {
  void* stack = nullptr;
  uint3 index = {};
  int number = 0;  // in the CTA
  int lane = 0;
  Warp* warp = nullptr;
  bool done = false;
  // What it waits at: a format for two integers.
  const char* waits_at = "";
  int64_t wait_a = 0, wait_b = 0;
  uint64_t last_fence = 0;  // when it last executed fence_async_shared
  CopyQueue copies;
  StoreQueue stores;
  ProductQueue products;
};

// Lanes of a warp on their way through one collective operation.
struct Meeting {
  uint32_t mask = 0, arrived = 0;
  const void* kind = nullptr;
  const char* operation = nullptr;
  std::array<const void*, kWarpSize> in = {};
  std::array<void*, kWarpSize> out = {};
};

struct Warp {
  int number = 0;
  uint32_t ready = 0, alive = 0;
  int cursor = 0;  // the lane after the last that ran
  std::array<Meeting, 4> meetings = {};
  int registers = 0;  // a thread
  uint64_t products_executed = 0;
};

struct NamedBarrier {
  int expected = 0, arrived = 0;
  ThreadSet joined, waiting;
};

struct Mbarrier {
  int count = 0, pending = 0;
  int64_t bytes = 0;  // still to come
  uint64_t phase = 0;
  ThreadSet waiting;
};

class Cta {
 public:
  Cta(int threads, size_t shared_bytes, const dim3& grid);

  // Runs one CTA to its end. Empty, or what went wrong.
  std::string run(uint64_t linear_index, void (*body)(void*), void* context);

  Thread& thread() { return *current_; }
  std::vector<Thread>& threads() { return threads_; }
  std::vector<Warp>& warps() { return warps_; }
  SharedMemory& shared() { return shared_; }
  Random& random() { return random_; }
  uint64_t tick() { return ++clock_; }
  uint64_t now() const { return clock_; }

  // Another thread runs; this one comes back after wake(). The format takes two integers.
  void block(const char* waits_at, int64_t a = 0, int64_t b = 0) {
    Thread& me = *current_;
    me.waits_at = waits_at;
    me.wait_a = a;
    me.wait_b = b;
    me.warp->ready &= ~(1u << me.lane);
    switch_away();
  }
  void wake(Warp& warp, uint32_t lanes) {
    warp.ready |= lanes;
    if (warp.ready != 0) ready_warps_ |= 1u << warp.number;
  }
  // Wakes and empties a set; that something was waited for is progress.
  void wake(ThreadSet& set) {
    idle_polls_ = 0;
    for (size_t w = 0; w < warps_.size(); ++w) {
      if (set.lanes[w] != 0) wake(warps_[w], set.lanes[w]);
    }
    set = {};
  }
  // Waits until somebody wakes `waiting`, or nothing else can run: a thread that polls.
  void poll(ThreadSet& waiting, const char* waits_at, int64_t a, int64_t b) {
    const int me = current_->number;
    waiting.add(me);
    pollers_.add(me);
    block(waits_at, a, b);
    waiting.remove(me);  // a wake that comes later would be for what it waits at then
    pollers_.remove(me);
  }

  // Ends the CTA with a report that names the thread and what it did.
  [[noreturn, gnu::format(printf, 2, 3)]] void fail(const char* format, ...);
  // The same, about another thread than the running one (null: none).
  [[noreturn, gnu::format(printf, 3, 4)]] void fail_at(const Thread* thread, const char* format,
                                                       ...);

  int live_threads() const { return live_; }
  int threads_per_cta() const { return static_cast<int>(threads_.size()); }

  // The state of barriers.h, registers of warps and tma.h.
  std::array<NamedBarrier, 16> named_barriers = {};
  std::map<uint32_t, Mbarrier> mbarriers;
  int free_registers = 0;
  ThreadSet waiting_for_registers;
  std::deque<PendingLoad> loads;
  uint64_t last_fence = 0;                                       // of any thread
  std::array<std::vector<uint64_t>, kMaxWarps / 4> product_log;  // a warpgroup: its products so far

 private:
  static void fiber_main();
  void finish_thread();
  void switch_away();
  Thread* pick();
  int pick_lane(Warp& warp);
  bool complete_something(bool stuck);
  void end_of_cta();
  std::string deadlock_report() const;
  [[noreturn]] void leave(std::string report);

  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  SharedMemory shared_;
  Stacks stacks_;
  Random random_{0, 0};
  Thread* current_ = nullptr;
  Warp* current_warp_ = nullptr;
  uint32_t ready_warps_ = 0;
  int live_ = 0;
  uint64_t clock_ = 0;
  ThreadSet pollers_;
  int idle_polls_ = 0;
  void* host_stack_ = nullptr;
  void (*body_)(void*) = nullptr;
  void* context_ = nullptr;
  std::string report_;
  bool descending_ = false;
};

// The CTA that runs on this CPU thread.
[[gnu::visibility("hidden")]] inline constinit thread_local Cta* g_cta = nullptr;
inline Cta& cta() { return *g_cta; }

}  // namespace attnlang::emulator
