// The bodies of Cta: picking who runs, finishing, reporting.
#pragma once

#include "attnlang/emulator/cta.h"

namespace attnlang::emulator {

// What asynchronous work can do at any moment; by the headers that own the queues.
bool advance_copies(Cta& cta, Thread& thread, bool to_an_arrival);
bool advance_loads(Cta& cta);
bool advance_products(Cta& cta, Warp& warp);
bool advance_stores(Cta& cta, Thread& thread);
void leave_barriers(Cta& cta);

inline Cta::Cta(int threads, size_t shared_bytes, const dim3& grid)
    : threads_(threads), warps_((threads + 31) / 32), shared_(shared_bytes), stacks_(threads) {
  gridDim = grid;
  blockDim = dim3(static_cast<unsigned>(threads));
}

inline std::string Cta::run(uint64_t linear_index, void (*body)(void*), void* context) {
  const dim3 grid = gridDim;
  blockIdx = {static_cast<unsigned>(linear_index % grid.x),
              static_cast<unsigned>(linear_index / grid.x % grid.y),
              static_cast<unsigned>(linear_index / grid.x / grid.y)};
  body_ = body;
  context_ = context;
  random_ = Random(seed(), linear_index);
  shared_.poison();
  named_barriers = {};
  mbarriers.clear();
  loads.clear();
  for (auto& log : product_log) log.clear();
  pollers_ = waiting_for_registers = {};
  idle_polls_ = 0;
  clock_ = last_fence = 0;
  report_.clear();
  live_ = static_cast<int>(threads_.size());
  // As ptxas would give them under __launch_bounds__(threads, 1).
  const int registers = std::min(65536 / live_ / 8 * 8, 256);
  free_registers = 0;
  ready_warps_ = 0;
  for (size_t w = 0; w < warps_.size(); ++w) {
    warps_[w] = Warp{};
    warps_[w].number = static_cast<int>(w);
    warps_[w].registers = registers;
  }
  for (int i = 0; i < live_; ++i) {
    Thread& t = threads_[i];
    t = Thread{};
    t.stack = stacks_.start(i, &fiber_main);
    t.index = {static_cast<unsigned>(i), 0, 0};
    t.number = i;
    t.lane = i % 32;
    t.warp = &warps_[i / 32];
    t.warp->alive |= 1u << t.lane;
    wake(*t.warp, 1u << t.lane);
  }
  g_cta = this;
  current_warp_ = &warps_[0];
  current_ = pick();
  threadIdx = current_->index;
  switch_stack(&host_stack_, current_->stack);
  g_cta = nullptr;
  return std::move(report_);
}

inline void Cta::fiber_main() {
  Cta& me = cta();
  me.body_(me.context_);
  me.finish_thread();
  __builtin_unreachable();
}

inline void Cta::finish_thread() {
  Thread& t = *current_;
  if (!t.products.accumulators.empty())
    fail("exits with wgmma in flight: wgmma_wait<0> is missing");
  for (const PendingStore& store : t.stores.pending) {
    if (!store.has_read) {
      fail("exits before its tma_store has read shared memory: tma_store_wait_read<0> is missing");
    }
  }
  while (advance_stores(*this, t)) {
  }
  while (advance_copies(*this, t, false)) {
  }
  t.done = true;
  t.warp->alive &= ~(1u << t.lane);
  t.warp->ready &= ~(1u << t.lane);
  --live_;
  leave_barriers(*this);
  if (live_ == 0) {
    end_of_cta();
    leave({});
  }
  switch_away();
}

inline void Cta::end_of_cta() {
  if (!loads.empty()) {
    fail_at(&threads_[loads.front().thread],
            "tma_load to shared + %u is in flight when the CTA ends: nobody waited for it",
            loads.front().offset);
  }
  for (size_t group = 0; group * 4 < warps_.size(); ++group) {
    for (size_t w = group * 4; w < std::min(group * 4 + 4, warps_.size()); ++w) {
      if (warps_[w].products_executed != product_log[group].size()) {
        fail_at(nullptr, "warps of warpgroup %zu issued different numbers of wgmma", group);
      }
    }
  }
  if (!shared_.margins_intact()) {
    fail_at(nullptr, "a store went outside the CTA's %u bytes of shared memory", shared_.bytes());
  }
}

// Another thread runs, or the CTA ends.
inline void Cta::switch_away() {
  Thread* me = current_;
  Thread* next = pick();
  if (next == me) return;
  current_ = next;
  threadIdx = next->index;
  switch_stack(&me->stack, next->stack);
}

inline int Cta::pick_lane(Warp& warp) {
  const uint32_t turned = std::rotr(warp.ready, warp.cursor);
  const int step = descending_ ? 31 - std::countl_zero(turned) : std::countr_zero(turned);
  const int lane = (warp.cursor + step) & 31;
  warp.cursor = descending_ ? lane : (lane + 1) & 31;
  return lane;
}

inline Thread* Cta::pick() {
  for (;;) {
    Warp* warp = current_warp_;
    if (warp->ready == 0 || random_.once_in(32)) {
      if (warp->ready == 0) ready_warps_ &= ~(1u << warp->number);
      if (ready_warps_ == 0) {
        if (complete_something(true)) continue;
        fail_at(nullptr, "%s", deadlock_report().c_str());
      }
      if (random_.once_in(4)) complete_something(false);
      uint32_t others = ready_warps_;
      if (random_.enabled()) {
        for (uint32_t skip = random_.below(std::popcount(others)); skip > 0; --skip) {
          others &= others - 1;
        }
      } else {
        const uint32_t after = others & ~((2u << warp->number) - 1);
        if (after != 0) others = after;
      }
      warp = current_warp_ = &warps_[std::countr_zero(others)];
      if (random_.enabled()) {
        warp->cursor = static_cast<int>(random_.below(32));
        descending_ = random_.once_in(2);
      }
      if (warp->ready == 0) continue;
    }
    return &threads_[warp->number * 32 + pick_lane(*warp)];
  }
}

// Lets one piece of asynchronous work complete. When stuck, only what somebody may wait for.
inline bool Cta::complete_something(bool stuck) {
  const uint32_t kinds = 4, first = random_.below(kinds);
  for (uint32_t i = 0; i < kinds; ++i) {
    const uint32_t kind = (first + i) % kinds;
    if (kind == 0) {
      if (advance_loads(*this)) {
        idle_polls_ = 0;
        return true;
      }
    } else if (kind == 1) {
      const uint32_t n = static_cast<uint32_t>(threads_.size());
      const uint32_t start = random_.below(n);
      for (uint32_t t = 0; t < (stuck ? n : 1); ++t) {
        if (advance_copies(*this, threads_[(start + t) % n], stuck)) {
          idle_polls_ = 0;
          return true;
        }
      }
    } else if (!stuck) {
      Thread& thread = threads_[random_.below(static_cast<uint32_t>(threads_.size()))];
      if (kind == 2 ? advance_products(*this, *thread.warp) : advance_stores(*this, thread)) {
        return true;
      }
    }
  }
  constexpr int kMostIdlePolls = 10000;
  if (!stuck || pollers_.empty() || idle_polls_ >= kMostIdlePolls) return false;
  const int polls = idle_polls_ + 1;
  wake(pollers_);
  idle_polls_ = polls;
  return true;
}

inline void Cta::leave(std::string report) {
  report_ = std::move(report);
  void* dropped;
  switch_stack(&dropped, host_stack_);
  __builtin_unreachable();
}

}  // namespace attnlang::emulator

#include "attnlang/emulator/report.h"
