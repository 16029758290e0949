// A loop over independent items on OpenMP's threads, and memory for them.
//
// A child of fork() inherits libgomp's pool without its threads and would wait for them for ever:
// there, loops run serially, also those of a kernel that the child itself is the first to load,
// which attnlang/jit/loader.py marks by the child's number in the environment. Every item's result
// must not depend on which thread runs it.
#pragma once

#include <omp.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "attnlang/host/function_ref.h"

namespace attnlang::cpu {

namespace detail {

// Whether this process was forked and has started no other program since: what the system says of
// it, and true where it does not say.
inline bool is_fork_without_exec() {
  constexpr unsigned kForkNoExec = 0x40;  // PF_FORKNOEXEC of the kernel
  std::FILE* file = std::fopen("/proc/self/stat", "r");
  if (file == nullptr) return true;
  char text[1024];
  text[std::fread(text, 1, sizeof text - 1, file)] = '\0';
  std::fclose(file);
  const char* name_end = std::strrchr(text, ')');
  unsigned flags = 0;
  if (name_end == nullptr || std::sscanf(name_end, ") %*c %*d %*d %*d %*d %*d %u", &flags) != 1) {
    return true;
  }
  return (flags & kForkNoExec) != 0;
}

// Whether the loader said that this process is a child of fork(). A program that it starts inherits
// the variable, but is another process or none that was forked.
inline bool is_marked_child() {
  const char* text = std::getenv("_ATTNLANG_FORKED_CHILD");
  return text != nullptr && std::strtoll(text, nullptr, 10) == static_cast<long long>(getpid()) &&
         is_fork_without_exec();
}

inline bool is_forked_child = is_marked_child();
inline const bool kForkIsWatched =
    pthread_atfork(nullptr, nullptr, [] { is_forked_child = true; }) == 0;

}  // namespace detail

// How many threads a loop over `items` can use.
inline int thread_count(int64_t items) {
  if (detail::is_forked_child || items <= 1) return 1;
  return omp_get_max_threads();
}

// body(item, thread) for each item, in dynamic order; `threads` from thread_count.
inline void parallel_for(int64_t items, int threads, FunctionRef<void(int64_t, int)> body) {
  if (threads <= 1) {
    for (int64_t i = 0; i < items; ++i) body(i, 0);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t i = 0; i < items; ++i) body(i, omp_get_thread_num());
}

// Uninitialised memory for `count` values, aligned to a cache line or more; null when there is
// none. What malloc gives back to the system at once, 32 MiB and more, is asked for in huge pages:
// to get small ones anew in each call took 6% of a backward.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t count)
      : alignment_(count * sizeof(T) < kMapped ? kAlignment : kHugePage),
        data_(static_cast<T*>(
            ::operator new(count * sizeof(T), std::align_val_t{alignment_}, std::nothrow))) {
#if defined(MADV_HUGEPAGE)
    const size_t whole = count * sizeof(T) / kHugePage * kHugePage;
    if (alignment_ == kHugePage && data_ != nullptr) madvise(data_, whole, MADV_HUGEPAGE);
#endif
  }
  ~Buffer() { ::operator delete(data_, std::align_val_t{alignment_}); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  explicit operator bool() const { return data_ != nullptr; }
  T& operator[](size_t i) { return data_[i]; }
  T* data() { return data_; }
  const T* data() const { return data_; }

 private:
  static constexpr size_t kAlignment = alignof(T) > 64 ? alignof(T) : 64;
  static constexpr size_t kHugePage = size_t{2} << 20, kMapped = size_t{32} << 20;
  static_assert(kAlignment <= kHugePage);
  size_t alignment_;
  T* data_;
};

}  // namespace attnlang::cpu
