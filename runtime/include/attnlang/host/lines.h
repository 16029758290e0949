// What is known of a line, a value for each row or each column, over any range of it.
//
// Blocks of 64 values and chunks of 64 blocks are summed up when they are first asked for, so a
// range costs a few blocks, and all ranges together one pass over the values: memory is a small
// part of them. Any thread may be the one that sums up; another's equal result is dropped.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <limits>
#include <new>
#include <type_traits>
#include <vector>

#include "attnlang/host/float_interval.h"
#include "attnlang/host/function_ref.h"
#include "attnlang/host/tensor_view.h"

namespace attnlang {

constexpr int64_t kLineBlock = 64;         // values
constexpr int64_t kLineChunk = 64;         // blocks
constexpr int64_t kLookedAt = kLineBlock;  // so many values are compared one by one

// The values of a block; bit i of `counts` says that value i counts.
template <class T>
struct LineBlock {
  alignas(64) T value[kLineBlock];
  uint64_t counts = ~uint64_t{0};
};

// What is kept beside the extremes.
enum class Summary {
  extremes,
  values,  // a set that holds every value: what is disjoint has no value in common
  bits,    // the bits that are set in some value, and those that are clear in some
};

// What is known of values of type T: float, int32_t, int64_t or bool.
template <class T, Summary kSummary>
struct LineFacts {
  static constexpr int kWords = kSummary == Summary::values ? 4 : 2;

  T lo = std::numeric_limits<T>::has_infinity ? std::numeric_limits<T>::infinity()
                                              : std::numeric_limits<T>::max();
  T hi = std::numeric_limits<T>::has_infinity ? -std::numeric_limits<T>::infinity()
                                              : std::numeric_limits<T>::lowest();
  bool nan = false;
  struct Nothing {};
  struct Set {
    uint64_t word[kWords] = {};
  };
  [[no_unique_address]] std::conditional_t<kSummary == Summary::extremes, Nothing, Set> set;

  bool none() const { return lo > hi && !nan; }

  void add(T x) {
    lo = x < lo ? x : lo;
    hi = x > hi ? x : hi;
    if constexpr (std::is_floating_point_v<T>) nan |= x != x;
    if constexpr (kSummary == Summary::values) {
      const uint64_t place = (static_cast<uint64_t>(x) * 0x9E3779B97F4A7C15u) >> 56;
      set.word[place >> 6] |= uint64_t{1} << (place & 63);
    } else if constexpr (kSummary == Summary::bits) {
      set.word[0] |= static_cast<uint64_t>(int64_t{x});
      set.word[1] |= ~static_cast<uint64_t>(int64_t{x});
    }
  }

  void join(const LineFacts& other) {
    lo = other.lo < lo ? other.lo : lo;
    hi = other.hi > hi ? other.hi : hi;
    nan |= other.nan;
    if constexpr (kSummary != Summary::extremes) {
      for (int i = 0; i < kWords; ++i) set.word[i] |= other.set.word[i];
    }
  }

  // Adds values [first, last] of a block, those that count.
  void add(const LineBlock<T>& block, int64_t first, int64_t last) {
    if (block.counts == ~uint64_t{0}) {
      for (int64_t i = first; i <= last; ++i) add(block.value[i]);
      return;
    }
    for (int64_t i = first; i <= last; ++i) {
      if (block.counts >> i & 1) add(block.value[i]);
    }
  }

  // Where none counts it is a point: it means nothing, and the guard is false.
  auto range() const {
    if constexpr (std::is_same_v<T, bool>) {
      return none() ? Verdict::empty : verdict(lo, !hi);
    } else if constexpr (std::is_same_v<T, float>) {
      if (nan) return FloatInterval::any();
      return none() ? FloatInterval::point(0) : FloatInterval{lo, hi};
    } else {
      return none() ? Interval::point(0) : Interval{lo, hi};
    }
  }
};

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
  Facts over(int64_t b, int64_t h, Interval range, Read read) const {
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

// The length of a line that is an axis of a tensor; where it is expanded one element stands for
// all.
template <class T, int kRank>
int64_t line_length(const View<T, kRank>& view, int axis) {
  if (view.empty()) return 0;
  return view.stride[axis] == 0 ? 1 : view.size[axis];
}

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

// Whether two ranges may have a value in common, as far as their facts say.
template <class A, class B>
bool sets_meet(const A& a, const B& b) {
  if (a.none() || b.none()) return false;
  if (int64_t{a.hi} < int64_t{b.lo} || int64_t{b.hi} < int64_t{a.lo}) return false;
  for (int i = 0; i < A::kWords; ++i) {
    if ((a.set.word[i] & b.set.word[i]) != 0) return true;
  }
  return false;
}

// Bit n of a line of words: of those that count, over an interval of n (clamped to [0, 63]).
template <class T>
Verdict bit(const LineFacts<T, Summary::bits>& facts, Interval n) {
  if (facts.none()) return Verdict::empty;
  const int64_t first = std::clamp<int64_t>(n.lo, 0, 63), last = std::clamp<int64_t>(n.hi, 0, 63);
  const uint64_t asked = (~uint64_t{0} >> (63 - (last - first))) << first;
  return verdict((facts.set.word[1] & asked) == 0, (facts.set.word[0] & asked) == 0);
}

}  // namespace attnlang
