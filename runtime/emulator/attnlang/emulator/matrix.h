// ldmatrix, stmatrix and mma: which lane holds what, and the products, 8 columns a vector.
#pragma once

#include "attnlang/emulator/barriers.h"
#include "attnlang/host/tensor_view.h"

namespace attnlang::emulator {

using Eight [[gnu::vector_size(32)]] = float;

template <class Element>
float element_value(uint32_t bits) {
  return to_float32(Element{static_cast<uint16_t>(bits)});
}

struct MatrixRegisters {
  uint32_t r[4];
};

// kCount matrices of 8x8; lane l names row l % 8 of matrix l / 8.
template <int kCount, bool kTransposed>
MatrixRegisters load_matrices(const char* operation, const void* row) {
  const Thread& me = cta().thread();
  if (me.lane < 8 * kCount) checked_offset(operation, row, 16, 16);
  return meet<MatrixRegisters>(operation, kFullMask, row, [](auto& in, auto& out) {
    for (int m = 0; m < kCount; ++m) {
      uint16_t rows[8][8];
      for (int i = 0; i < 8; ++i) std::memcpy(rows[i], from<const void*>(in, m * 8 + i), 16);
      for (int l = 0; l < kWarpSize; ++l) {
        const int g = l / 4, t = l % 4 * 2;
        const uint32_t low = kTransposed ? rows[t][g] : rows[g][t];
        const uint32_t high = kTransposed ? rows[t + 1][g] : rows[g][t + 1];
        to<MatrixRegisters>(out, l).r[m] = low | (high << 16);
      }
    }
  });
}

struct StoreOperands {
  void* row;
  uint32_t r[4];
};

template <bool kTransposed>
void store_matrices(const char* operation, void* row, const uint32_t (&r)[4]) {
  checked_offset(operation, row, 16, 16);
  StoreOperands operands{row, {r[0], r[1], r[2], r[3]}};
  meet<bool>(operation, kFullMask, operands, [](auto& in, auto&) {
    Cta& c = cta();
    const auto place = [&](int m, int i, int j) {
      return static_cast<std::byte*>(from<StoreOperands>(in, m * 8 + i).row) + j * 2;
    };
    for (int m = 0; m < 4; ++m) {
      for (int l = 0; l < kWarpSize; ++l) {
        const int g = l / 4, t = l % 4 * 2;
        const uint32_t r = from<StoreOperands>(in, l).r[m];
        const auto low = static_cast<uint16_t>(r), high = static_cast<uint16_t>(r >> 16);
        std::memcpy(kTransposed ? place(m, t, g) : place(m, g, t), &low, 2);
        std::memcpy(kTransposed ? place(m, t + 1, g) : place(m, g, t + 1), &high, 2);
      }
    }
    const uint64_t time = c.tick();
    const int first = c.thread().warp->number * kWarpSize;
    for (int l = 0; l < kWarpSize; ++l) {
      c.shared().record_write(c.shared().offset(from<StoreOperands>(in, l).row), 16, first + l,
                              time);
    }
  });
}

struct MmaOperands {
  float d[4];
  uint32_t a[4], b[2];
};
struct MmaResult {
  float d[4];
};

template <class Element>
MmaResult multiply(const MmaOperands& operands) {
  return meet<MmaResult>("mma_m16n8k16", kFullMask, operands, [](auto& in, auto& out) {
    float a[16][16];
    alignas(32) float b[16][8], d[16][8];
    for (int l = 0; l < kWarpSize; ++l) {
      const auto& x = from<MmaOperands>(in, l);
      const int g = l / 4, t = l % 4 * 2;
      for (int i = 0; i < 4; ++i) {
        const int row = g + i % 2 * 8, column = t + i / 2 * 8;
        a[row][column] = element_value<Element>(x.a[i]);
        a[row][column + 1] = element_value<Element>(x.a[i] >> 16);
        d[g + i / 2 * 8][t + i % 2] = x.d[i];
      }
      for (int i = 0; i < 2; ++i) {
        b[t + i * 8][g] = element_value<Element>(x.b[i]);
        b[t + i * 8 + 1][g] = element_value<Element>(x.b[i] >> 16);
      }
    }
    for (int row = 0; row < 16; ++row) {
      Eight sum;
      std::memcpy(&sum, d[row], sizeof sum);
      for (int k = 0; k < 16; ++k) {
        Eight column;
        std::memcpy(&column, b[k], sizeof column);
        sum += a[row][k] * column;
      }
      std::memcpy(d[row], &sum, sizeof sum);
    }
    for (int l = 0; l < kWarpSize; ++l) {
      const int g = l / 4, t = l % 4 * 2;
      for (int i = 0; i < 4; ++i) to<MmaResult>(out, l).d[i] = d[g + i / 2 * 8][t + i % 2];
    }
  });
}

}  // namespace attnlang::emulator
