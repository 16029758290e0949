// The operands of a tile for the two products in bfloat16 pairs (dpbf16), as FloatTile for float32.
//
// The instruction adds products of two neighbouring elements, so depth goes in pairs: of the head
// dimension for scores (K is read where it lies), of keys for values (V is interleaved per tile,
// weights are rounded to bfloat16 in place).
#pragma once

#if defined(__AVX512BF16__) && defined(__AVX512BW__)

#include <algorithm>

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

// bfloat16 of two vectors, interleaved: lane i holds (low[i], high[i]).
[[gnu::always_inline]] inline I pair(F low, F high) {
  const __m512i a = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)low));
  const __m512i b = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)high));
  return (I)_mm512_or_si512(a, _mm512_slli_epi32(b, 16));
}

template <int kD, int kDV>
struct Bf16Tile {
  static constexpr int kPairs = (kD + 1) / 2;
  static constexpr int kKeyPairs = kKeyTile / 2;

  alignas(64) uint32_t q[kPanels * kPairs * kPanel];  // [panel][pair of d][kPanel]
  alignas(64) uint32_t k[kKeyTile * kPairs];
  alignas(64) uint32_t v[kKeyPairs * kDV];  // [pair of keys][kDV]
  const float* k_rows[kKeyTile + 1];
  const float* v_rows[kKeyPairs];

  void start() {}

  template <class RowOf>
  void load_queries(const RowOf& row_of, int64_t inner, int rows) {
    uint32_t row[kPairs];
    const int padded = (rows + kPanel - 1) / kPanel * kPanel;
    for (int m = 0; m < padded; ++m) {
      if (m < rows) pack_row(row, row_of(m), inner);
      else std::fill_n(row, kPairs, 0u);
      uint32_t* column = q + m / kPanel * kPairs * kPanel + m % kPanel;
      for (int d = 0; d < kPairs; ++d) column[d * kPanel] = row[d];
    }
  }

  void load_keys(const StridedKv<Bf16>& kv, int n) {
    for (int j = 0; j < n; ++j) {
      const Bf16* row = kv.k_row(j);
      if (kv.k_inner == 1 && kD % 2 == 0) {
        k_rows[j] = reinterpret_cast<const float*>(row);
      } else {
        pack_row(k + j * kPairs, row, kv.k_inner);
        k_rows[j] = reinterpret_cast<const float*>(k + j * kPairs);
      }
    }
    k_rows[n] = k_rows[n - 1];
  }

  void load_values(const StridedKv<Bf16>& kv, int n, const int32_t* hidden) {
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
      int e = 0;
      if (low_inner == 1 && high_inner == 1) {
        for (; e + kLanes <= kDV; e += kLanes) {
          const I a = widen(low + e), b = widen(high + e);
          store(reinterpret_cast<int32_t*>(out + e), a | b << 16);
        }
      }
      for (; e < kDV; ++e) out[e] = pair(low[e * low_inner], high[e * high_inner]);
      v_rows[j / 2] = reinterpret_cast<const float*>(out);
    }
  }

  void dot(int panel, int n, float* scores) const {
    const auto* queries = reinterpret_cast<const float*>(q + panel * kPairs * kPanel);
    dot_panel<PairProduct>(k_rows, n, kPairs, queries, scores);
  }

  void accumulate(int panels, int n, float* weights, int64_t weights_stride, const float* factor,
                  float* acc) const {
    for (int i = 0; i < panels; ++i) pack_weights(weights + i * weights_stride, n);
    accumulate_panels<PairProduct, kDV>(v_rows, (n + 1) / 2, panels, weights, weights_stride,
                                        factor, acc);
  }

 private:
  static I widen(const Bf16* p) {
    return (I)_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }

  static void pack_row(uint32_t* out, const Bf16* row, int64_t inner) {
    for (int d = 0; d < kPairs; ++d) {
      const Bf16 high = 2 * d + 1 < kD ? row[(2 * d + 1) * inner] : Bf16{0};
      out[d] = pair(row[2 * d * inner], high);
    }
  }

  // Rows 2t and 2t + 1 become row t of pairs, which is written after both are read.
  static void pack_weights(float* rows, int n) {
    for (int j = 0; j < n; j += 2) {
      for (int v = 0; v < kPanel; v += kLanes) {
        const F low = load_f(rows + j * kPanel + v);
        const F high = j + 1 < n ? load_f(rows + (j + 1) * kPanel + v) : F{};
        store(rows + j / 2 * kPanel + v, (F)pair(low, high));
      }
    }
  }
};

}  // namespace attnlang::cpu

#endif
