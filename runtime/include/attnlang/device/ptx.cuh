// Wrappers around PTX that kernels of every architecture use: copies, fragments, barriers.
//
// All inline assembly is here and in mbarrier, tma, turns and wgmma.cuh, and launch.cuh alone calls
// the runtime. The emulator has a twin of each (runtime/emulator/attnlang/device), so a kernel that
// includes nothing else runs on the CPU too. Names and layouts: the PTX ISA; a fragment is written
// [row][column] with g = lane / 4, t = lane % 4.
#pragma once

#include <cstdint>
#include <type_traits>

#include "attnlang/host/tensor_view.h"

namespace attnlang::cuda {

// The dynamic shared memory of the CTA, 1024-byte aligned (the period of the 128-byte swizzle).
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char attnlang_dynamic_shared[];
  return reinterpret_cast<T*>(attnlang_dynamic_shared);
}

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Eight bytes of global memory, at a multiple of eight.
__device__ __forceinline__ uint2 load_eight_bytes(const void* global) {
  return *static_cast<const uint2*>(global);
}

// --- copies from global to shared memory ---

// kBytes (4, 8 or 16) from global, or zeros when not valid: global is not read then and may be
// null. Both addresses are multiples of kBytes. Visible to this thread after cp_async_wait.
template <int kBytes>
__device__ __forceinline__ void cp_async(void* shared, const void* global, bool valid) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async copies 4, 8 or 16 bytes");
  const int bytes = valid ? kBytes : 0;
  if constexpr (kBytes == 16) {  // .cg: past L1, what is loaded once has no use for it
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(global), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)),
                 "l"(global), "n"(kBytes), "r"(bytes)
                 : "memory");
  }
}
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most kPending of this thread's latest groups are incomplete.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// --- fragments ---

// Four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8
// (16 bytes, aligned) and receives [g][2t, 2t + 1] of matrix i in r[i].
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// The same matrices transposed: lane l receives [2t][g] and [2t + 1][g].
__device__ __forceinline__ void ldmatrix_x4_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// Two matrices: lanes 0 to 15 give the addresses.
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_transposed(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
// The inverse of ldmatrix_x4; sm_90.
__device__ __forceinline__ void stmatrix_x4(void* row, const uint32_t (&r)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
      "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
      : "memory");
}

// The inverse of ldmatrix_x4_transposed.
__device__ __forceinline__ void stmatrix_x4_transposed(void* row, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   shared_address(row)),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

// d[16x8] += a[16x16] b[16x8] over the warp. a: r[0] = [g][2t..], r[1] = [g + 8][2t..],
// r[2] = [g][2t + 8..], r[3] = [g + 8][2t + 8..]; b: b0 = [2t..][g], b1 = [2t + 8..][g];
// d: [g][2t], [g][2t + 1], [g + 8][2t], [g + 8][2t + 1].
template <class Element>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
  static_assert(std::is_same_v<Element, Bf16> || std::is_same_v<Element, Half>);
  if constexpr (std::is_same_v<Element, Bf16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// Two elements of a register, the low half first.
struct Pair {
  float low, high;
};

// Rounds to nearest even.
template <class Element>
__device__ __forceinline__ uint32_t pack(float low, float high) {
  static_assert(std::is_same_v<Element, Bf16> || std::is_same_v<Element, Half>);
  uint32_t r;
  if constexpr (std::is_same_v<Element, Bf16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  }
  return r;
}
template <class Element>
__device__ __forceinline__ Pair unpack(uint32_t r) {
  static_assert(std::is_same_v<Element, Bf16> || std::is_same_v<Element, Half>);
  Pair pair;
  if constexpr (std::is_same_v<Element, Bf16>) {
    pair.low = __uint_as_float(r << 16);
    pair.high = __uint_as_float(r & 0xffff0000u);
  } else {
    asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %2;\ncvt.f32.f16 %0, low;\n"
        "cvt.f32.f16 %1, high;\n}"
        : "=f"(pair.low), "=f"(pair.high)
        : "r"(r));
  }
  return pair;
}

// Two floats of 8 bits, in the low half of a register, as two halves with their values:
// float8_e4m3fn (before sm_89 by arithmetic on its bits), and float8_e5m2, the upper half of one.
__device__ __forceinline__ uint32_t halves_of_e4m3(uint32_t x) {
  uint32_t r;
#if __CUDA_ARCH__ >= 890
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(r) : "h"(static_cast<uint16_t>(x)));
#else
  x = __byte_perm(x, 0, 0x4140);
  const uint32_t magnitudes = x & 0x007f007fu;
  const uint32_t nans = (magnitudes + 0x00010001u) & 0x00800080u;
  // Its exponent is 8 less than a half's: times 256.
  asm("mul.rn.f16x2 %0, %1, %2;"
      : "=r"(r)
      : "r"((x & 0x00800080u) << 8 | (magnitudes | nans) << 7), "r"(0x5c005c00u));
#endif
  return r;
}
__device__ __forceinline__ uint32_t halves_of_e5m2(uint32_t x) { return __byte_perm(x, 0, 0x1404); }
// Those in the high half of a register.
__device__ __forceinline__ uint32_t upper_halves_of_e4m3(uint32_t x) {
#if __CUDA_ARCH__ >= 890
  uint32_t r;
  asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %1;\ncvt.rn.f16x2.e4m3x2 %0, high;\n}"
      : "=r"(r)
      : "r"(x));
  return r;
#else
  return halves_of_e4m3(x >> 16);
#endif
}
__device__ __forceinline__ uint32_t upper_halves_of_e5m2(uint32_t x) {
  return __byte_perm(x, 0, 0x3424);
}
// The bytes 0, 2, 1, 3 of a register.
__device__ __forceinline__ uint32_t inner_bytes_swapped(uint32_t x) {
  return __byte_perm(x, 0, 0x3120);
}

// Brings the line of an address in global memory near; nobody waits for it.
__device__ __forceinline__ void prefetch(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// --- approximate functions of the special-function unit; errors: the PTX ISA ---

__device__ __forceinline__ float exp2_approx(float x) {  // 2 ulp; denormals are 0
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float log2_approx(float x) {  // 2^-22 absolute near 1; denormals are 0
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float tanh_approx(float x) {  // 2^-11 relative
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal_approx(float x) {  // 1 ulp; denormals are 0
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// --- warps and barriers of a CTA ---

// The index of this warp in the CTA, in a uniform register.
__device__ __forceinline__ int warp_index() {
  return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x / 32), 0);
}
// True in one lane of the converged warp, always the same one; sm_90.
__device__ __forceinline__ bool elect_one() {
  uint32_t elected;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.b32 %0, 1, 0, p;\n}"
               : "=r"(elected));
  return elected != 0;
}

// Barrier id (1 to 15; 0 is __syncthreads) of `threads` threads: whole, converged warps, arrivals
// included.
__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace attnlang::cuda

#include "attnlang/device/mbarrier.cuh"
