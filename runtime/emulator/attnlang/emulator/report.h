// What the emulator says: who did what wrong, and who waits where when nobody can go on.
#pragma once

#include "attnlang/emulator/cta.h"

namespace attnlang::emulator {

inline std::string format_text(const char* format, va_list arguments) {
  char text[2048];
  std::vsnprintf(text, sizeof text, format, arguments);
  return text;
}
[[gnu::format(printf, 1, 2)]] inline std::string text_of(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::string text = format_text(format, arguments);
  va_end(arguments);
  return text;
}

inline std::string place_of(const Thread* thread) {
  std::string place = text_of("CTA (%u, %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z);
  if (thread != nullptr) {
    place += text_of(", thread %d (warp %d, lane %d)", thread->number, thread->number / 32,
                     thread->lane);
  }
  return place + ": ";
}

inline void Cta::fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::string text = place_of(current_) + format_text(format, arguments);
  va_end(arguments);
  leave(std::move(text));
}
inline void Cta::fail_at(const Thread* thread, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::string text = place_of(thread) + format_text(format, arguments);
  va_end(arguments);
  leave(std::move(text));
}

// Memory that the async proxy reads was written by ordinary stores without a fence in between.
[[noreturn]] inline void fail_unfenced(Cta& c, const Thread* thread, const char* operation,
                                       const SharedMemory::Unfenced& problem) {
  if (problem.writer >= 0) {
    c.fail_at(thread,
              "%s reads shared + %u, which thread %d wrote (cp_async or stmatrix) without "
              "fence_async_shared after it",
              operation, problem.offset, problem.writer);
  }
  c.fail_at(thread,
            "%s reads shared + %u, which ordinary stores wrote without fence_async_shared after "
            "them",
            operation, problem.offset);
}

// "deadlock: threads 0-31, 64-95 wait at ...; threads 32-63 have exited", one line a place.
inline std::string Cta::deadlock_report() const {
  std::map<std::string, std::vector<int>> places;
  for (const Thread& t : threads_) {
    std::string place = "have exited";
    if (!t.done) {
      char text[256];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
      std::snprintf(text, sizeof text, t.waits_at, static_cast<long long>(t.wait_a),
                    static_cast<long long>(t.wait_b));
#pragma GCC diagnostic pop
      place = std::string("wait at ") + text;
    }
    places[place].push_back(t.number);
  }
  std::string report = "deadlock";
  for (const auto& [place, members] : places) {
    report += "\n  threads ";
    for (size_t i = 0; i < members.size();) {
      size_t end = i + 1;
      while (end < members.size() && members[end] == members[end - 1] + 1) ++end;
      if (i > 0) report += ", ";
      report += std::to_string(members[i]);
      if (end > i + 1) report += "-" + std::to_string(members[end - 1]);
      i = end;
    }
    report += " " + place;
  }
  for (const auto& [offset, barrier] : mbarriers) {
    if (barrier.waiting.empty()) continue;
    report +=
        text_of("\n  mbarrier at shared + %u: phase %llu, %d of %d arrivals and %lld bytes missing",
                offset, static_cast<unsigned long long>(barrier.phase), barrier.pending,
                barrier.count, static_cast<long long>(barrier.bytes));
  }
  for (size_t id = 0; id < named_barriers.size(); ++id) {
    const NamedBarrier& barrier = named_barriers[id];
    if (barrier.arrived != 0) {
      report += text_of("\n  barrier %zu: %d of %d threads have arrived", id, barrier.arrived,
                        barrier.expected);
    }
  }
  return report;
}

}  // namespace attnlang::emulator
