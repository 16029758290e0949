// Dropout: Philox4x32-10 (Salmon et al., SC 2011) of (seed, b, h, q_idx, kv_idx), in lanes.
//
//   key     = (seed mod 2^32, seed / 2^32)
//   counter = (kv_idx, q_idx, h, b), each mod 2^32
//   uniform = (word 0 >> 8) * 2^-24
//
// An element is kept iff uniform >= p. The same on every target, bit for bit, whatever the lanes
// are: attnlang/reference/philox.py is the definition.
#pragma once

#include "attnlang/cpu/simd.h"

namespace attnlang::cpu {

using U = uint32_t __attribute__((vector_size(kLanes * 4)));

namespace detail {

struct Product {
  U high, low;
};

// The 64-bit products of each lane with a constant.
[[gnu::always_inline]] inline Product multiply_wide(U x, uint32_t constant) {
#if defined(__AVX512F__)
  const __m512i c = _mm512_set1_epi64(constant);
  const __m512i even = _mm512_mul_epu32((__m512i)x, c);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)x, 32), c);
  return {.high = (U)_mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xAAAA, odd),
          .low = (U)_mm512_mask_mov_epi32(even, 0xAAAA, _mm512_slli_epi64(odd, 32))};
#elif defined(__AVX2__)
  const __m256i c = _mm256_set1_epi64x(constant);
  const __m256i even = _mm256_mul_epu32((__m256i)x, c);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)x, 32), c);
  return {.high = (U)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA),
          .low = (U)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA)};
#elif defined(__SSE2__)
  const __m128i c = _mm_set1_epi64x(constant);
  const __m128i left = _mm_set1_epi64x(0xffffffff);
  const __m128i even = _mm_mul_epu32((__m128i)x, c);
  const __m128i odd = _mm_mul_epu32(_mm_srli_epi64((__m128i)x, 32), c);
  return {.high = (U)_mm_or_si128(_mm_srli_epi64(even, 32), _mm_andnot_si128(left, odd)),
          .low = (U)_mm_or_si128(_mm_and_si128(left, even), _mm_slli_epi64(odd, 32))};
#else
  Product r;
  for (int i = 0; i < kLanes; ++i) {
    const uint64_t product = uint64_t{x[i]} * constant;
    r.high[i] = static_cast<uint32_t>(product >> 32);
    r.low[i] = static_cast<uint32_t>(product);
  }
  return r;
#endif
}

}  // namespace detail

struct PhiloxWords {
  U word[4];
};

// Ten rounds. What a caller does not read, the compiler does not compute.
[[gnu::always_inline]] inline PhiloxWords philox(U c0, U c1, U c2, U c3, uint32_t k0, uint32_t k1) {
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const detail::Product first = detail::multiply_wide(c0, 0xD2511F53);
    const detail::Product second = detail::multiply_wide(c2, 0xCD9E8D57);
    c0 = second.high ^ c1 ^ k0;
    c1 = second.low;
    c2 = first.high ^ c3 ^ k1;
    c3 = first.low;
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {{c0, c1, c2, c3}};
}

// The dropout of one (request, head).
struct Dropout {
  uint64_t seed;
  int64_t b, h;
  float threshold;  // p * 2^24, which is exact
  float kept;       // what multiplies a kept weight

  static Dropout of(uint64_t seed, int64_t b, int64_t h, float p) {
    return {.seed = seed, .b = b, .h = h, .threshold = p * 0x1p24f, .kept = 1 / (1 - p)};
  }

  // 0 with probability p, else 1 / (1 - p).
  [[gnu::always_inline]] F at(I q_idx, I kv_idx) const {
    const U head = static_cast<uint32_t>(h) - U{}, request = static_cast<uint32_t>(b) - U{};
    const U word = philox((U)kv_idx, (U)q_idx, head, request, static_cast<uint32_t>(seed),
                          static_cast<uint32_t>(seed >> 32))
                       .word[0];
    return select(to_float((I)(word >> 8)) >= threshold, splat_f(kept), F{});
  }
};

}  // namespace attnlang::cpu
