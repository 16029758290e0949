// A typed view of a tensor, and reads that cannot leave it: every index is clamped to its extent.
//
// An absent or empty tensor reads as 0. Floats of every width read as float, small ints as int32.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "attnlang/host/call.h"
#include "attnlang/host/target.h"

namespace attnlang {

struct Bf16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};
// 8-bit floats, which pages alone have.
struct E4m3 {
  uint8_t bits;
};
struct E5m2 {
  uint8_t bits;
};

ATTNLANG_HD inline float to_float32(float x) { return x; }
ATTNLANG_HD inline float to_float32(double x) { return static_cast<float>(x); }
ATTNLANG_HD inline float to_float32(Bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }
ATTNLANG_HD inline float to_float32(Half x) {
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude << 13));
  // The exponent's bias moves from 15 to 127 by a product, which makes denormals right too.
  return std::bit_cast<float>(
      sign | std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude << 13) * 0x1p112f));
}

// Round to nearest even; NaN stays NaN.
ATTNLANG_HD inline Bf16 to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (x != x) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
ATTNLANG_HD inline Half to_half(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
  if (magnitude < 0x38800000u) {
    // Below 2^-14 the unit is 2^-24, the last bit of 1/2 in float32: the addition rounds.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u))};
  }
  const uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
  return {static_cast<uint16_t>(sign | (rounded >> 13))};
}

template <class T>
ATTNLANG_HD T from_float32(float x) {
  if constexpr (std::is_same_v<T, Bf16>) return to_bf16(x);
  else if constexpr (std::is_same_v<T, Half>) return to_half(x);
  else return static_cast<T>(x);
}

template <class T>
constexpr bool kIsFloating =
    std::is_floating_point_v<T> || std::is_same_v<T, Bf16> || std::is_same_v<T, Half>;

// What an element reads as.
template <class T>
using Loaded = std::conditional_t<
    std::is_same_v<T, bool>, bool,
    std::conditional_t<kIsFloating<T>, float,
                       std::conditional_t<std::is_same_v<T, int64_t>, int64_t, int32_t>>>;

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  else if constexpr (std::is_same_v<T, double>) return DType::f64;
  else if constexpr (std::is_same_v<T, Half>) return DType::f16;
  else if constexpr (std::is_same_v<T, Bf16>) return DType::bf16;
  else if constexpr (std::is_same_v<T, E4m3>) return DType::f8e4m3;
  else if constexpr (std::is_same_v<T, E5m2>) return DType::f8e5m2;
  else if constexpr (std::is_same_v<T, int8_t>) return DType::i8;
  else if constexpr (std::is_same_v<T, int16_t>) return DType::i16;
  else if constexpr (std::is_same_v<T, int32_t>) return DType::i32;
  else if constexpr (std::is_same_v<T, int64_t>) return DType::i64;
  else if constexpr (std::is_same_v<T, bool>) return DType::boolean;
  else return DType::u8;
}

template <class T, int kRank>
struct View {
  const T* data;
  int64_t size[kRank == 0 ? 1 : kRank];
  int64_t stride[kRank == 0 ? 1 : kRank];

  ATTNLANG_HD bool empty() const {
    if (data == nullptr) return true;
    for (int i = 0; i < kRank; ++i) {
      if (size[i] <= 0) return true;
    }
    return false;
  }
};

template <class T, int kRank>
ATTNLANG_HD View<T, kRank> view(const Tensor& tensor) {
  View<T, kRank> v{};
  v.data = static_cast<const T*>(tensor.data);
  for (int i = 0; i < kRank; ++i) {
    v.size[i] = tensor.size[i];
    v.stride[i] = tensor.stride[i];
  }
  return v;
}

ATTNLANG_HD inline int64_t clamp_index(int64_t i, int64_t size) {
  return i < 0 ? 0 : i < size ? i : size - 1;
}

// An index that is proved to lie within its extent: no clamp.
template <class Index>
struct Inside {
  Index value;
};
template <class Index>
constexpr Inside<Index> inside(Index value) {
  return {value};
}

template <class Index>
constexpr bool kScalarIndex = std::integral<Index>;
template <class Index>
constexpr bool kScalarIndex<Inside<Index>> = std::integral<Index>;

template <std::integral Index>
ATTNLANG_HD int64_t index_in(Index i, int64_t size) {
  return clamp_index(i, size);
}
template <std::integral Index>
ATTNLANG_HD int64_t index_in(Inside<Index> i, int64_t) {
  return i.value;
}

template <class T>
ATTNLANG_HD Loaded<T> read_element(const T* p) {
  if constexpr (std::is_same_v<T, bool>) {
    uint8_t byte;
    std::memcpy(&byte, p, 1);
    return byte != 0;
  } else if constexpr (kIsFloating<T>) {
    return to_float32(*p);
  } else {
    return *p;
  }
}

template <class T, int kRank, class... Index>
  requires(sizeof...(Index) == kRank && (kScalarIndex<Index> && ...))
ATTNLANG_HD Loaded<T> load(const View<T, kRank>& view, Index... index) {
  if (view.empty()) return Loaded<T>{};
  int64_t offset = 0;
  int axis = 0;
  ((offset += index_in(index, view.size[axis]) * view.stride[axis], ++axis), ...);
  return read_element(view.data + offset);
}

}  // namespace attnlang
