// What a generated `Line` says of a tile: its extremes are not known on the device, so whatever
// asks for them learns nothing and elements decide.
#pragma once

#include <cstdint>
#include <type_traits>

#include "attnlang/host/float_interval.h"
#include "attnlang/host/interval.h"
#include "attnlang/host/target.h"

namespace attnlang::cuda {

template <class Line, class Request>
ATTNLANG_DEVICE auto range_of(const Request&, Interval) {
  using Value = typename Line::Value;
  if constexpr (std::is_same_v<Value, bool>) return Verdict::unknown;
  else if constexpr (std::is_same_v<Value, float>) return FloatInterval::any();
  else return Interval{std::numeric_limits<Value>::min(), std::numeric_limits<Value>::max()};
}

template <class Line, class Request>
ATTNLANG_DEVICE Verdict bit_of(const Request&, Interval, Interval) {
  return Verdict::unknown;
}

template <class Rows, class Columns, class Request>
ATTNLANG_DEVICE Verdict equal(const Request&, Interval, Interval) {
  return Verdict::unknown;
}

template <class Rows, class Columns, class Request>
ATTNLANG_DEVICE Verdict meeting(const Request&, Interval, Interval) {
  return Verdict::unknown;
}

}  // namespace attnlang::cuda
