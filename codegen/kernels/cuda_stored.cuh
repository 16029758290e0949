// Rows of a pool of pages that are stored otherwise than the products read them: 8-bit floats, and
// rows that a scale multiplies. An entry is its value times the scale, in float32, rounded once.
#pragma once

#include <cstdint>

#include "attnlang/device/ptx.cuh"
#include "attnlang/host/call.h"
#include "attnlang/host/target.h"
#include "attnlang/host/tensor_view.h"

namespace attnlang::cuda {

// How a pool holds its rows.
struct Stored {
  DType dtype;
  bool converted;       // they are not what the products read
  const float* scales;  // one a key/value head, `scale_stride` apart; null: 1
  int64_t scale_stride;

  static Stored of(const Tensor& pool, const Tensor& scales) {
    return {.dtype = pool.dtype,
            .converted = is_page_dtype(pool.dtype) || scales.data != nullptr,
            .scales = static_cast<const float*>(scales.data),
            .scale_stride = scales.stride[0]};
  }

  ATTNLANG_DEVICE bool is_narrow() const { return is_page_dtype(dtype); }
  ATTNLANG_DEVICE float scale(int h_kv) const {
    return scales == nullptr ? 1.0f : scales[h_kv * scale_stride];
  }
  // Two entries that lie in the low bits of a word, in all of it if they are not narrow.
  template <class Element>
  ATTNLANG_DEVICE Pair pair(uint32_t bits) const {
    if (!is_narrow()) return unpack<Element>(bits);
    return unpack<Half>(dtype == DType::f8e4m3 ? halves_of_e4m3(bits) : halves_of_e5m2(bits));
  }
};

// Entries of a chunk as they are stored: 8 bytes of narrow ones, else 16.
struct StoredChunk {
  uint32_t word[4];
};

// Entries [8 chunk, 8 chunk + 8) of a row, `inner` apart; side by side and aligned if `vectorised`.
ATTNLANG_DEVICE StoredChunk load_stored(const char* row, int chunk, int64_t inner, bool vectorised,
                                        bool narrow) {
  StoredChunk stored{};
  if (vectorised) {
    if (narrow) {
      const uint2 words = reinterpret_cast<const uint2*>(row)[chunk];
      stored.word[0] = words.x, stored.word[1] = words.y;
    } else {
      const uint4 words = reinterpret_cast<const uint4*>(row)[chunk];
      stored.word[0] = words.x, stored.word[1] = words.y;
      stored.word[2] = words.z, stored.word[3] = words.w;
    }
    return stored;
  }
  const int64_t first = 8 * chunk * inner;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (narrow) {
      const auto* bytes = reinterpret_cast<const uint8_t*>(row) + first;
      const auto byte = [&](int at) { return uint32_t{bytes[at * inner]} << 8 * (at % 4); };
      if (i < 2) stored.word[i] = byte(4 * i) | byte(4 * i + 1) | byte(4 * i + 2) | byte(4 * i + 3);
    } else {
      const auto* entries = reinterpret_cast<const uint16_t*>(row) + first;
      stored.word[i] = entries[2 * i * inner] | uint32_t{entries[(2 * i + 1) * inner]} << 16;
    }
  }
  return stored;
}

// What a chunk becomes.
template <class Element>
ATTNLANG_DEVICE uint4 converted(const StoredChunk& chunk, const Stored& stored, float scale) {
  uint32_t result[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t narrow = chunk.word[i / 2] >> 16 * (i % 2);
    const Pair pair = stored.pair<Element>(stored.is_narrow() ? narrow : chunk.word[i]);
    result[i] = pack<Element>(pair.low * scale, pair.high * scale);
  }
  return make_uint4(result[0], result[1], result[2], result[3]);
}

// One entry of a row, rounded as a chunk's are.
template <class Element>
ATTNLANG_DEVICE float converted_entry(const char* row, int64_t at, const Stored& stored,
                                      float scale) {
  const uint32_t bits = stored.is_narrow() ? uint32_t{reinterpret_cast<const uint8_t*>(row)[at]}
                                           : uint32_t{reinterpret_cast<const uint16_t*>(row)[at]};
  return unpack<Element>(pack<Element>(stored.pair<Element>(bits).low * scale, 0.0f)).low;
}

}  // namespace attnlang::cuda
