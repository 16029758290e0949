// The kernels of one op, found by key. Readers take no lock: entries are only ever added, in front.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>

#include "attnlang/host/call.h"
#include "attnlang/host/op_values.h"

namespace attnlang::op {

constexpr int32_t kAbsent = -1;  // the dtype of an optional tensor that was not passed

// What picks one kernel of an op. Plain data: Python fills it too.
struct KernelKey {
  int32_t dtype;  // a DType, as are the params'
  int32_t head_dim;
  int32_t value_dim;
  int32_t target;  // 0: the CPU; 80, 90: GPUs; 1000 more: such a kernel emulated on the CPU
  int32_t packed;  // 1: of packed calls; on a GPU 2, 3: over pages of e4m3, of e5m2
  int32_t count;
  const int32_t* param_dtypes;  // of the tensor parameters in declared order, or kAbsent
};

inline bool operator==(const KernelKey& a, const KernelKey& b) {
  return a.dtype == b.dtype && a.head_dim == b.head_dim && a.value_dim == b.value_dim &&
         a.target == b.target && a.packed == b.packed && a.count == b.count &&
         (a.count == 0 ||
          std::memcmp(a.param_dtypes, b.param_dtypes, sizeof(int32_t) * a.count) == 0);
}

// Builds and adds the kernel of a key for a device (a GPU's index, or -1), from any thread, and
// says what its target is. Returns 0, or -1 and a message.
using BuilderFunction = int (*)(const KernelKey* key, int32_t device, char* error);

struct Kernel {
  KernelKey key;
  KernelFunction run;
  CountFunction count_tiles;    // null: of packed calls
  WorkspaceFunction workspace;  // null: of the CPU
  const Kernel* next;
};

class KernelTable;

// How others reach an op's kernels: `attnlang::<name>_api() -> int` returns its address.
constexpr int32_t kApiVersion = 5;
struct Api {
  int32_t version;       // kApiVersion
  int32_t call_version;  // kCallVersion of the Call that kernels are given
  KernelTable* table;    // the first argument of the functions
  void (*add)(KernelTable* table, const KernelKey* key, KernelFunction run,
              CountFunction count_tiles, WorkspaceFunction workspace);
  void (*set_builder)(KernelTable* table, BuilderFunction builder);
  void (*set_target)(KernelTable* table, int32_t device, int32_t target);
  void (*set_obstacle)(KernelTable* table, const char* text);
};

class KernelTable {
 public:
  // Keeps the first kernel of a key: whoever looked it up may be running it.
  void add(const KernelKey& key, KernelFunction run, CountFunction count_tiles,
           WorkspaceFunction workspace) {
    const std::lock_guard<std::mutex> guard(adding_);
    if (find(key) != nullptr) return;
    // Never freed: threads may run kernels until the process ends.
    auto* dtypes = new int32_t[key.count];
    for (int32_t i = 0; i < key.count; ++i) dtypes[i] = key.param_dtypes[i];
    KernelKey own = key;
    own.param_dtypes = dtypes;
    head_.store(new Kernel{own, run, count_tiles, workspace, head_.load()},
                std::memory_order_release);
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

  // What kernels for tensors on a device are built for; negative: a GPU that nobody has looked at.
  int32_t target_of(const Device& device) const {
    if (!device.is_gpu()) return cpu_target_.load(std::memory_order_acquire);
    if (device.index < 0 || device.index >= kMaxGpus) return kUnknownTarget;
    return gpu_targets_[device.index].load(std::memory_order_acquire) + kUnknownTarget;
  }

  // `device`: a GPU's index, or -1 for the CPU, whose target is 0 or an emulated one.
  void set_target(int32_t device, int32_t target) {
    if (device < 0) cpu_target_.store(target, std::memory_order_release);
    else if (device < kMaxGpus) gpu_targets_[device].store(target - kUnknownTarget);
  }

  // Finds the kernel of a key, building it where there is a builder. Throws when there is none.
  const Kernel& get(KernelKey key, const Device& device, const char* op_name) {
    if (const Kernel* kernel = find(key)) return *kernel;
    const BuilderFunction builder = builder_.load(std::memory_order_acquire);
    if (builder == nullptr) {
      if (const Kernel* kernel = find_for_gpu(key)) return *kernel;
      const std::lock_guard<std::mutex> guard(adding_);
      throw std::runtime_error(std::string(op_name) + ": no kernel for these dtypes and head dims" +
                               (key.packed != 0 ? " in packed calls" : "") +
                               ", and nothing to build one" + obstacle_);
    }
    char error[kErrorSize] = "";
    if (builder(&key, device.is_gpu() ? device.index : -1, error) != 0) {
      throw std::runtime_error(std::string(op_name) + ": " + error);
    }
    key.target = target_of(device);
    if (const Kernel* kernel = find(key)) return *kernel;
    throw std::runtime_error(std::string(op_name) + ": the builder added no kernel");
  }

  const Api& api() const { return api_; }

 private:
  static constexpr int32_t kUnknownTarget = -1, kMaxGpus = 64;

  // Without a builder nobody knows the GPU: the newest kernel that was loaded for one.
  const Kernel* find_for_gpu(KernelKey key) const {
    if (key.target != kUnknownTarget) return nullptr;
    for (const int32_t target : {90, 80}) {
      key.target = target;
      if (const Kernel* kernel = find(key)) return kernel;
    }
    return nullptr;
  }

  std::atomic<const Kernel*> head_{nullptr};
  std::atomic<BuilderFunction> builder_{nullptr};
  std::atomic<int32_t> cpu_target_{0};
  std::array<std::atomic<int32_t>, kMaxGpus> gpu_targets_{};  // above kUnknownTarget
  std::mutex adding_;
  std::string obstacle_;
  const Api api_{
      .version = kApiVersion,
      .call_version = kCallVersion,
      .table = this,
      .add = [](KernelTable* table, const KernelKey* key, KernelFunction run, CountFunction count,
                WorkspaceFunction workspace) { table->add(*key, run, count, workspace); },
      .set_builder = [](KernelTable* table, BuilderFunction f) { table->set_builder(f); },
      .set_target = [](KernelTable* table, int32_t device,
                       int32_t target) { table->set_target(device, target); },
      .set_obstacle = [](KernelTable* table, const char* text) { table->set_obstacle(text); },
  };
};

}  // namespace attnlang::op
