// What a strip of queries keeps of a tile: which lanes beside each key, and which keys at all.
//
// The mask is asked once, before anything is multiplied: keys that no row of the strip keeps are in
// neither product, wherever in the tile they lie.
#pragma once

#include <cstdint>

#include "attnlang/cpu/gemm.h"
#include "attnlang/cpu/simd.h"
#include "kernels/cpu_tile.h"

namespace attnlang::cpu {

constexpr int kStrip = kStripVectors * kLanes, kStrips = kQueryTile / kStrip;

// A mask as it is stored: a bit a lane where there are registers of bits.
struct KeptLanes {
#if defined(__AVX512F__)
  __mmask16 bits;
  static KeptLanes of(M m) { return {_mm512_test_epi32_mask((__m512i)m, (__m512i)m)}; }
  bool any() const { return bits != 0; }
  F select(F a, F b) const { return (F)_mm512_mask_blend_ps(bits, (__m512)b, (__m512)a); }
#else
  M lanes;
  static KeptLanes of(M m) { return {m}; }
  bool any() const { return cpu::any(lanes); }
  F select(F a, F b) const { return cpu::select(lanes, a, b); }
#endif
};

// The keys of a tile that a strip goes through, in order. Where the mask is not asked they are all,
// and only `count` is set.
struct StripKeys {
  int count;
  uint8_t key[kKeyTile];

  void take_all(int n) {
    for (count = 0; count < n; ++count) key[count] = static_cast<uint8_t>(count);
  }
  // Keys j .. j + together - 1, if they are `wanted`; keys come in order.
  void add(int j, int together, bool wanted) {
    for (int i = 0; i < together; ++i) key[count + i] = static_cast<uint8_t>(j + i);
    count += wanted ? together : 0;
  }
  // Key number i.
  template <bool kMasked>
  int at(int i) const {
    return kMasked ? key[i] : i;
  }
  // Of rows that hold kTogether keys each, those of the strip, in `some` if they are not all.
  template <bool kMasked, int kTogether>
  const float* const* rows(const float* const* all, const float** some) const {
    if constexpr (!kMasked) return all;
    for (int i = 0; i < count; i += kTogether) some[i / kTogether] = all[key[i] / kTogether];
    return some;
  }
};

}  // namespace attnlang::cpu
