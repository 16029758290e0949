// Rows of a pool of pages that are stored otherwise than the products read them: 8-bit floats, and
// rows that a scale multiplies. An entry is its value times the scale, in float32, rounded once.
//
// Decoding brings 8-bit floats to shared memory as they are and widens them on their way to the
// products (device/mma.cuh); tiles of many rows are converted as they are loaded. What else a scale
// multiplies is brought together before (cuda_brought.cuh).
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
  bool converted;       // they are not what the products read: narrow, or scaled
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
  // Two narrow entries that lie in the low half of a word.
  ATTNLANG_DEVICE Pair pair(uint32_t bits) const {
    return unpack<Half>(dtype == DType::f8e4m3 ? halves_of_e4m3(bits) : halves_of_e5m2(bits));
  }
};

// Eight narrow entries of a row, `inner` apart.
ATTNLANG_DEVICE uint2 eight_entries(const char* row, int64_t inner, bool vectorised) {
  if (vectorised) return load_eight_bytes(row);
  uint32_t words[2] = {};
#pragma unroll 1
  for (int i = 0; i < 8; ++i) {
    words[i / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(row[i * inner])) << i % 4 * 8;
  }
  return make_uint2(words[0], words[1]);
}

// What 8 narrow entries become.
template <class Element>
ATTNLANG_DEVICE uint4 converted(const uint2& bytes, const Stored& stored, float scale) {
  const uint32_t words[4] = {bytes.x, bytes.x >> 16, bytes.y, bytes.y >> 16};
  uint32_t result[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Pair pair = stored.pair(words[i]);
    result[i] = pack<Element>(pair.low * scale, pair.high * scale);
  }
  return make_uint4(result[0], result[1], result[2], result[3]);
}

// One entry of a row, rounded as a chunk's are.
template <class Element>
ATTNLANG_DEVICE float converted_entry(const char* row, int64_t at, const Stored& stored,
                                      float scale) {
  float value;
  if (stored.is_narrow()) {
    value = stored.pair(reinterpret_cast<const uint8_t*>(row)[at]).low;
  } else {
    value = to_float32(reinterpret_cast<const Element*>(row)[at]);
  }
  return to_float32(from_float32<Element>(value * scale));
}

}  // namespace attnlang::cuda
