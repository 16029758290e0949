// One stack a CUDA thread, and the switch between stacks.
//
// A fiber never leaves the CPU thread that made it. Nothing unwinds a fiber that is dropped: what
// runs on one owns no memory while it waits.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <new>

namespace attnlang::emulator {

#if !defined(__x86_64__)
#error "the emulator switches stacks in x86-64 assembly; it has no other port"
#endif

// Saves this stack's pointer in *from and continues on the stack `to`. `noipa`: the compiler must
// not conclude from the body which registers survive.
[[gnu::naked, gnu::noinline, gnu::noipa]] inline void switch_stack(void** /*from*/, void* /*to*/) {
  asm(R"(
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
  )");
}

// Stacks of equal size, each above a page that faults.
class Stacks {
 public:
  explicit Stacks(int count) : count_(count) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* memory = mmap(nullptr, count_ * kBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<char*>(memory);
    for (int i = 0; i < count; ++i) mprotect(base_ + i * kBytes, page, PROT_NONE);
  }
  ~Stacks() { munmap(base_, count_ * kBytes); }
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;

  // The pointer of a stack that starts in `entry`, which must not return.
  void* start(int i, void (*entry)()) const {
    void** top = reinterpret_cast<void**>(base_ + (i + 1) * kBytes);
    *--top = nullptr;  // where `entry` would return; also what makes its frame aligned
    *--top = reinterpret_cast<void*>(entry);
    for (int r = 0; r < 6; ++r) *--top = nullptr;
    return top;
  }

 private:
  static constexpr size_t kBytes = 256 * 1024;
  size_t count_;
  char* base_;
};

}  // namespace attnlang::emulator
