// Reads of a tensor by lanes: each index is a scalar or a vector, clamped to its extent.
#pragma once

#include <tuple>

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
constexpr bool kLoadsWhole =
    std::is_same_v<T, float> || std::is_same_v<T, Bf16> || std::is_same_v<T, Half> ||
    std::is_same_v<T, int32_t> || std::is_same_v<T, int64_t> || std::is_same_v<T, bool>;

template <class T>
[[gnu::always_inline]] inline LoadedLanes<T> load_whole(const T* p) {
  if constexpr (std::is_same_v<T, int32_t>) {
    return load_i(p);
  } else if constexpr (std::is_same_v<T, int64_t>) {
    return load_l(p);
  } else if constexpr (std::is_same_v<T, bool>) {
    using Bytes = int8_t __attribute__((vector_size(kLanes)));
    Bytes bytes;
    std::memcpy(&bytes, p, sizeof bytes);
    return __builtin_convertvector(bytes, I) != 0;
  } else return load_elements(p);
}

template <class T>
[[gnu::always_inline]] inline LoadedLanes<T> splat_element(const T* p) {
  if constexpr (std::is_same_v<T, bool>) return splat_m(read_element(p));
  else return splat<LoadedLanes<T>>(read_element(p));
}

// Lanes p[offset[i]]; offsets fit in 32 bits. Neighbours, in either direction, and one element for
// all are what an index that is linear in the row or the column gives, clamped or not; one that was
// computed in 64 bits is neither.
template <class T, bool kScattered>
[[gnu::always_inline]] inline LoadedLanes<T> gather(const T* p, I offset) {
  if constexpr (kLoadsWhole<T> && !kScattered) {
    const int32_t first = offset[0];
    const I step = offset - first;
    if (all(step == iota_i())) return load_whole(p + first);
    if (all(step == 0)) return splat_element(p + first);
    if (all(step == -iota_i())) {
      const LoadedLanes<T> lanes = load_whole(p + first - (kLanes - 1));
      if constexpr (std::is_same_v<T, int64_t>) {
        return __builtin_shuffle(lanes, to_long(kLanes - 1 - iota_i()));
      } else {
        return __builtin_shuffle(lanes, kLanes - 1 - iota_i());
      }
    }
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

#if defined(__AVX512F__)
constexpr bool kNarrowsLongs = true;
// The lanes of an index that fit in 32 bits once they are clamped.
[[gnu::always_inline]] inline Inside<I> narrowed(L index, int64_t size) {
  __m512i halves[2];
  std::memcpy(halves, &index, sizeof halves);
  for (__m512i& half : halves) {
    half = _mm512_max_epi64(half, _mm512_setzero_si512());
    half = _mm512_min_epi64(half, _mm512_set1_epi64(size - 1));
  }
  const __m512i low = _mm512_castsi256_si512(_mm512_cvtepi64_epi32(halves[0]));
  return {(I)_mm512_inserti64x4(low, _mm512_cvtepi64_epi32(halves[1]), 1)};
}
#else
constexpr bool kNarrowsLongs = false;
#endif
template <class Index>
[[gnu::always_inline]] inline auto narrowed(Index index, int64_t) {
  if constexpr (std::is_same_v<Index, Inside<L>>) return Inside<I>{to_int(index.value)};
  else return index;
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

template <Vector Index>
[[gnu::always_inline]] inline bool grows(Index index, int64_t size) {
  return index[0] >= 0 && index[kLanes - 1] < size && index[kLanes - 1] - index[0] == kLanes - 1;
}
// Whether the last index, of neighbours or clamped, stays within its extent unclamped.
template <int kRank, class... Index>
[[gnu::always_inline]] inline bool grows(const int64_t* size, Index... index) {
  const auto last = std::get<kRank - 1>(std::tie(index...));
  if constexpr (kScalarIndex<decltype(last)>) return false;
  else if constexpr (requires { last.value; }) return grows(last.value, size[kRank - 1]);
  else return grows(last, size[kRank - 1]);
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
  if constexpr ((detail::kNarrowIndex<Index> && ...) || detail::kNarrowsLongs) {
    if (detail::offsets_fit<T, kRank, Index...>(view)) {
      int64_t base = 0;
      I offset{};
      int axis = 0;
      ((detail::add_scalar_term(base, index, view.size[axis], view.stride[axis]),
        detail::add_lane_term(offset, detail::narrowed(index, view.size[axis]),
                              static_cast<int32_t>(view.size[axis]),
                              static_cast<int32_t>(view.stride[axis])),
        ++axis),
       ...);
      constexpr bool kScattered = (std::is_same_v<Index, L> || ...);
      return detail::gather<T, kScattered>(view.data + base, offset);
    }
  }
  return detail::load_each<T>(view, index...);
}

// Where lane 0 reads.
template <class T, int kRank, class... Index>
  requires(sizeof...(Index) == kRank)
[[gnu::always_inline]] inline const char* address(const View<T, kRank>& view, Index... index) {
  if (view.empty()) return nullptr;
  int64_t offset = 0;
  int axis = 0;
  ((offset += detail::lane_in(index, 0, view.size[axis]) * view.stride[axis], ++axis), ...);
  return reinterpret_cast<const char*>(view.data + offset);
}

// The same where every index but the last is one for all lanes, and the last grows by 1 a lane: a
// row of the tensor, read as it lies.
template <class T, int kRank, class... Index>
  requires(sizeof...(Index) == kRank && (detail::kVectorIndex<Index> || ...))
[[gnu::always_inline]] inline detail::LoadedLanes<T> load_along(const View<T, kRank>& view,
                                                                Index... index) {
  if constexpr (detail::kLoadsWhole<T>) {
    if (!view.empty() && view.stride[kRank - 1] == 1 && detail::grows<kRank>(view.size, index...)) {
      return detail::load_whole(reinterpret_cast<const T*>(address(view, index...)));
    }
  }
  return load(view, index...);
}

}  // namespace attnlang::cpu
