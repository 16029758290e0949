// What is known of a line, a value for each row or each column, over any range of it.
//
// Blocks of 64 values and chunks of 64 blocks are summed up when they are first asked for, so a
// range costs a few blocks, and all ranges together one pass over the values: memory is a small
// part of them. Any thread may be the one that sums up; another's equal result is dropped.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <vector>

#include "attnlang/host/function_ref.h"
#include "attnlang/host/line_facts.h"
#include "attnlang/host/tensor_view.h"

namespace attnlang {

// The lines of a call, one for each request and head (or fewer, where they are the same).
template <class T, Summary kSummary>
class Lines {
 public:
  using Facts = LineFacts<T, kSummary>;
  using Block = LineBlock<T>;
  using Read = FunctionRef<void(int64_t block, Block& values)>;

  Lines() = default;
  Lines(int64_t requests, int64_t heads, int64_t length)
      : requests_(requests), heads_(heads), length_(length) {
    const bool kept = length > kLineBlock;  // a single block is read where it is asked for
    slots_ = std::vector<Slot>(kept ? requests * heads * chunks() : 0);
  }

  int64_t length() const { return length_; }

  // Calls f(block, first, last) for the blocks of [range.lo, range.hi] until it returns false.
  template <class Function>
  static void for_blocks(Interval range, Read read, Function f) {
    for (int64_t i = range.lo / kLineBlock; i <= range.hi / kLineBlock; ++i) {
      Block block;
      read(i, block);
      const int64_t first = std::max(range.lo - i * kLineBlock, int64_t{0});
      const int64_t last = std::min(range.hi - i * kLineBlock, kLineBlock - 1);
      if (!f(block, first, last)) return;
    }
  }

  // What is known of a range, which is clamped to the line.
  [[gnu::noinline]] Facts over(int64_t b, int64_t h, Interval range, Read read) const {
    Facts facts;
    if (length_ <= 0) {
      facts.add(T{});
      return facts;
    }
    range = {clamp_index(range.lo, length_), clamp_index(range.hi, length_)};
    const int64_t step = kLineBlock * kLineChunk;
    for (int64_t c = range.lo / step; c <= range.hi / step; ++c) {
      const Interval all{c * step, std::min((c + 1) * step, length_) - 1};
      const Interval part{std::max(range.lo, all.lo), std::min(range.hi, all.hi)};
      const Facts* known = slots_.empty() ? nullptr : chunk(b, h, c, read);
      if (known == nullptr) scan(part, read, facts);
      else if (part.lo == all.lo && part.hi == all.hi) facts.join(known[0]);
      else within(known, all, part, read, facts);
    }
    return facts;
  }

 private:
  struct Slot {
    mutable std::atomic<const Facts*> facts{nullptr};  // the whole chunk, then its blocks
    Slot() = default;
    Slot(const Slot&) = delete;
    Slot& operator=(const Slot&) = delete;
    ~Slot() { delete[] facts.load(std::memory_order_relaxed); }
  };

  int64_t chunks() const {
    return (length_ + kLineBlock * kLineChunk - 1) / (kLineBlock * kLineChunk);
  }

  static void scan(Interval range, Read read, Facts& facts) {
    for_blocks(range, read, [&](const Block& block, int64_t first, int64_t last) {
      facts.add(block, first, last);
      return true;
    });
  }

  // A part of a chunk: its whole blocks are known, the ends are read.
  static void within(const Facts* known, Interval all, Interval part, Read read, Facts& facts) {
    for (int64_t k = part.lo; k <= part.hi;) {
      const int64_t block = k / kLineBlock * kLineBlock;
      const int64_t end = std::min(block + kLineBlock - 1, all.hi);
      if (k == block && end <= part.hi) facts.join(known[1 + (k - all.lo) / kLineBlock]);
      else scan({k, std::min(end, part.hi)}, read, facts);
      k = end + 1;
    }
  }

  // The facts of a chunk and of its blocks; null without memory for them.
  const Facts* chunk(int64_t b, int64_t h, int64_t c, Read read) const {
    const int64_t line = std::min(b, requests_ - 1) * heads_ + std::min(h, heads_ - 1);
    const Slot& slot = slots_[line * chunks() + c];
    const Facts* known = slot.facts.load(std::memory_order_acquire);
    if (known != nullptr) return known;
    const int64_t first = c * kLineChunk * kLineBlock;
    const int64_t last = std::min(first + kLineChunk * kLineBlock, length_) - 1;
    Facts* made = new (std::nothrow) Facts[2 + (last - first) / kLineBlock];
    if (made == nullptr) return nullptr;
    for (int64_t i = 0; i <= (last - first) / kLineBlock; ++i) {
      const int64_t k = first + i * kLineBlock;
      scan({k, std::min(k + kLineBlock - 1, last)}, read, made[1 + i]);
      made[0].join(made[1 + i]);
    }
    if (slot.facts.compare_exchange_strong(known, made, std::memory_order_acq_rel)) return made;
    delete[] made;
    return known;
  }

  int64_t requests_ = 0, heads_ = 0, length_ = 0;
  std::vector<Slot> slots_;
};

// Some ints, to ask whether another is among them.
class SmallSet {
 public:
  bool contains(int64_t x) const {
    for (uint32_t i = place(x); used_[i >> 6] >> (i & 63) & 1; i = (i + 1) % kPlaces) {
      if (values_[i] == x) return true;
    }
    return false;
  }
  void add(int64_t x) {
    uint32_t i = place(x);
    for (; used_[i >> 6] >> (i & 63) & 1; i = (i + 1) % kPlaces) {
      if (values_[i] == x) return;
    }
    values_[i] = x;
    used_[i >> 6] |= uint64_t{1} << (i & 63);
  }

 private:
  static constexpr uint32_t kPlaces = 4 * kLookedAt;
  static uint32_t place(int64_t x) {
    return static_cast<uint32_t>((static_cast<uint64_t>(x) * 0x9E3779B97F4A7C15u) >> 32) % kPlaces;
  }
  uint64_t used_[kPlaces / 64] = {};
  int64_t values_[kPlaces];
};

}  // namespace attnlang
