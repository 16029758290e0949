// The emulator's twin of attnlang/device/ptx.cuh, which says what these do.
#pragma once

#include "attnlang/emulator/copies.h"
#include "attnlang/emulator/cuda.h"
#include "attnlang/emulator/matrix.h"

namespace attnlang::cuda {

template <class T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(emulator::cta().shared().base());
}
inline uint32_t shared_address(const void* p) {
  return emulator::checked_offset("shared_address", p, 0, 1) +
         emulator::SharedMemory::kFirstAddress;
}

inline uint2 load_eight_bytes(const void* global) {
  if (reinterpret_cast<uintptr_t>(global) % sizeof(uint2) != 0) {
    emulator::cta().fail("load_eight_bytes: the address is not a multiple of 8 bytes");
  }
  uint2 loaded;
  std::memcpy(&loaded, global, sizeof loaded);
  return loaded;
}

template <int kBytes>
void cp_async(void* shared, const void* global, bool valid) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
  emulator::issue_copy(shared, global, kBytes, valid);
}
inline void cp_async_commit() { emulator::commit_copies(); }
template <int kPending>
void cp_async_wait() {
  emulator::wait_copies(kPending);
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  const auto loaded = emulator::load_matrices<4, false>("ldmatrix_x4", row);
  std::memcpy(r, loaded.r, sizeof r);
}
inline void ldmatrix_x4_transposed(uint32_t (&r)[4], const void* row) {
  const auto loaded = emulator::load_matrices<4, true>("ldmatrix_x4_transposed", row);
  std::memcpy(r, loaded.r, sizeof r);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  const auto loaded = emulator::load_matrices<2, false>("ldmatrix_x2", row);
  std::memcpy(r, loaded.r, sizeof r);
}
inline void ldmatrix_x2_transposed(uint32_t (&r)[2], const void* row) {
  const auto loaded = emulator::load_matrices<2, true>("ldmatrix_x2_transposed", row);
  std::memcpy(r, loaded.r, sizeof r);
}
inline void stmatrix_x4(void* row, const uint32_t (&r)[4]) {
  emulator::store_matrices<false>("stmatrix_x4", row, r);
}
inline void stmatrix_x4_transposed(void* row, const uint32_t (&r)[4]) {
  emulator::store_matrices<true>("stmatrix_x4_transposed", row, r);
}

template <class Element>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  static_assert(std::is_same_v<Element, Bf16> || std::is_same_v<Element, Half>);
  const auto result =
      emulator::multiply<Element>({{d[0], d[1], d[2], d[3]}, {a[0], a[1], a[2], a[3]}, {b0, b1}});
  std::memcpy(d, result.d, sizeof d);
}

struct Pair {
  float low, high;
};
template <class Element>
uint32_t pack(float low, float high) {
  return from_float32<Element>(low).bits | uint32_t{from_float32<Element>(high).bits} << 16;
}
template <class Element>
Pair unpack(uint32_t r) {
  return {emulator::element_value<Element>(r), emulator::element_value<Element>(r >> 16)};
}

inline uint32_t halves_of_e4m3(uint32_t x) {
  const auto half = [](uint32_t code) {
    const uint32_t exponent = code >> 3 & 15, digits = code & 7;
    float value = exponent == 0 ? std::ldexp(static_cast<float>(digits), -9)
                                : std::ldexp(8.0f + static_cast<float>(digits),
                                             static_cast<int>(exponent) - 10);
    if ((code & 0x7f) == 0x7f) value = std::numeric_limits<float>::quiet_NaN();
    return uint32_t{from_float32<Half>((code & 0x80) != 0 ? -value : value).bits};
  };
  return half(x & 0xff) | half(x >> 8 & 0xff) << 16;
}
inline uint32_t halves_of_e5m2(uint32_t x) { return (x & 0xff) << 8 | (x & 0xff00) << 16; }
inline uint32_t upper_halves_of_e4m3(uint32_t x) { return halves_of_e4m3(x >> 16); }
inline uint32_t upper_halves_of_e5m2(uint32_t x) { return halves_of_e5m2(x >> 16); }
inline uint32_t inner_bytes_swapped(uint32_t x) {
  return (x & 0xff0000ff) | (x & 0xff00) << 8 | (x & 0xff0000) >> 8;
}

inline void prefetch(const void*) {}

inline float exp2_approx(float x) { return std::exp2(x); }
inline float log2_approx(float x) { return std::log2(x); }
inline float tanh_approx(float x) { return std::tanh(x); }
inline float reciprocal_approx(float x) { return 1.0f / x; }

inline int warp_index() {
  return __shfl_sync(emulator::kFullMask, static_cast<int>(threadIdx.x / 32), 0);
}
inline bool elect_one() {
  return emulator::meet<bool>("elect_one", emulator::kFullMask, 0,
                              [](auto&, auto& out) { emulator::to<bool>(out, 0) = true; });
}
inline void named_barrier_sync(int id, int threads) {
  emulator::join_named_barrier("named_barrier_sync", id, threads, true);
}
inline void named_barrier_arrive(int id, int threads) {
  emulator::join_named_barrier("named_barrier_arrive", id, threads, false);
}

}  // namespace attnlang::cuda

#include "attnlang/device/mbarrier.cuh"
