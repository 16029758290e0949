// wgmma: products of 64 rows over a warpgroup, asynchronous, operands in shared memory; sm_90a.
//
// d[64 x kN] (+)= a[64 x 16] b[16 x kN]. Thread t of warp w holds of d, in groups of four for each
// 8 columns, the fragment of mma_m16n8k16 of rows 16 w to 16 w + 15; `a` from registers likewise.
// A batch: wgmma_fence, products, wgmma_commit; d and a must not be touched until wgmma_wait.
#pragma once

#include <cstdint>
#include <type_traits>

#include "attnlang/device/ptx.cuh"

namespace attnlang::cuda {

// Describes an operand in shared memory under the 128-byte swizzle. Rows of 128 bytes (64 elements)
// in groups of 8, which lie stride_bytes apart; the first row of a group at a multiple of 1024
// bytes. K-major (a, and b unless transposed): a row is one m or n, 64 of k; the next 16 of k are
// 32 bytes on, leading_bytes is not used. MN-major (transposed b): a row is one k, 64 of n;
// leading_bytes lie between one 64 of n and the next.
__device__ __forceinline__ uint64_t matrix_descriptor(const void* shared, int leading_bytes,
                                                      int stride_bytes) {
  return (uint64_t{1} << 62) | (uint64_t((stride_bytes & 0x3ffff) >> 4) << 32) |
         (uint64_t((leading_bytes & 0x3ffff) >> 4) << 16) |
         uint64_t((shared_address(shared) & 0x3ffff) >> 4);
}

// The same operand, `bytes` further on: a descriptor's high word stays.
__device__ __forceinline__ uint64_t moved(uint64_t descriptor, int bytes) {
  const uint32_t low = static_cast<uint32_t>(descriptor) + static_cast<uint32_t>(bytes >> 4);
  return (descriptor >> 32 << 32) | low;
}

// Before the first product of a batch: orders register accesses before it. All warps of the group.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kPending batches are incomplete.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving accesses of accumulators across a fence or a wait.
template <int kCount>
__device__ __forceinline__ void fence_registers(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// Operand lists. The assembler wants each register by name, and a string per shape: text that no
// template can make. REGISTERS_n is "%0, ..., %n-1", ACCUMULATORS_n binds d[0] ... d[n - 1] to
// them.
#define ATTNLANG_REGISTERS_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define ATTNLANG_REGISTERS_16 ATTNLANG_REGISTERS_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define ATTNLANG_REGISTERS_24 ATTNLANG_REGISTERS_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define ATTNLANG_REGISTERS_32 ATTNLANG_REGISTERS_24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define ATTNLANG_REGISTERS_40 ATTNLANG_REGISTERS_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define ATTNLANG_REGISTERS_48 ATTNLANG_REGISTERS_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define ATTNLANG_REGISTERS_56 ATTNLANG_REGISTERS_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define ATTNLANG_REGISTERS_64 ATTNLANG_REGISTERS_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define ATTNLANG_REGISTERS_72 ATTNLANG_REGISTERS_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define ATTNLANG_REGISTERS_80 ATTNLANG_REGISTERS_72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define ATTNLANG_REGISTERS_88 ATTNLANG_REGISTERS_80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define ATTNLANG_REGISTERS_96 ATTNLANG_REGISTERS_88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define ATTNLANG_REGISTERS_104 ATTNLANG_REGISTERS_96 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define ATTNLANG_REGISTERS_112 \
  ATTNLANG_REGISTERS_104 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define ATTNLANG_REGISTERS_120 \
  ATTNLANG_REGISTERS_112 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define ATTNLANG_REGISTERS_128 \
  ATTNLANG_REGISTERS_120 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define ATTNLANG_EIGHT(i)                                                                     \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define ATTNLANG_ACCUMULATORS_8 ATTNLANG_EIGHT(0)
#define ATTNLANG_ACCUMULATORS_16 ATTNLANG_ACCUMULATORS_8, ATTNLANG_EIGHT(8)
#define ATTNLANG_ACCUMULATORS_24 ATTNLANG_ACCUMULATORS_16, ATTNLANG_EIGHT(16)
#define ATTNLANG_ACCUMULATORS_32 ATTNLANG_ACCUMULATORS_24, ATTNLANG_EIGHT(24)
#define ATTNLANG_ACCUMULATORS_40 ATTNLANG_ACCUMULATORS_32, ATTNLANG_EIGHT(32)
#define ATTNLANG_ACCUMULATORS_48 ATTNLANG_ACCUMULATORS_40, ATTNLANG_EIGHT(40)
#define ATTNLANG_ACCUMULATORS_56 ATTNLANG_ACCUMULATORS_48, ATTNLANG_EIGHT(48)
#define ATTNLANG_ACCUMULATORS_64 ATTNLANG_ACCUMULATORS_56, ATTNLANG_EIGHT(56)
#define ATTNLANG_ACCUMULATORS_72 ATTNLANG_ACCUMULATORS_64, ATTNLANG_EIGHT(64)
#define ATTNLANG_ACCUMULATORS_80 ATTNLANG_ACCUMULATORS_72, ATTNLANG_EIGHT(72)
#define ATTNLANG_ACCUMULATORS_88 ATTNLANG_ACCUMULATORS_80, ATTNLANG_EIGHT(80)
#define ATTNLANG_ACCUMULATORS_96 ATTNLANG_ACCUMULATORS_88, ATTNLANG_EIGHT(88)
#define ATTNLANG_ACCUMULATORS_104 ATTNLANG_ACCUMULATORS_96, ATTNLANG_EIGHT(96)
#define ATTNLANG_ACCUMULATORS_112 ATTNLANG_ACCUMULATORS_104, ATTNLANG_EIGHT(104)
#define ATTNLANG_ACCUMULATORS_120 ATTNLANG_ACCUMULATORS_112, ATTNLANG_EIGHT(112)
#define ATTNLANG_ACCUMULATORS_128 ATTNLANG_ACCUMULATORS_120, ATTNLANG_EIGHT(120)

// One product; o0 ... o6 are the names of the operands after the accumulators.
#define ATTNLANG_WGMMA_SS(n, type, count, o0, o1, o2, o3)                                  \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " o2                                      \
               ", 0;\n"                                                                    \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type             \
               " {" ATTNLANG_REGISTERS_##count "}, " o0 ", " o1 ", p, 1, 1, 0, " o3 ";\n}" \
               : ATTNLANG_ACCUMULATORS_##count                                             \
               : "l"(a), "l"(b), "r"(int{accumulate}), "n"(int{kTransposeB}))
#define ATTNLANG_WGMMA_RS(n, type, count, o0, o1, o2, o3, o4, o5, o6)                      \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " o5                                      \
               ", 0;\n"                                                                    \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type             \
               " {" ATTNLANG_REGISTERS_##count "}, {" o0 ", " o1 ", " o2 ", " o3 "}, " o4  \
                                               ", p, 1, 1, " o6 ";\n}"                     \
               : ATTNLANG_ACCUMULATORS_##count                                             \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int{accumulate}), \
                 "n"(int{kTransposeB}))

// The products of one width.
template <int kN>
struct WgmmaShape;

#define ATTNLANG_WGMMA_SHAPE(n, count, o0, o1, o2, o3, o4, o5, o6)                       \
  template <>                                                                            \
  struct WgmmaShape<n> {                                                                 \
    template <class Element, bool kTransposeB>                                           \
    __device__ __forceinline__ static void ss(float (&d)[count], uint64_t a, uint64_t b, \
                                              bool accumulate) {                         \
      if constexpr (std::is_same_v<Element, Bf16>)                                       \
        ATTNLANG_WGMMA_SS(n, "bf16", count, o0, o1, o2, o3);                             \
      else ATTNLANG_WGMMA_SS(n, "f16", count, o0, o1, o2, o3);                           \
    }                                                                                    \
    template <class Element, bool kTransposeB>                                           \
    __device__ __forceinline__ static void rs(float (&d)[count], const uint32_t (&a)[4], \
                                              uint64_t b, bool accumulate) {             \
      if constexpr (std::is_same_v<Element, Bf16>)                                       \
        ATTNLANG_WGMMA_RS(n, "bf16", count, o0, o1, o2, o3, o4, o5, o6);                 \
      else ATTNLANG_WGMMA_RS(n, "f16", count, o0, o1, o2, o3, o4, o5, o6);               \
    }                                                                                    \
  };

ATTNLANG_WGMMA_SHAPE(32, 16, "%16", "%17", "%18", "%19", "%20", "%21", "%22")
ATTNLANG_WGMMA_SHAPE(64, 32, "%32", "%33", "%34", "%35", "%36", "%37", "%38")
ATTNLANG_WGMMA_SHAPE(80, 40, "%40", "%41", "%42", "%43", "%44", "%45", "%46")
ATTNLANG_WGMMA_SHAPE(96, 48, "%48", "%49", "%50", "%51", "%52", "%53", "%54")
ATTNLANG_WGMMA_SHAPE(112, 56, "%56", "%57", "%58", "%59", "%60", "%61", "%62")
ATTNLANG_WGMMA_SHAPE(128, 64, "%64", "%65", "%66", "%67", "%68", "%69", "%70")
ATTNLANG_WGMMA_SHAPE(144, 72, "%72", "%73", "%74", "%75", "%76", "%77", "%78")
ATTNLANG_WGMMA_SHAPE(160, 80, "%80", "%81", "%82", "%83", "%84", "%85", "%86")
ATTNLANG_WGMMA_SHAPE(176, 88, "%88", "%89", "%90", "%91", "%92", "%93", "%94")
ATTNLANG_WGMMA_SHAPE(192, 96, "%96", "%97", "%98", "%99", "%100", "%101", "%102")
ATTNLANG_WGMMA_SHAPE(208, 104, "%104", "%105", "%106", "%107", "%108", "%109", "%110")
ATTNLANG_WGMMA_SHAPE(224, 112, "%112", "%113", "%114", "%115", "%116", "%117", "%118")
ATTNLANG_WGMMA_SHAPE(240, 120, "%120", "%121", "%122", "%123", "%124", "%125", "%126")
ATTNLANG_WGMMA_SHAPE(256, 128, "%128", "%129", "%130", "%131", "%132", "%133", "%134")

#undef ATTNLANG_WGMMA_SHAPE
#undef ATTNLANG_WGMMA_RS
#undef ATTNLANG_WGMMA_SS

template <class Element>
constexpr bool kWgmmaTakes = std::is_same_v<Element, Bf16> || std::is_same_v<Element, Half>;

// Both operands from shared memory: a K-major, b K-major or, transposed, MN-major. The old d counts
// where `accumulate` says so. kN: 32, or 64 to 256,
// a multiple of 16.
template <class Element, int kN, bool kTransposeB>
__device__ __forceinline__ void wgmma_ss(float (&d)[kN / 2], uint64_t a, uint64_t b,
                                         bool accumulate) {
  static_assert(kWgmmaTakes<Element>, "wgmma takes Bf16 or Half");
  WgmmaShape<kN>::template ss<Element, kTransposeB>(d, a, b, accumulate);
}
// a from registers.
template <class Element, int kN, bool kTransposeB>
__device__ __forceinline__ void wgmma_rs(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b,
                                         bool accumulate) {
  static_assert(kWgmmaTakes<Element>, "wgmma takes Bf16 or Half");
  WgmmaShape<kN>::template rs<Element, kTransposeB>(d, a, b, accumulate);
}

}  // namespace attnlang::cuda
