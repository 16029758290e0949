// Which columns a block of rows keeps, as far as a closed form tells (or rows, of columns).
//
// Outside `may` every element of the block is false, inside `must` every one is true. A half-line's
// bound has a least and a greatest value over the block: `may` takes the generous one.
#pragma once

#include "attnlang/host/interval.h"
#include "attnlang/host/range_set.h"
#include "attnlang/host/verdict.h"

namespace attnlang {

struct Coverage {
  RangeSet<Bias::outer> may;
  RangeSet<Bias::inner> must;

  static constexpr Coverage all() {
    return {decltype(may)::everything(), decltype(must)::everything()};
  }
  static constexpr Coverage none() { return {}; }
  static constexpr Coverage unknown() { return {decltype(may)::everything(), {}}; }
};

constexpr Coverage operator|(const Coverage& a, const Coverage& b) {
  return {a.may | b.may, a.must | b.must};
}
constexpr Coverage operator&(const Coverage& a, const Coverage& b) {
  return {a.may & b.may, a.must & b.must};
}
constexpr Coverage operator~(const Coverage& a) { return {~a.must, ~a.may}; }

// What two blocks keep together.
constexpr Coverage join(const Coverage& a, const Coverage& b) {
  return {a.may | b.may, a.must & b.must};
}

constexpr Coverage at_least(Interval bound) {
  return {decltype(Coverage::may)::at_least(bound.lo),
          decltype(Coverage::must)::at_least(bound.hi)};
}
constexpr Coverage at_most(Interval bound) {
  return {decltype(Coverage::may)::at_most(bound.hi), decltype(Coverage::must)::at_most(bound.lo)};
}
constexpr Coverage condition(Verdict v) {
  return is_full(v) ? Coverage::all() : is_empty(v) ? Coverage::none() : Coverage::unknown();
}
// What was solved under a condition on the call's values.
constexpr Coverage guarded(Verdict guard, const Coverage& solved) {
  return is_full(guard) ? solved : Coverage::unknown();
}

}  // namespace attnlang
