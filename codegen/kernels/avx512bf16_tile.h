// The operands of a tile for the two products in bfloat16 pairs (dpbf16), as FloatTile for float32.
//
// The instruction adds products of two neighbouring elements, so depth goes in pairs: of the head
// dimension for scores (K is read where it lies), of keys for values (V is interleaved per tile,
// weights are rounded to bfloat16 in place).
#pragma once

#if defined(__AVX512BF16__) && defined(__AVX512BW__)

#include <algorithm>

#include "attnlang/cpu/gemv_pairs.h"
#include "kernels/cpu_tile.h"

namespace attnlang::cpu {

struct PairProduct {
  [[gnu::always_inline]] static F add(F sum, F a, F b) {
    return (F)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
  }
};

[[gnu::always_inline]] inline uint32_t pair(Bf16 low, Bf16 high) {
  return uint32_t{low.bits} | uint32_t{high.bits} << 16;
}

template <int... i>
__m512i interleaving(std::integer_sequence<int, i...>) {
  using Words = short __attribute__((vector_size(64)));
  return (__m512i)Words{short{i / 2 + i % 2 * kLanes}...};
}

// bfloat16 of two vectors, interleaved: lane i holds (low[i], high[i]).
[[gnu::always_inline]] inline F pair(F low, F high) {
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
  const __m512i order = interleaving(std::make_integer_sequence<int, 2 * kLanes>());
  return (F)_mm512_permutexvar_epi16(order, halves);
}

template <int kD, int kDV>
struct Bf16Tile {
  static constexpr int kPairs = (kD + 1) / 2;
  static constexpr int kKeyPairs = kKeyTile / 2;
  static constexpr int kExp2Degree = 4;  // weights are rounded to 8 bits
  static constexpr int kTogether = 2;

  alignas(64) uint32_t q[kPanels * kPairs * kPanel];  // [panel][pair of d][kPanel]
  alignas(64) uint32_t k[kKeyTile * kPairs];
  alignas(64) uint32_t v[kKeyPairs * kDV];  // [pair of keys][kDV]
  const float* k_rows[kKeyTile];
  const float* v_rows[kKeyPairs];

  void start() {}

  template <class RowOf>
  void load_queries(const RowOf& row_of, int64_t inner, int rows) {
    load_panels<kPairs>(reinterpret_cast<float*>(q), rows, [&](int m, float* row) {
      pack_row(reinterpret_cast<uint32_t*>(row), row_of(m), inner);
    });
  }

  template <class Kv>
  void load_keys(const Kv& kv, int n) {
    for (int j = 0; j < n; ++j) {
      const Bf16* row = kv.k_row(j);
      if (kv.k_inner == 1 && kD % 2 == 0) {
        k_rows[j] = reinterpret_cast<const float*>(row);
      } else {
        pack_row(k + j * kPairs, row, kv.k_inner);
        k_rows[j] = reinterpret_cast<const float*>(k + j * kPairs);
      }
    }
  }

  template <class Kv>
  void load_values(const Kv& kv, int n, const int32_t* hidden) {
    static const Bf16 zeros[kDV] = {};
    for (int j = 0; j < n; j += 2) {
      const auto row = [&](int i) {
        const bool skip = i >= n || (hidden != nullptr && hidden[i] != 0);
        return skip ? zeros : kv.v_row(i);
      };
      const Bf16 *low = row(j), *high = row(j + 1);
      const int64_t low_inner = low == zeros ? 1 : kv.v_inner;
      const int64_t high_inner = high == zeros ? 1 : kv.v_inner;
      uint32_t* out = v + j / 2 * kDV;
      if (low_inner == 1 && high_inner == 1) {
        interleave_rows(out, low, high);
      } else {
        for (int e = 0; e < kDV; ++e) out[e] = pair(low[e * low_inner], high[e * high_inner]);
      }
      v_rows[j / 2] = reinterpret_cast<const float*>(out);
    }
  }

  template <int kVectors, class Consume>
  [[gnu::always_inline]] void dot(int m, const float* const* rows, int count,
                                  const Consume& consume) const {
    const auto* queries =
        reinterpret_cast<const float*>(q + m / kPanel * kPairs * kPanel + m % kPanel);
    dot_strip<PairProduct, kVectors>(rows, count, kPairs, queries, consume);
  }

  // Rows 2t and 2t + 1 become row t of pairs, which is written after both are read.
  static void store_weights(float* weights, int j, F low, F high) {
    store(weights + j / 2 * kPanel, pair(low, high));
  }

  template <int kVectors>
  static void accumulate(const float* const* rows, int count, const float* weights,
                         const float* factor, float* acc) {
    accumulate_strip<PairProduct, kDV, kVectors>(rows, (count + 1) / 2, weights, factor, acc);
  }

 private:
  static void interleave_rows(uint32_t* out, const Bf16* low, const Bf16* high) {
    constexpr std::make_integer_sequence<int, kPairLanes> kEachLane;
    const auto put = [&](int e, __m512i pairs) {
      if (e + kLanes <= kDV) _mm512_storeu_si512(out + e, pairs);
      else if (e < kDV) _mm512_mask_storeu_epi32(out + e, (1 << (kDV - e)) - 1, pairs);
    };
    for (int c = 0; c < padded_pairs(kDV) / kPairLanes; ++c) {
      const __m512i a = detail::load_pairs<kDV>(low, c);
      const __m512i b = detail::load_pairs<kDV>(high, c);
      put(c * kPairLanes, detail::interleave(a, b, 0, kEachLane));
      put(c * kPairLanes + kLanes, detail::interleave(a, b, kLanes, kEachLane));
    }
  }

  static void pack_row(uint32_t* out, const Bf16* row, int64_t inner) {
    if (inner == 1 && kD % 2 == 0) {
      std::memcpy(out, row, kD * sizeof(Bf16));
      return;
    }
    for (int d = 0; d < kPairs; ++d) {
      const Bf16 high = 2 * d + 1 < kD ? row[(2 * d + 1) * inner] : Bf16{0};
      out[d] = pair(row[2 * d * inner], high);
    }
  }
};

}  // namespace attnlang::cpu

#endif
