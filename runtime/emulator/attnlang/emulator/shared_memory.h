// The shared memory of a CTA: poisoned, bounded, and aware of who wrote what through which proxy.
//
// Fresh memory and the margins around it hold 0x7fff in every half word: NaN as bf16, f16 or f32,
// and an index out of any range. TMA and wgmma see memory through the async proxy: what ordinary
// stores put there needs a fence_async_shared first. Writes by cp.async and stmatrix are recorded
// by thread and time; plain stores are found out when they are read, by comparison with what the
// async proxy knew.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace attnlang::emulator {

class SharedMemory {
 public:
  static constexpr uint32_t kFirstAddress =
      1024;  // as on a device, where the first KiB is reserved
  static constexpr uint32_t kGranule = 16;
  static constexpr uint32_t kMargin = 4096;

  explicit SharedMemory(size_t bytes)
      : size_(static_cast<uint32_t>((bytes + kGranule - 1) / kGranule * kGranule)),
        bytes_(static_cast<uint32_t>(bytes)),
        memory_(size_ + 2 * kMargin + 1024),
        known_(size_),
        granules_(size_ / kGranule) {
    const auto start = reinterpret_cast<uintptr_t>(memory_.data()) + kMargin;
    base_ = memory_.data() + kMargin + (1024 - start % 1024) % 1024;
  }

  void poison() {
    fill(base_ - kMargin, size_ + 2 * kMargin);
    fill(known_.data(), size_);
    for (Granule& granule : granules_) granule = {};
  }

  // Whether nobody wrote around the memory.
  bool margins_intact() const {
    return intact(base_ - kMargin, kMargin) && intact(base_ + bytes_, kMargin + size_ - bytes_);
  }

  std::byte* base() const { return base_; }
  uint32_t bytes() const { return bytes_; }
  bool holds(const void* p, size_t bytes) const {
    const auto* b = static_cast<const std::byte*>(p);
    return b >= base_ && b + bytes <= base_ + bytes_;
  }
  uint32_t offset(const void* p) const {
    return static_cast<uint32_t>(static_cast<const std::byte*>(p) - base_);
  }

  // An ordinary write, by a thread at a time (0: none), that the async proxy does not know.
  void record_write(uint32_t offset, uint32_t bytes, int thread, uint64_t time) {
    for (uint32_t g = offset / kGranule; g <= (offset + bytes - 1) / kGranule; ++g) {
      granules_[g].writer = static_cast<int16_t>(thread);
      granules_[g].written = time;
    }
  }
  // A write by the async proxy itself.
  void record_async_write(uint32_t offset, uint32_t bytes, uint64_t time) {
    std::memcpy(known_.data() + offset, base_ + offset, bytes);
    for (uint32_t g = offset / kGranule; g <= (offset + bytes - 1) / kGranule; ++g) {
      granules_[g] = {.written = 0, .known = time, .writer = -1};
    }
  }

  struct Unfenced {
    uint32_t offset;
    int writer;  // -1: an ordinary store by an unknown thread
  };
  // Reads one granule through the async proxy. `fenced(writer, time)`: whether a fence lies after a
  // write; any_fence: when the latest fence of any thread was. Null where all is well.
  template <class Fenced>
  bool read_async(uint32_t offset, uint64_t time, uint64_t any_fence, Fenced&& fenced,
                  Unfenced& problem) {
    const uint32_t first = offset / kGranule * kGranule;
    Granule& granule = granules_[offset / kGranule];
    if (granule.written != 0) {
      if (!fenced(granule.writer, granule.written)) {
        problem = {first, granule.writer};
        return false;
      }
    } else if (std::memcmp(known_.data() + first, base_ + first, kGranule) == 0) {
      return true;
    } else if (any_fence <= granule.known) {
      problem = {first, -1};
      return false;
    }
    std::memcpy(known_.data() + first, base_ + first, kGranule);
    granule = {.written = 0, .known = time, .writer = -1};
    return true;
  }

 private:
  struct Granule {
    uint64_t written = 0;  // when an ordinary write was recorded that is not known to be fenced
    uint64_t known = 0;    // when the async proxy last saw it
    int16_t writer = -1;
  };
  static constexpr uint16_t kPoison = 0x7fff;

  static void fill(std::byte* p, size_t bytes) {
    for (size_t i = 0; i + 1 < bytes; i += 2) std::memcpy(p + i, &kPoison, 2);
  }
  bool intact(const std::byte* p, size_t bytes) const {
    std::byte poison[2];
    std::memcpy(poison, &kPoison, 2);
    for (size_t i = 0; i < bytes; ++i) {
      if (p[i] != poison[(p + i - base_) & 1]) return false;
    }
    return true;
  }

  uint32_t size_, bytes_;
  std::vector<std::byte> memory_;
  std::vector<std::byte> known_;
  std::vector<Granule> granules_;
  std::byte* base_;
};

}  // namespace attnlang::emulator
