// Rows of one-byte elements as rows of another element type: float8_e4m3fn (no infinity, NaN where
// all bits but the sign are 1) and float8_e5m2 (the upper half of a half), times a scale, rounded.
#pragma once

#include "attnlang/cpu/element.h"
#include "attnlang/host/call.h"

namespace attnlang::cpu {

// The half with the same sign and digits: e4m3's exponent is 8 less, which `kScale` makes good.
// `T` is lanes of uint16_t.
template <DType kType>
struct Fp8;

template <>
struct Fp8<DType::f8e5m2> {
  static constexpr float kScale = 1.0f;
  template <class T>
  static T half_bits(T x) {
    return x << 8;
  }
};

template <>
struct Fp8<DType::f8e4m3> {
  static constexpr float kScale = 256.0f;
  template <class T>
  static T half_bits(T x) {
    const T magnitude = x & 0x7f, sign = (x & 0x80) << 8;
    return magnitude == 0x7f ? T{} + 0x7e00 : sign | magnitude << 7;
  }
};

// Reads rows whose bytes lie next to one another.
template <DType kType, class Element>
class Fp8Reader {
 public:
  explicit Fp8Reader(float scale) : scale_(scale) {
    if constexpr (kLooksUp) {
      for (int code = 0; code < kMagnitudes; code += kLanes) {
        uint8_t codes[kLanes];
        for (int i = 0; i < kLanes; ++i) codes[i] = static_cast<uint8_t>(code + i);
        store_elements(magnitudes_ + code, load(codes));
      }
    }
  }

  template <int kWidth>
  void read(Element* to, const uint8_t* row) const {
    constexpr int kWhole = kWidth / kAtOnce * kAtOnce, kRest = kWidth - kWhole;
    for (int i = 0; i < kWhole; i += kAtOnce) convert(to + i, row + i);
    if constexpr (kRest != 0) {
      uint8_t codes[kAtOnce] = {};
      Element rest[kAtOnce];
      std::memcpy(codes, row + kWhole, kRest);
      convert(rest, codes);
      std::memcpy(to + kWhole, rest, sizeof(Element) * kRest);
    }
  }

 private:
  static constexpr int kMagnitudes = 128;

  F load(const uint8_t* codes) const {
    using Bytes = uint8_t __attribute__((vector_size(kLanes)));
    using Words = uint16_t __attribute__((vector_size(kLanes * 2)));
    Bytes bytes;
    std::memcpy(&bytes, codes, sizeof bytes);
    const Words bits = Fp8<kType>::half_bits(__builtin_convertvector(bytes, Words));
    Half halves[kLanes];
    std::memcpy(halves, &bits, sizeof halves);
    return load_elements(halves) * Fp8<kType>::kScale * scale_;
  }

#if defined(__AVX512BW__)
  // Elements of two bytes are looked up, 32 in 8 instructions: what a magnitude becomes is in four
  // registers.
  static constexpr bool kLooksUp = sizeof(Element) == 2;
  static constexpr int kAtOnce = kLooksUp ? 2 * kLanes : kLanes;

  [[gnu::always_inline]] void convert(Element* to, const uint8_t* codes) const {
    if constexpr (kLooksUp) {
      const __m512i x = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)codes));
      const __m512i small = _mm512_permutex2var_epi16(entries(0), x, entries(1));
      const __m512i large = _mm512_permutex2var_epi16(entries(2), x, entries(3));
      const __mmask32 is_large = _mm512_test_epi16_mask(x, _mm512_set1_epi16(0x40));
      const __m512i sign = _mm512_and_si512(_mm512_slli_epi16(x, 8), _mm512_set1_epi16(-0x8000));
      const __m512i magnitude = _mm512_mask_blend_epi16(is_large, small, large);
      _mm512_storeu_si512(to, _mm512_xor_si512(magnitude, sign));
    } else {
      store_elements(to, load(codes));
    }
  }

  __m512i entries(int quarter) const {
    return _mm512_load_si512(magnitudes_ + quarter * kMagnitudes / 4);
  }
#else
  static constexpr bool kLooksUp = false;
  static constexpr int kAtOnce = kLanes;

  [[gnu::always_inline]] void convert(Element* to, const uint8_t* codes) const {
    store_elements(to, load(codes));
  }
#endif

  float scale_;
  alignas(64) Element magnitudes_[kLooksUp ? kMagnitudes : 1];
};

}  // namespace attnlang::cpu
