// What the backward's products multiply: rows of keys and values, and a tile's matrices over them.
//
// An operand has 32-bit entries, as in gemm.h: a float, or a pair of bfloat16 that stand one after
// the other along the dimension which the product sums over. That is d for scores and what reached
// weights, queries for the gradients of keys and values, keys for those of queries.
#pragma once

#include <algorithm>

#include "kernels/avx512bf16_tile.h"
#include "kernels/cpu_tile.h"

namespace attnlang::cpu {

constexpr int kTileElements = kPanels * kKeyTile * kPanel;  // [panel][kKeyTile][kPanel]

template <class Source, int kD, int kDV>
struct FloatOperands {
  using Product = FloatProduct;
  static constexpr int kEntries = 1;  // in 32 bits
  static constexpr int kExp2Degree = FloatTile<Source, kD, kDV>::kExp2Degree;

  FloatTile<Source, kD, kDV> tile;
  alignas(64) float no_key[kD];
  alignas(64) float weights[kTileElements];
  alignas(64) float slopes[kTileElements];  // of the dot products

  // A row of kWidth numbers, of which there are whole vectors, as one row of entries.
  template <int kWidth>
  static void pack_row(float* out, const float* row) {
    std::copy_n(row, kWidth, out);
  }
  // Leaves what entries lack of the numbers; whether that is anything.
  static bool leave_rest(float*, int) { return false; }
  // kEntries rows as one: kLanes columns of them.
  static F join(const float* const* rows, int column) { return load_f(rows[0] + column); }

  void start() {
    tile.start();
    std::fill_n(no_key, kD, 0.0f);
  }
  // `hidden`, where given: keys that count as zero, whatever their rows hold.
  template <class Kv>
  void load(const Kv& kv, int n, const int32_t* hidden) {
    tile.load_keys(kv, n);
    tile.load_values(kv, n, hidden);
    if (hidden == nullptr) return;
    for (int j = 0; j < n; ++j) {
      if (hidden[j] != 0) tile.k_rows[j] = no_key;
    }
  }
  const float* const* keys() const { return tile.k_rows; }
  const float* const* values() const { return tile.v_rows; }

  void store_element(int64_t at, F weight, F slope) {
    store(weights + at, weight);
    store(slopes + at, slope);
  }
  void finish_panel(int, int, int) {}
  const float* weight_row(int64_t at) const { return weights + at; }
  const float* slope_row(int64_t at) const { return slopes + at; }

  // grads[d] += sum over keys j < n of k[j][d] * slopes[j], for kVectors vectors of a panel.
  template <int kVectors>
  void add_to_queries(int panel, int n, float* grads) const {
    accumulate_strip<FloatProduct, kD, kVectors>(tile.k_rows, n, slopes + panel * kKeyTile * kPanel,
                                                 nullptr, grads);
  }
};

#if defined(__AVX512BF16__) && defined(__AVX512BW__)

// Weights and slopes are rounded to bfloat16. What reached out is where dV sums over it; what
// reaches weights is taken less a row's `delta`, of its size, and takes the rest of what reached
// out, too.
template <int kD, int kDV>
struct PairOperands {
  using Product = PairProduct;
  static constexpr int kEntries = 2;
  static constexpr int kExp2Degree = Bf16Tile<kD, kDV>::kExp2Degree;

  Bf16Tile<kD, kDV> tile;
  Bf16Tile<kDV, kD> crossed;  // keys for values: its keys are rows of V, its values pairs of K
  alignas(64) float no_key[std::max(kD, kDV)];
  alignas(64) Bf16 weights[kTileElements];
  alignas(64) Bf16 slopes[kTileElements];
  alignas(64) float slope_pairs[kTileElements / 2];  // [panel][pair of keys][kPanel]

  template <int kWidth>
  static void pack_row(float* out, const float* row) {
    for (int d = 0; d < kWidth; d += kLanes) {
      const __m256bh entries = _mm512_cvtneps_pbh((__m512)load_f(row + d));
      std::memcpy(out + d / 2, &entries, sizeof entries);
    }
  }
  static bool leave_rest(float* row, int width) {
    M left = splat_m(false);
    for (int d = 0; d < width; d += kLanes) {
      const F number = load_f(row + d);
      const F rest = number - (F)_mm512_cvtpbh_ps(_mm512_cvtneps_pbh((__m512)number));
      left |= rest != 0.0f;
      store(row + d, rest);
    }
    return any(left);
  }
  static F join(const float* const* rows, int column) {
    return pair(load_f(rows[0] + column), load_f(rows[1] + column));
  }

  void start() { std::fill_n(no_key, std::max(kD, kDV), 0.0f); }
  template <class Kv>
  void load(const Kv& kv, int n, const int32_t* hidden) {
    const Crossed<Kv> other{kv, kv.v_inner, kv.k_inner};
    tile.load_keys(kv, n);
    crossed.load_keys(other, n);
    crossed.load_values(other, n, hidden);
    if (hidden == nullptr) return;
    for (int j = 0; j < n; ++j) {
      if (hidden[j] != 0) tile.k_rows[j] = crossed.k_rows[j] = no_key;
    }
  }
  const float* const* keys() const { return tile.k_rows; }
  const float* const* values() const { return crossed.k_rows; }

  void store_element(int64_t at, F weight, F slope) {
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)slope, (__m512)weight);
    _mm256_store_si256(reinterpret_cast<__m256i*>(weights + at), _mm512_castsi512_si256(both));
    _mm256_store_si256(reinterpret_cast<__m256i*>(slopes + at), _mm512_extracti64x4_epi64(both, 1));
  }
  // Pairs the slopes of neighbouring keys.
  void finish_panel(int panel, int n, int vectors) {
    const __m512i order = interleaving(std::make_integer_sequence<int, 2 * kLanes>());
    for (int j = 0; j < n; j += 2) {
      const int64_t row = (panel * kKeyTile + j) * kPanel;
      for (int v = 0; v < vectors; ++v) {
        const auto half = [&](int64_t at) {
          return _mm256_load_si256(reinterpret_cast<const __m256i*>(slopes + at + v * kLanes));
        };
        const __m256i low = half(row);
        const __m256i high = j + 1 < n ? half(row + kPanel) : _mm256_setzero_si256();
        const __m512i halves = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
        store(slope_pairs + row / 2 + v * kLanes, (F)_mm512_permutexvar_epi16(order, halves));
      }
    }
  }
  const float* weight_row(int64_t at) const { return reinterpret_cast<const float*>(weights + at); }
  const float* slope_row(int64_t at) const { return reinterpret_cast<const float*>(slopes + at); }

  template <int kVectors>
  void add_to_queries(int panel, int n, float* grads) const {
    crossed.template accumulate<kVectors>(
        crossed.v_rows, n, slope_pairs + panel * kKeyTile * kPanel / 2, nullptr, grads);
  }

 private:
  template <class Kv>
  struct Crossed {
    const Kv& kv;
    int64_t k_inner, v_inner;
    const Bf16* k_row(int j) const { return kv.v_row(j); }
    const Bf16* v_row(int j) const { return kv.k_row(j); }
  };
};

#endif

// How the backward multiplies an element type on this machine.
template <class Source, int kD, int kDV>
struct ChooseOperands {
  using Type = FloatOperands<Source, kD, kDV>;
};
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
template <int kD, int kDV>
struct ChooseOperands<Bf16, kD, kDV> {
  using Type = PairOperands<kD, kDV>;
};
#endif

}  // namespace attnlang::cpu
