// Which columns a block of rows keeps, as far as a closed form tells (or rows, of columns).
//
// Outside `may` every element of the block is false, inside `must` every one is true. A closed form
// is a verdict of one column, made of half-lines whose bounds have a least and a greatest value
// over the block: it changes where one of them does, so a sweep over these places finds both sets.
#pragma once

#include "attnlang/host/interval.h"
#include "attnlang/host/range_set.h"
#include "attnlang/host/target.h"
#include "attnlang/host/verdict.h"

namespace attnlang {

struct Coverage {
  RangeSet<Bias::outer> may;
  RangeSet<Bias::inner> must;

  static constexpr Coverage all() {
    return {decltype(may)::everything(), decltype(must)::everything()};
  }
  static constexpr Coverage unknown() { return {decltype(may)::everything(), {}}; }
};

// What two blocks keep together.
constexpr Coverage join(const Coverage& a, const Coverage& b) {
  return {a.may | b.may, a.must & b.must};
}

// `column >= bound` or `column <= bound`: the verdict of columns before `first`, of those from it
// to `second`, which is unknown, and of those from there on.
class HalfLine {
 public:
  static constexpr HalfLine at_least(Interval bound) {
    return {placed(bound.lo, 0), placed(bound.hi, 0), Verdict::empty};
  }
  static constexpr HalfLine at_most(Interval bound) {
    return {placed(bound.lo, 1), placed(bound.hi, 1), Verdict::full};
  }

  constexpr Verdict operator()(int64_t column) const {
    return column < first_ ? before_ : column < second_ ? Verdict::unknown : ~before_;
  }
  // The first place after a column where the verdict changes, if there is one before `end`.
  constexpr int64_t change_after(int64_t column, int64_t end) const {
    const int64_t next = column < first_ ? first_ : column < second_ ? second_ : end;
    return next < end ? next : end;
  }

 private:
  static constexpr int64_t placed(int64_t bound, int64_t past) {
    if (bound < -kFarPosition) return -kFarPosition;
    return bound >= kFarPosition ? kFarPosition : bound + past;
  }
  constexpr HalfLine(int64_t first, int64_t second, Verdict before)
      : first_(first), second_(second), before_(before) {}

  int64_t first_, second_;
  Verdict before_;
};

constexpr HalfLine at_least(Interval bound) { return HalfLine::at_least(bound); }
constexpr HalfLine at_most(Interval bound) { return HalfLine::at_most(bound); }

// `verdict_of`: a column's verdict, made of those of `lines` and of what is the same for all.
template <class VerdictOf, class... Line>
constexpr Coverage covered(const VerdictOf& verdict_of, const Line&... lines) {
  Coverage found{};
  ATTNLANG_ROLLED
  for (int64_t column = -kFarPosition; column < kFarPosition;) {
    int64_t end = kFarPosition;
    ((end = lines.change_after(column, end)), ...);
    const Verdict verdict = verdict_of(column);
    if (!is_empty(verdict)) found.may.append(column, end);
    if (is_full(verdict)) found.must.append(column, end);
    column = end;
  }
  return found;
}

// What was solved under a condition on the call's values.
constexpr Verdict guarded(Verdict guard, Verdict solved) {
  return is_full(guard) ? solved : Verdict::unknown;
}

}  // namespace attnlang
