// Reads of a tensor over intervals of indices: the hull of what lies in the clamped box.
#pragma once

#include <limits>

#include "attnlang/host/float_interval.h"
#include "attnlang/host/tensor_view.h"

namespace attnlang {

namespace detail {

// A larger box counts as holding anything. On a GPU a lane reads it alone, beside its warp's tiles.
#if defined(__CUDA_ARCH__)
constexpr int64_t kMaxScan = 64;
#else
constexpr int64_t kMaxScan = 4096;
#endif

template <class T>
struct RangeOf {  // ints
  using Result = Interval;
  int64_t lo = INT64_MAX, hi = INT64_MIN;
  ATTNLANG_HD void add(int64_t x) {
    lo = least(lo, x);
    hi = greatest(hi, x);
  }
  ATTNLANG_HD Interval result() const { return {lo, hi}; }
  ATTNLANG_HD static Interval zero() { return {0, 0}; }
  ATTNLANG_HD static Interval any() {
    return {int64_t{std::numeric_limits<T>::min()}, int64_t{std::numeric_limits<T>::max()}};
  }
};

template <>
struct RangeOf<bool> {
  using Result = Verdict;
  bool some = false, every = true;
  ATTNLANG_HD void add(bool x) {
    some |= x;
    every &= x;
  }
  ATTNLANG_HD Verdict result() const { return verdict(every, !some); }
  ATTNLANG_HD static Verdict zero() { return Verdict::empty; }
  ATTNLANG_HD static Verdict any() { return Verdict::unknown; }
};

template <class T>
  requires kIsFloating<T>
struct RangeOf<T> {
  using Result = FloatInterval;
  double lo = kDoubleInfinity, hi = -kDoubleInfinity;
  bool nan = false;
  ATTNLANG_HD void add(float x) {
    lo = least<double>(lo, x);
    hi = greatest<double>(hi, x);
    nan |= x != x;
  }
  ATTNLANG_HD FloatInterval result() const { return nan ? any() : FloatInterval{lo, hi}; }
  ATTNLANG_HD static FloatInterval zero() { return {0, 0}; }
  ATTNLANG_HD static FloatInterval any() { return FloatInterval::any(); }
};

ATTNLANG_HD inline Interval index_range(Interval x) { return x; }
ATTNLANG_HD inline Interval index_range(std::integral auto x) { return Interval::point(x); }

// Nothing more can be learnt: bools of both kinds have been seen.
template <class T>
ATTNLANG_HD bool is_settled(const RangeOf<T>& range) {
  if constexpr (std::is_same_v<T, bool>) return range.some && !range.every;
  else return false;
}

// The axes from kAxis on. They are nested when it is compiled: a kernel for Hopper that calls a
// function at run time keeps neither its registers nor its products in flight.
template <int kAxis, class T, int kRank>
ATTNLANG_HD ATTNLANG_INLINE void scan(const T* data, const int64_t (&stride)[kRank],
                                      const Interval (&box)[kRank], RangeOf<T>& range) {
  if constexpr (kAxis == kRank - 1) {
    // A local copy, and a loop of its own for adjacent elements, so that it is vectorised.
    RangeOf<T> line = range;
    const T* first = data + box[kAxis].lo * stride[kAxis];
    const int64_t n = box[kAxis].hi - box[kAxis].lo + 1;
    if (stride[kAxis] == 1) {
      for (int64_t i = 0; i < n; ++i) line.add(read_element(first + i));
    } else {
      for (int64_t i = 0; i < n; ++i) line.add(read_element(first + i * stride[kAxis]));
    }
    range = line;
  } else {
    for (int64_t i = box[kAxis].lo; i <= box[kAxis].hi && !is_settled<T>(range); ++i) {
      scan<kAxis + 1>(data + i * stride[kAxis], stride, box, range);
    }
  }
}

}  // namespace detail

template <class T, int kRank, class... Index>
  requires(sizeof...(Index) == kRank && (std::is_same_v<Index, Interval> || ...))
ATTNLANG_HD typename detail::RangeOf<T>::Result load(const View<T, kRank>& view, Index... index) {
  if (view.empty()) return detail::RangeOf<T>::zero();
  Interval box[kRank] = {detail::index_range(index)...};
  int64_t elements = 1;
  for (int i = 0; i < kRank; ++i) {
    box[i] = {clamp_index(box[i].lo, view.size[i]), clamp_index(box[i].hi, view.size[i])};
    const int64_t extent = view.stride[i] == 0 ? 1 : box[i].hi - box[i].lo + 1;
    if (view.stride[i] == 0) box[i].hi = box[i].lo;
    if (extent > detail::kMaxScan) return detail::RangeOf<T>::any();
    elements *= extent;
    if (elements > detail::kMaxScan) return detail::RangeOf<T>::any();
  }
  detail::RangeOf<T> range;
  detail::scan<0>(view.data, view.stride, box, range);
  return range.result();
}

}  // namespace attnlang
