// What this machine can do at most: multiply-adds, 16-bit dot products, and reading memory.
//
// Each function works on every OpenMP thread and returns how much it did; the caller holds the
// clock. Chains are independent and enough to cover an instruction's latency on two ports.
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kChains = 12;

using Floats = float __attribute__((vector_size(kBytes)));
using Words = int64_t __attribute__((vector_size(kBytes)));
constexpr int kFloats = kBytes / sizeof(float);

// Keeps a value in a register and the compiler from computing it beforehand.
template <class T>
inline void keep(T& value) {
#if defined(__AVX512F__)
  asm volatile("" : "+v"(value));
#elif defined(__x86_64__)
  asm volatile("" : "+x"(value));
#else
  asm volatile("" : "+w"(value));
#endif
}

}  // namespace

extern "C" {

// Multiply-adds of float32 vectors; returns the floating-point operations.
double attnlang_rate_fma(int64_t iterations) {
  double done = 0;
#pragma omp parallel reduction(+ : done)
  {
    Floats chains[kChains], factor = {}, term = {};
    factor += 0.999F;
    term += 0.001F;
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) chains[c] = term * static_cast<float>(c);
    for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
      for (int c = 0; c < kChains; ++c) chains[c] = chains[c] * factor + term;
      keep(chains[0]);
    }
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) keep(chains[c]);
    done += 2.0 * kFloats * kChains * static_cast<double>(iterations);
  }
  return done;
}

// Dot products of bfloat16 pairs; returns the operations, 0 where the CPU code has none.
double attnlang_rate_dot16(int64_t iterations) {
  double done = 0;
#ifdef __AVX512BF16__
#pragma omp parallel reduction(+ : done)
  {
    __m512 chains[kChains];
    __m512i bits = _mm512_set1_epi16(0x3c00);  // 2^-7 in bfloat16
    __m512bh pairs;
    memcpy(&pairs, &bits, sizeof pairs);
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) chains[c] = _mm512_set1_ps(static_cast<float>(c));
    for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
      for (int c = 0; c < kChains; ++c) chains[c] = _mm512_dpbf16_ps(chains[c], pairs, pairs);
      keep(chains[0]);
    }
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) keep(chains[c]);
    done += 64.0 * kChains * static_cast<double>(iterations);
  }
#else
  (void)iterations;
#endif
  return done;
}

// Reads memory once, a contiguous share a thread; returns the bytes read.
double attnlang_rate_read(const char* data, int64_t size) {
  double done = 0;
#pragma omp parallel reduction(+ : done)
  {
    constexpr int64_t kStep = 4 * kBytes;
    const int64_t steps = size / kStep, threads = omp_get_num_threads();
    const int64_t begin = steps * omp_get_thread_num() / threads;
    const int64_t end = steps * (omp_get_thread_num() + 1) / threads;
    Words sums[4] = {};
    for (int64_t i = begin; i < end; ++i) {
#pragma GCC unroll 4
      for (int part = 0; part < 4; ++part) {
        Words word;
        memcpy(&word, data + i * kStep + part * kBytes, sizeof word);
        sums[part] += word;
      }
    }
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) keep(sums[part]);
    done += static_cast<double>((end - begin) * kStep);
  }
  return done;
}

}  // extern "C"
