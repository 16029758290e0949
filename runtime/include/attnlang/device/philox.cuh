// Dropout: Philox4x32-10 of (seed, b, h, q_idx, kv_idx), an element a call; the definition is in
// attnlang/cpu/philox.h, and the elements that are kept are the same on every target.
#pragma once

#include <cstdint>

#include "attnlang/host/target.h"

namespace attnlang::cuda {

// Word 0 of ten rounds.
ATTNLANG_DEVICE uint32_t philox_word(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3,
                                     uint32_t k0, uint32_t k1) {
#pragma unroll 5
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{c0} * 0xD2511F53u;
    const uint64_t second = uint64_t{c2} * 0xCD9E8D57u;
    c0 = static_cast<uint32_t>(second >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(second);
    c2 = static_cast<uint32_t>(first >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(first);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}

// The dropout of one (request, head).
struct Dropout {
  uint64_t seed;
  uint32_t b, h;
  float threshold;  // p * 2^24, which is exact
  float kept;       // what multiplies a kept weight

  ATTNLANG_DEVICE static Dropout of(uint64_t seed, int64_t b, int64_t h, float p) {
    return {.seed = seed,
            .b = static_cast<uint32_t>(b),
            .h = static_cast<uint32_t>(h),
            .threshold = p * 0x1p24f,
            .kept = 1 / (1 - p)};
  }

  // 0 with probability p, else 1 / (1 - p).
  ATTNLANG_DEVICE float at(int32_t q_idx, int32_t kv_idx) const {
    const uint32_t word =
        philox_word(static_cast<uint32_t>(kv_idx), static_cast<uint32_t>(q_idx), h, b,
                    static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    return static_cast<float>(word >> 8) >= threshold ? kept : 0.0f;
  }
};

}  // namespace attnlang::cuda
