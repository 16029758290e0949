// Elements of one byte to float32 lanes: float8_e4m3fn (no infinity, NaN where all bits but the
// sign are 1) and float8_e5m2 (the upper half of a half).
#pragma once

#include "attnlang/cpu/element.h"
#include "attnlang/host/call.h"

namespace attnlang::cpu {

// The half with the same sign and digits: e4m3's exponent is 8 less, which `kScale` makes good.
template <DType kType>
struct Fp8;

template <>
struct Fp8<DType::f8e5m2> {
  static constexpr float kScale = 1.0f;
  static Half half(uint8_t x) { return {static_cast<uint16_t>(x << 8)}; }
};

template <>
struct Fp8<DType::f8e4m3> {
  static constexpr float kScale = 256.0f;
  static Half half(uint8_t x) {
    const unsigned magnitude = x & 0x7fu, sign = (x & 0x80u) << 8;
    return {static_cast<uint16_t>(magnitude == 0x7f ? 0x7e00u : sign | magnitude << 7)};
  }
};

// A row times `scale`, rounded to the element type.
template <DType kType, class Element>
void fp8_to_row(Element* to, const uint8_t* row, int64_t stride, int n, float scale) {
  Half halves[kLanes] = {};
  scale *= Fp8<kType>::kScale;
  for (int i = 0; i < n; i += kLanes) {
    const int count = n - i < kLanes ? n - i : kLanes;
    for (int j = 0; j < count; ++j) halves[j] = Fp8<kType>::half(row[(i + j) * stride]);
    const F values = load_elements(halves) * scale;
    if (count == kLanes) {
      store_elements(to + i, values);
    } else {
      for (int j = 0; j < count; ++j) to[i + j] = from_float32<Element>(values[j]);
    }
  }
}

}  // namespace attnlang::cpu
