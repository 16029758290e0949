// A grid in emulation: CTAs, in order, over a few CPU threads.
//
// A CTA may wait (turns.h) for CTAs before it, which run or have run; for a later one it might wait
// for ever. Kernels that hand work to the last CTA to arrive are fine.
#pragma once

#include <cstdlib>
#include <mutex>
#include <thread>

#include "attnlang/emulator/copies.h"
#include "attnlang/emulator/scheduler.h"
#include "attnlang/emulator/tma.h"
#include "attnlang/emulator/wgmma.h"

namespace attnlang::emulator {

constexpr size_t kMaxSharedBytes = 227 * 1024;

inline int cpu_threads() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  const int wanted = text == nullptr ? 0 : std::atoi(text);
  if (wanted > 0) return wanted;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// A text that lives until the next one on this CPU thread.
[[gnu::visibility("hidden")]] inline const char* keep(std::string text) {
  static thread_local std::string kept;
  kept = std::move(text);
  return kept.c_str();
}

// Runs the body for every thread of every CTA. Null, or a report that lives until the next call on
// this CPU thread. After a report some CTAs have not run.
inline const char* run_grid(const dim3& grid, int block, size_t shared_bytes, void (*body)(void*),
                            void* context) {
  std::string report;
  const uint64_t ctas = uint64_t{grid.x} * grid.y * grid.z;
  if (block < 32 || block % 32 != 0 || block > kMaxThreads) {
    report = "launch: a CTA of " + std::to_string(block) + " threads; whole warps, at most 1024";
  } else if (shared_bytes > kMaxSharedBytes) {
    report = "launch: " + std::to_string(shared_bytes) + " bytes of shared memory; at most " +
             std::to_string(kMaxSharedBytes);
  } else if (ctas == 0 || grid.y > 65535 || grid.z > 65535) {
    report = "launch: a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) +
             " x " + std::to_string(grid.z) + " CTAs";
  }
  if (!report.empty()) return keep(std::move(report));

  std::atomic<uint64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  const auto work = [&] {
    Cta cta(block, shared_bytes, grid);
    while (!failed) {
      const uint64_t index = next++;
      if (index >= ctas) break;
      std::string error = cta.run(index, body, context);
      if (error.empty()) continue;
      const std::lock_guard<std::mutex> lock(mutex);
      if (!failed) report = std::move(error);
      failed = true;
    }
  };
  const int workers = static_cast<int>(std::min<uint64_t>(ctas, cpu_threads()));
  std::vector<std::thread> others;
  for (int i = 1; i < workers; ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  return report.empty() ? nullptr : keep(std::move(report));
}

}  // namespace attnlang::emulator
