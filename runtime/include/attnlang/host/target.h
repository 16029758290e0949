// Where a function may be called: on the host, and in CUDA units on the device too.
//
// constexpr functions need no mark: CUDA units are compiled with --expt-relaxed-constexpr.
// ATTNLANG_INLINE: a kernel for Hopper must not call it as a function. ATTNLANG_ROLLED: a loop that
// one thread goes through once in a while; nvcc unrolls others, and takes seconds for it.
#pragma once

#if defined(__CUDACC__)
#define ATTNLANG_HD __host__ __device__
#define ATTNLANG_DEVICE __device__ __forceinline__
#define ATTNLANG_INLINE __forceinline__
#define ATTNLANG_ROLLED _Pragma("unroll 1")
#else
#define ATTNLANG_HD
#define ATTNLANG_INLINE inline
#define ATTNLANG_DEVICE inline
#define ATTNLANG_ROLLED
#endif
