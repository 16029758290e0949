// What is known of some values of a line: their extremes, and where it is asked for a set that
// holds them, or their bits.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "attnlang/host/float_interval.h"
#include "attnlang/host/target.h"
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

// What is kept of a range beside its extremes, in a base class where there is nothing:
// [[no_unique_address]] has another layout in nvcc's device code than on the host.
template <Summary kSummary>
struct LineSet {
  static constexpr int kWords = kSummary == Summary::values ? 4 : 2;

  struct Words {
    uint64_t word[kWords] = {};
  } set;
};
template <>
struct LineSet<Summary::extremes> {};

// What is known of values of type T: float, int32_t, int64_t or bool.
template <class T, Summary kSummary>
struct LineFacts : LineSet<kSummary> {
  T lo = std::numeric_limits<T>::has_infinity ? std::numeric_limits<T>::infinity()
                                              : std::numeric_limits<T>::max();
  T hi = std::numeric_limits<T>::has_infinity ? -std::numeric_limits<T>::infinity()
                                              : std::numeric_limits<T>::lowest();
  bool nan = false;

  ATTNLANG_HD bool none() const { return lo > hi && !nan; }

  ATTNLANG_HD void add(T x) {
    lo = x < lo ? x : lo;
    hi = x > hi ? x : hi;
    if constexpr (std::is_floating_point_v<T>) nan |= x != x;
    if constexpr (kSummary == Summary::values) {
      const uint64_t place = (static_cast<uint64_t>(x) * 0x9E3779B97F4A7C15u) >> 56;
      this->set.word[place >> 6] |= uint64_t{1} << (place & 63);
    } else if constexpr (kSummary == Summary::bits) {
      this->set.word[0] |= static_cast<uint64_t>(int64_t{x});
      this->set.word[1] |= ~static_cast<uint64_t>(int64_t{x});
    }
  }

  ATTNLANG_HD void join(const LineFacts& other) {
    lo = other.lo < lo ? other.lo : lo;
    hi = other.hi > hi ? other.hi : hi;
    nan |= other.nan;
    if constexpr (kSummary != Summary::extremes) {
      for (int i = 0; i < LineSet<kSummary>::kWords; ++i) this->set.word[i] |= other.set.word[i];
    }
  }

  // Adds values [first, last] of a block, those that count.
  ATTNLANG_HD void add(const LineBlock<T>& block, int64_t first, int64_t last) {
    if (block.counts == ~uint64_t{0}) {
      for (int64_t i = first; i <= last; ++i) add(block.value[i]);
      return;
    }
    for (int64_t i = first; i <= last; ++i) {
      if (block.counts >> i & 1) add(block.value[i]);
    }
  }

  // Where none counts it is a point: it means nothing, and the guard is false.
  ATTNLANG_HD auto range() const {
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

// The length of a line that is an axis of a tensor; where it is expanded one element stands for
// all.
template <class T, int kRank>
int64_t line_length(const View<T, kRank>& view, int axis) {
  if (view.empty()) return 0;
  return view.stride[axis] == 0 ? 1 : view.size[axis];
}

// Whether two ranges may have a value in common, as far as their facts say.
template <class A, class B>
ATTNLANG_HD bool sets_meet(const A& a, const B& b) {
  if (a.none() || b.none()) return false;
  if (int64_t{a.hi} < int64_t{b.lo} || int64_t{b.hi} < int64_t{a.lo}) return false;
  for (int i = 0; i < A::kWords; ++i) {
    if ((a.set.word[i] & b.set.word[i]) != 0) return true;
  }
  return false;
}

// Bit n of a line of words: of those that count, over an interval of n (clamped to [0, 63]).
template <class T>
ATTNLANG_HD Verdict bit(const LineFacts<T, Summary::bits>& facts, Interval n) {
  if (facts.none()) return Verdict::empty;
  const int64_t first = bounded<int64_t>(n.lo, 0, 63), last = bounded<int64_t>(n.hi, 0, 63);
  const uint64_t asked = (~uint64_t{0} >> (63 - (last - first))) << first;
  return verdict((facts.set.word[1] & asked) == 0, (facts.set.word[0] & asked) == 0);
}

}  // namespace attnlang
