// CUDA's own vocabulary for kernels that g++ compiles: qualifiers, warp functions, atomics,
// intrinsics.
//
// `__shared__` is missing on purpose: kernels take shared memory from dynamic_shared, which is
// poisoned and checked.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "attnlang/emulator/barriers.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __grid_constant__
#define __forceinline__ inline
#define __noinline__ [[gnu::noinline]]
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __restrict__ __restrict

using std::max;
using std::min;

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// --- a CTA and its warps ---

inline void __syncthreads() {
  using namespace attnlang::emulator;
  join_barrier("__syncthreads", 0, cta().threads_per_cta(), true);
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  using namespace attnlang::emulator;
  meet<bool>("__syncwarp", mask, mask, [](auto&, auto&) {});
}

namespace attnlang::emulator {

template <class T>
struct Shuffled {
  T value;
  int source;
};

// Each lane receives the value of the lane `source`, which must be in the mask.
template <class T>
T shuffle(const char* operation, unsigned mask, T value, int source) {
  static_assert(std::is_arithmetic_v<T>, "numbers are shuffled");
  if (((mask >> source) & 1) == 0) {
    cta().fail("%s: reads lane %d, which is not in the mask %08x", operation, source, mask);
  }
  return meet<T>(operation, mask, Shuffled<T>{value, source}, [mask](auto& in, auto& out) {
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
      const int l = std::countr_zero(rest);
      to<T>(out, l) = from<Shuffled<T>>(in, from<Shuffled<T>>(in, l).source).value;
    }
  });
}
// The first lane of this lane's part of a warp that is cut into parts of `width`.
inline int part_start(int width) { return cta().thread().lane / width * width; }

template <class T, class Combine>
T reduce(const char* operation, unsigned mask, T value, Combine combine) {
  return meet<T>(operation, mask, value, [mask, combine](auto& in, auto& out) {
    T total = from<T>(in, std::countr_zero(mask));
    for (uint32_t rest = mask & (mask - 1); rest != 0; rest &= rest - 1) {
      total = combine(total, from<T>(in, std::countr_zero(rest)));
    }
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
      to<T>(out, std::countr_zero(rest)) = total;
    }
  });
}

}  // namespace attnlang::emulator

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  using namespace attnlang::emulator;
  return shuffle("__shfl_sync", mask, value, part_start(width) + (source & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  using namespace attnlang::emulator;
  const int lane = cta().thread().lane, source = lane ^ lanes;
  return shuffle("__shfl_xor_sync", mask, value,
                 source < part_start(width) + width ? source : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  using namespace attnlang::emulator;
  const int lane = cta().thread().lane, source = lane - static_cast<int>(delta);
  return shuffle("__shfl_up_sync", mask, value, source >= part_start(width) ? source : lane);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  using namespace attnlang::emulator;
  const int lane = cta().thread().lane, source = lane + static_cast<int>(delta);
  return shuffle("__shfl_down_sync", mask, value,
                 source < part_start(width) + width ? source : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned bit = predicate != 0 ? 1u << attnlang::emulator::cta().thread().lane : 0u;
  return attnlang::emulator::reduce("__ballot_sync", mask, bit,
                                    [](unsigned a, unsigned b) { return a | b; });
}
inline int __any_sync(unsigned mask, int predicate) {
  return attnlang::emulator::reduce("__any_sync", mask, int{predicate != 0},
                                    [](int a, int b) { return a | b; });
}
inline int __all_sync(unsigned mask, int predicate) {
  return attnlang::emulator::reduce("__all_sync", mask, int{predicate != 0},
                                    [](int a, int b) { return a & b; });
}
template <class T>
T __reduce_add_sync(unsigned mask, T value) {
  return attnlang::emulator::reduce("__reduce_add_sync", mask, value,
                                    [](T a, T b) { return a + b; });
}
template <class T>
T __reduce_min_sync(unsigned mask, T value) {
  return attnlang::emulator::reduce("__reduce_min_sync", mask, value,
                                    [](T a, T b) { return std::min(a, b); });
}
template <class T>
T __reduce_max_sync(unsigned mask, T value) {
  return attnlang::emulator::reduce("__reduce_max_sync", mask, value,
                                    [](T a, T b) { return std::max(a, b); });
}

// --- atomics and memory order: other CTAs run on other CPU threads ---

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> x) {
  return std::atomic_ref<T>(*p).fetch_add(x);
}
template <class T>
T atomicOr(T* p, std::type_identity_t<T> x) {
  return std::atomic_ref<T>(*p).fetch_or(x);
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> x) {
  return std::atomic_ref<T>(*p).exchange(x);
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> x) {
  std::atomic_ref<T>(*p).compare_exchange_strong(expected, x);
  return expected;
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> x) {
  std::atomic_ref<T> at(*p);
  T old = at.load();
  while (old < x && !at.compare_exchange_weak(old, x)) {
  }
  return old;
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> x) {
  std::atomic_ref<T> at(*p);
  T old = at.load();
  while (x < old && !at.compare_exchange_weak(old, x)) {
  }
  return old;
}
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() {}
template <class T>
T __ldg(const T* p) {
  return *p;
}

// --- bits and numbers ---

inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline unsigned __umulhi(unsigned x, unsigned y) {
  return static_cast<unsigned>(static_cast<uint64_t>(x) * y >> 32);
}
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdividef(float x, float y) { return x / y; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
