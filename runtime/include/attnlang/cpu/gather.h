// Reads of a tensor by lanes: each index is a scalar or a vector, clamped to its extent.
#pragma once

#include "attnlang/cpu/element.h"
#include "attnlang/cpu/integer_math.h"
#include "attnlang/cpu/simd.h"
#include "attnlang/host/tensor_view.h"

namespace attnlang::cpu {

namespace detail {

// A bool reads as M, which is I.
template <class T>
using LoadedLanes =
    std::conditional_t<std::is_same_v<Loaded<T>, float>, F,
                       std::conditional_t<std::is_same_v<Loaded<T>, int64_t>, L, I>>;

template <class Index>
constexpr bool kVectorIndex = Vector<Index>;
template <class Index>
constexpr bool kVectorIndex<Inside<Index>> = Vector<Index>;

template <class Index>
constexpr bool kNarrowIndex =
    kScalarIndex<Index> || std::is_same_v<Index, I> || std::is_same_v<Index, Inside<I>>;

template <class T>
[[gnu::always_inline]] inline void put_lane(LoadedLanes<T>& lanes, int i, Loaded<T> x) {
  if constexpr (std::is_same_v<T, bool>) lanes[i] = -int32_t{x};
  else lanes[i] = x;
}

template <class T>
constexpr bool kLoadsWhole = std::is_same_v<T, float> || std::is_same_v<T, Bf16> ||
                             std::is_same_v<T, Half> || std::is_same_v<T, int32_t>;

template <class T>
[[gnu::always_inline]] inline LoadedLanes<T> load_whole(const T* p) {
  if constexpr (std::is_same_v<T, int32_t>) return load_i(p);
  else return load_elements(p);
}

// Lanes p[offset[i]]; offsets fit in 32 bits. Neighbours, in either direction, and one element for
// all are what an index that is linear in the row or the column gives, clamped or not.
template <class T>
[[gnu::always_inline]] inline LoadedLanes<T> gather(const T* p, I offset) {
  if constexpr (kLoadsWhole<T>) {
    const int32_t first = offset[0];
    const I step = offset - first;
    if (all(step == -iota_i())) {
      return __builtin_shuffle(load_whole(p + first - (kLanes - 1)), kLanes - 1 - iota_i());
    }
    if (all(step == 0)) return splat<LoadedLanes<T>>(read_element(p + first));
    if (all(step == iota_i())) return load_whole(p + first);
  }
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>) {
    return (F)_mm512_i32gather_ps((__m512i)offset, p, 4);
  } else if constexpr (std::is_same_v<T, int32_t>) {
    return (I)_mm512_i32gather_epi32((__m512i)offset, p, 4);
  }
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<T, float>) {
    return (F)_mm256_i32gather_ps(p, (__m256i)offset, 4);
  } else if constexpr (std::is_same_v<T, int32_t>) {
    return (I)_mm256_i32gather_epi32(p, (__m256i)offset, 4);
  }
#endif
  LoadedLanes<T> r{};
  for (int i = 0; i < kLanes; ++i) put_lane<T>(r, i, read_element(p + offset[i]));
  return r;
}

template <class Index>
[[gnu::always_inline]] inline void add_lane_term(I& offset, Index index, int32_t size,
                                                 int32_t stride) {
  if constexpr (std::is_same_v<Index, I>) {
    offset += clamp(index, I{}, splat_i(size - 1)) * stride;
  } else if constexpr (std::is_same_v<Index, Inside<I>>) {
    offset += index.value * stride;
  }
}

template <class Index>
[[gnu::always_inline]] inline void add_scalar_term(int64_t& offset, Index index, int64_t size,
                                                   int64_t stride) {
  if constexpr (kScalarIndex<Index>) offset += index_in(index, size) * stride;
}

// Lane i of an index, within its extent.
template <class Index>
[[gnu::always_inline]] inline int64_t lane_in(Index index, int i, int64_t size) {
  if constexpr (kScalarIndex<Index>) return index_in(index, size);
  else return clamp_index(index[i], size);
}
template <Vector Index>
[[gnu::always_inline]] inline int64_t lane_in(Inside<Index> index, int i, int64_t) {
  return index.value[i];
}

// Whether 32 bits hold every offset that the vector indices can make.
template <class T, int kRank, class... Index>
[[gnu::always_inline]] inline bool offsets_fit(const View<T, kRank>& view) {
  int64_t reach = 0;
  int axis = 0;
  const auto add = [&](bool vector) {
    if (vector) {
      const int64_t stride = view.stride[axis] < 0 ? -view.stride[axis] : view.stride[axis];
      const bool small = stride < INT32_MAX && view.size[axis] < INT32_MAX;
      reach += small ? (view.size[axis] - 1) * stride : INT32_MAX;
    }
    ++axis;
  };
  (add(!kScalarIndex<Index>), ...);
  return reach < INT32_MAX;
}

// Lane by lane, in 64 bits. A function of its own: it is long, and a score may read several tensors
// for each vector of a strip.
template <class T, int kRank, class... Index>
[[gnu::noinline]] LoadedLanes<T> load_each(const View<T, kRank>& view, Index... index) {
  LoadedLanes<T> r{};
  for (int i = 0; i < kLanes; ++i) {
    int64_t offset = 0;
    int axis = 0;
    ((offset += lane_in(index, i, view.size[axis]) * view.stride[axis], ++axis), ...);
    put_lane<T>(r, i, read_element(view.data + offset));
  }
  return r;
}

}  // namespace detail

// Indices of rows or columns, those past the end brought to the last.
inline I within(I index, int64_t size) {
  return clamp(index, I{}, splat_i(static_cast<int32_t>(size < 1 ? 0 : size - 1)));
}

template <class T, int kRank, class... Index>
  requires(sizeof...(Index) == kRank && (detail::kVectorIndex<Index> || ...))
[[gnu::always_inline]] inline detail::LoadedLanes<T> load(const View<T, kRank>& view,
                                                          Index... index) {
  using Lanes = detail::LoadedLanes<T>;
  if (view.empty()) return Lanes{};
  if constexpr ((detail::kNarrowIndex<Index> && ...)) {
    if (detail::offsets_fit<T, kRank, Index...>(view)) {
      int64_t base = 0;
      I offset{};
      int axis = 0;
      ((detail::add_scalar_term(base, index, view.size[axis], view.stride[axis]),
        detail::add_lane_term(offset, index, static_cast<int32_t>(view.size[axis]),
                              static_cast<int32_t>(view.stride[axis])),
        ++axis),
       ...);
      return detail::gather<T>(view.data + base, offset);
    }
  }
  return detail::load_each<T>(view, index...);
}

}  // namespace attnlang::cpu
