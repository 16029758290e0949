// The kernels of one op, found by key. Readers take no lock: entries are only ever added, in front.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>

#include "attnlang/host/call.h"

namespace attnlang::op {

constexpr int32_t kAbsent = -1;  // the dtype of an optional tensor that was not passed

// What picks one kernel of an op. Plain data: Python fills it too.
struct KernelKey {
  int32_t dtype;  // a DType, as are the params'
  int32_t head_dim;
  int32_t value_dim;
  int32_t count;
  const int32_t* param_dtypes;  // of the tensor parameters in declared order, or kAbsent
};

inline bool operator==(const KernelKey& a, const KernelKey& b) {
  return a.dtype == b.dtype && a.head_dim == b.head_dim && a.value_dim == b.value_dim &&
         a.count == b.count &&
         (a.count == 0 ||
          std::memcmp(a.param_dtypes, b.param_dtypes, sizeof(int32_t) * a.count) == 0);
}

// Builds and adds the kernel of a key, from any thread. Returns 0, or -1 and a message.
using BuilderFunction = int (*)(const KernelKey* key, char* error);

struct Kernel {
  KernelKey key;
  KernelFunction run;
  CountFunction count_tiles;
  const Kernel* next;
};

class KernelTable {
 public:
  // Keeps the first kernel of a key: whoever looked it up may be running it.
  void add(const KernelKey& key, KernelFunction run, CountFunction count_tiles) {
    const std::lock_guard<std::mutex> guard(adding_);
    if (find(key) != nullptr) return;
    // Never freed: threads may run kernels until the process ends.
    auto* dtypes = new int32_t[key.count];
    for (int32_t i = 0; i < key.count; ++i) dtypes[i] = key.param_dtypes[i];
    KernelKey own = key;
    own.param_dtypes = dtypes;
    head_.store(new Kernel{own, run, count_tiles, head_.load()}, std::memory_order_release);
  }

  const Kernel* find(const KernelKey& key) const {
    const Kernel* kernel = head_.load(std::memory_order_acquire);
    while (kernel != nullptr && !(kernel->key == key)) kernel = kernel->next;
    return kernel;
  }

  void set_builder(BuilderFunction builder) { builder_.store(builder, std::memory_order_release); }

  // Remembers why a kernel that an object carries was not added, for the error of a call without.
  void set_obstacle(const char* text) {
    const std::lock_guard<std::mutex> guard(adding_);
    obstacle_ = std::string("; ") + text;
  }

  // Finds the kernel of a key, building it where there is a builder. Throws when there is none.
  const Kernel& get(const KernelKey& key, const char* op_name) {
    if (const Kernel* kernel = find(key)) return *kernel;
    const BuilderFunction builder = builder_.load(std::memory_order_acquire);
    if (builder == nullptr) {
      const std::lock_guard<std::mutex> guard(adding_);
      throw std::runtime_error(
          std::string(op_name) +
          ": no kernel for these dtypes and head dims, and nothing to build one" + obstacle_);
    }
    char error[kErrorSize] = "";
    if (builder(&key, error) != 0) throw std::runtime_error(std::string(op_name) + ": " + error);
    if (const Kernel* kernel = find(key)) return *kernel;
    throw std::runtime_error(std::string(op_name) + ": the builder added no kernel");
  }

 private:
  std::atomic<const Kernel*> head_{nullptr};
  std::atomic<BuilderFunction> builder_{nullptr};
  std::mutex adding_;
  std::string obstacle_;
};

// How others reach an op's kernels: `attnlang::<name>_api() -> int` returns its address.
constexpr int32_t kApiVersion = 1;
struct Api {
  int32_t version;       // kApiVersion
  int32_t call_version;  // kCallVersion of the Call that kernels are given
  void (*add)(const KernelKey* key, KernelFunction run, CountFunction count_tiles);
  void (*set_builder)(BuilderFunction builder);
  void (*set_obstacle)(const char* text);
};

}  // namespace attnlang::op
