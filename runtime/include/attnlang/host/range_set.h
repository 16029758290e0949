// A few disjoint ranges of int64: a set that errs to one side where it would need more of them.
//
// Plain constexpr arithmetic, of the host and of a device.
#pragma once

#include <cstdint>

#include "attnlang/host/target.h"

namespace attnlang {

constexpr int64_t kFarPosition = int64_t{1} << 62;  // beyond every position

// Which way a set may be wrong: an outer one holds too much, an inner one too little.
enum class Bias { outer, inner };

struct Range {
  int64_t begin, end;  // [begin, end)
};

template <Bias kBias>
class RangeSet {
 public:
  static constexpr int kCapacity = 8;

  static constexpr RangeSet nothing() { return {}; }
  static constexpr RangeSet of(int64_t begin, int64_t end) {
    RangeSet set;
    set.append(begin, end);
    return set;
  }
  static constexpr RangeSet everything() { return of(-kFarPosition, kFarPosition); }

  constexpr const Range* begin() const { return ranges_; }
  constexpr const Range* end() const { return ranges_ + size_; }
  constexpr int size() const { return size_; }

  friend constexpr RangeSet operator|(const RangeSet& a, const RangeSet& b) {
    RangeSet result;
    const Range *x = a.begin(), *y = b.begin();
    while (x != a.end() || y != b.end()) {
      const bool first = y == b.end() || (x != a.end() && x->begin <= y->begin);
      const Range next = first ? *x++ : *y++;
      result.append(next.begin, next.end);
    }
    return result;
  }

  friend constexpr RangeSet operator&(const RangeSet& a, const RangeSet& b) {
    RangeSet result;
    const Range *x = a.begin(), *y = b.begin();
    while (x != a.end() && y != b.end()) {
      result.append(x->begin > y->begin ? x->begin : y->begin, x->end < y->end ? x->end : y->end);
      if (x->end < y->end) ++x;
      else ++y;
    }
    return result;
  }

  // Adds a range that begins no earlier than those before it.
  constexpr void append(int64_t begin, int64_t end) {
    if (begin >= end) return;
    if (size_ > 0 && begin <= ranges_[size_ - 1].end) {
      if (end > ranges_[size_ - 1].end) ranges_[size_ - 1].end = end;
      return;
    }
    ranges_[size_++] = {begin, end};
    if (size_ > kCapacity) shrink();
  }

 private:
  // Closes the smallest gap, or drops the shortest range.
  constexpr void shrink() {
    int at = 0;
    if constexpr (kBias == Bias::outer) {
      ATTNLANG_ROLLED
      for (int i = 1; i + 1 < size_; ++i) {
        if (gap(i) < gap(at)) at = i;
      }
      ranges_[at + 1].begin = ranges_[at].begin;
    } else {
      ATTNLANG_ROLLED
      for (int i = 1; i < size_; ++i) {
        if (length(i) < length(at)) at = i;
      }
    }
    --size_;
    ATTNLANG_ROLLED
    for (int i = at; i < size_; ++i) ranges_[i] = ranges_[i + 1];
  }
  constexpr int64_t gap(int i) const { return ranges_[i + 1].begin - ranges_[i].end; }
  constexpr int64_t length(int i) const { return ranges_[i].end / 2 - ranges_[i].begin / 2; }

  Range ranges_[kCapacity + 1] = {};
  int size_ = 0;
};

}  // namespace attnlang
