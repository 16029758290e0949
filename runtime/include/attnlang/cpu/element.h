// Tensor elements to and from float32 lanes and rows.
#pragma once

#include "attnlang/cpu/simd.h"
#include "attnlang/host/tensor_view.h"

namespace attnlang::cpu {

// kLanes consecutive elements.
[[gnu::always_inline]] inline F load_elements(const float* p) { return load_f(p); }

[[gnu::always_inline]] inline F load_elements(const Bf16* p) {
#if defined(__AVX512F__)
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return (F)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
#elif defined(__AVX2__)
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return (F)_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
#else
  I bits;
  for (int i = 0; i < kLanes; ++i) bits[i] = static_cast<int32_t>(uint32_t{p[i].bits} << 16);
  return (F)bits;
#endif
}

[[gnu::always_inline]] inline F load_elements(const Half* p) {
#if defined(__AVX512F__)
  return (F)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__) && defined(__F16C__)
  return (F)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  F r;
  for (int i = 0; i < kLanes; ++i) r[i] = to_float32(p[i]);
  return r;
#endif
}

// The first n < kLanes elements, zeros after them; reads no further.
template <class Element>
[[gnu::always_inline]] inline F load_first_elements(const Element* p, int n) {
  Element padded[kLanes] = {};
  std::memcpy(padded, p, n * sizeof(Element));
  return load_elements(padded);
}

// kLanes consecutive elements, rounded to nearest even; NaN stays NaN.
[[gnu::always_inline]] inline void store_elements(float* p, F x) { store(p, x); }

[[gnu::always_inline]] inline void store_elements(Bf16* p, F x) {
  using Words = uint16_t __attribute__((vector_size(kLanes * 2)));
  const I bits = (I)x, high = bits >> 16;
  const I rounded = (bits + 0x7fff + (high & 1)) >> 16;
  const Words words = __builtin_convertvector(x != x ? high | 0x40 : rounded, Words);
  std::memcpy(p, &words, sizeof words);
}

[[gnu::always_inline]] inline void store_elements(Half* p, F x) {
#if defined(__AVX512F__)
  const __m256i words = _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT);
  std::memcpy(p, &words, sizeof words);
#elif defined(__AVX2__) && defined(__F16C__)
  const __m128i words = _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
  std::memcpy(p, &words, sizeof words);
#else
  for (int i = 0; i < kLanes; ++i) p[i] = to_half(x[i]);
#endif
}

template <class Element>
inline void row_to_float(float* out, const Element* row, int64_t stride, int n) {
  int i = 0;
  if (stride == 1) {
    for (; i + kLanes <= n; i += kLanes) store(out + i, load_elements(row + i));
  }
  for (; i < n; ++i) out[i] = to_float32(row[i * stride]);
}

template <class Element>
inline void float_to_row(Element* row, int64_t stride, const float* values, int n) {
  int i = 0;
  if (stride == 1) {
    for (; i + kLanes <= n; i += kLanes) store_elements(row + i, load_f(values + i));
  }
  for (; i < n; ++i) row[i * stride] = from_float32<Element>(values[i]);
}

}  // namespace attnlang::cpu
