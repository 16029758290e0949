// One kernel a wrapper of the device headers: the same text for the emulator and for a GPU.
//
// case_NAME(in, out, stream) launches; `in` and `out` are what device_wrappers.py says, in memory
// that the kernel reaches. Inputs are laid out by rows; fragments are gathered by the layouts that
// the headers document, so that those are what is tested.
#include "attnlang/device/launch.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/device/tma.cuh"
#include "attnlang/device/turns.cuh"
#include "attnlang/device/wgmma.cuh"

using namespace attnlang;
using namespace attnlang::cuda;

#define CASE(name)                                                           \
  extern "C" __attribute__((visibility("default"))) const char* case_##name( \
      [[maybe_unused]] const void* in, void* out, void* stream)

template <class T>
const T* input(const void* in) {
  return static_cast<const T*>(in);
}

// --- warps ---

__global__ void shuffle_kernel(const float* in, int* out) {
  const int t = threadIdx.x, lane = t % 32;
  const float x = in[t];
  const unsigned all = 0xffffffffu;
  int* mine = out + t * 10;
  mine[0] = __float_as_int(__shfl_sync(all, x, (lane * 7 + 3) % 32));
  mine[1] = __float_as_int(__shfl_sync(all, x, lane * 5, 8));
  mine[2] = __float_as_int(__shfl_xor_sync(all, x, 5));
  mine[3] = __float_as_int(__shfl_up_sync(all, x, 3));
  mine[4] = __float_as_int(__shfl_down_sync(all, x, 9, 16));
  mine[5] = static_cast<int>(__ballot_sync(all, x > 0));
  mine[6] = __any_sync(all, x > 2.5f);
  mine[7] = __all_sync(all, x > -2.5f);
  mine[8] = warp_index();
  // Half warps meet on their own.
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  mine[9] = static_cast<int>(__ballot_sync(half, lane % 3 == 0));
}
CASE(shuffle) {
  return launch(shuffle_kernel, dim3(1), 64, 0, stream, input<float>(in), static_cast<int*>(out));
}

__global__ void atomic_kernel(int* out) {
  atomicAdd(out, 1);
  atomicMax(out + 1, static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x));
  atomicAdd(reinterpret_cast<float*>(out + 2), 0.5f);
  if (threadIdx.x == 0) atomicCAS(out + 3, 0, static_cast<int>(gridDim.x));
  __threadfence();
}
CASE(atomic) { return launch(atomic_kernel, dim3(8, 3), 64, 0, stream, static_cast<int*>(out)); }

// --- copies ---

// Threads copy 4, 8 and 16 bytes each into their own parts; every third is not valid. The last
// group comes by another wait.
__global__ void copy_kernel(const unsigned char* in, unsigned char* out) {
  auto* s = dynamic_shared<unsigned char>();
  const int t = threadIdx.x;
  const bool valid = t % 3 != 0;
  cp_async<4>(s + t * 4, valid ? in + t * 4 : nullptr, valid);
  cp_async<8>(s + 128 + t * 8, in + 128 + t * 8, valid);
  cp_async_commit();
  cp_async<16>(s + 384 + t * 16, in + 384 + t * 16, valid);
  cp_async_commit();
  cp_async_wait<1>();
  __syncthreads();
  for (int i = t; i < 384; i += 32) out[i] = s[i];
  cp_async_wait<0>();
  __syncthreads();
  for (int i = 384 + t; i < 896; i += 32) out[i] = s[i];
}
CASE(copy) {
  return launch(copy_kernel, dim3(1), 32, 100 * 1024, stream, input<unsigned char>(in),
                static_cast<unsigned char*>(out));
}

// --- fragments ---

__global__ void load_matrix_kernel(const uint16_t* in, uint32_t* out) {
  auto* s = dynamic_shared<uint16_t>();
  const int t = threadIdx.x;
  for (int i = t; i < 256; i += 32) s[i] = in[i];
  __syncthreads();
  uint32_t four[4], two[2];
  ldmatrix_x4(four, s + t * 8);
  for (int i = 0; i < 4; ++i) out[t * 12 + i] = four[i];
  ldmatrix_x4_transposed(four, s + t * 8);
  for (int i = 0; i < 4; ++i) out[t * 12 + 4 + i] = four[i];
  ldmatrix_x2(two, s + t % 16 * 8);
  for (int i = 0; i < 2; ++i) out[t * 12 + 8 + i] = two[i];
  ldmatrix_x2_transposed(two, s + t % 16 * 8);
  for (int i = 0; i < 2; ++i) out[t * 12 + 10 + i] = two[i];
}
CASE(load_matrix) {
  return launch(load_matrix_kernel, dim3(1), 32, 512, stream, input<uint16_t>(in),
                static_cast<uint32_t*>(out));
}

__device__ inline uint32_t two(const uint16_t* p, int step) {
  return p[0] | uint32_t{p[step]} << 16;
}

// d [16][8] += a [16][16] b [16][8]; b and a by rows.
template <class Element>
__global__ void mma_kernel(const uint16_t* a, const uint16_t* b, float* d) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4 * 2;
  const uint32_t fa[4] = {two(a + g * 16 + t, 1), two(a + (g + 8) * 16 + t, 1),
                          two(a + g * 16 + t + 8, 1), two(a + (g + 8) * 16 + t + 8, 1)};
  float fd[4] = {d[g * 8 + t], d[g * 8 + t + 1], d[(g + 8) * 8 + t], d[(g + 8) * 8 + t + 1]};
  mma_m16n8k16<Element>(fd, fa, two(b + t * 8 + g, 8), two(b + (t + 8) * 8 + g, 8));
  d[g * 8 + t] = fd[0];
  d[g * 8 + t + 1] = fd[1];
  d[(g + 8) * 8 + t] = fd[2];
  d[(g + 8) * 8 + t + 1] = fd[3];
}
CASE(mma_bf16) {
  const auto* a = input<uint16_t>(in);
  return launch(mma_kernel<Bf16>, dim3(1), 32, 0, stream, a, a + 256, static_cast<float*>(out));
}
CASE(mma_f16) {
  const auto* a = input<uint16_t>(in);
  return launch(mma_kernel<Half>, dim3(1), 32, 0, stream, a, a + 256, static_cast<float*>(out));
}

// out: packed bits, then the two floats that they unpack to.
template <class Element>
__global__ void pack_kernel(const float* in, float* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const uint32_t bits = pack<Element>(in[i * 2], in[i * 2 + 1]);
  const Pair pair = unpack<Element>(bits);
  out[i * 3] = __uint_as_float(bits);
  out[i * 3 + 1] = pair.low;
  out[i * 3 + 2] = pair.high;
}
CASE(pack_bf16) {
  return launch(pack_kernel<Bf16>, dim3(32), 32, 0, stream, input<float>(in),
                static_cast<float*>(out));
}
CASE(pack_f16) {
  return launch(pack_kernel<Half>, dim3(32), 32, 0, stream, input<float>(in),
                static_cast<float*>(out));
}

// Every pair of neighbouring codes of 8-bit floats.
__global__ void eight_bits_kernel(float* out) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  const uint32_t pair = i | ((i + 1) & 0xff) << 8, lower = pair | 0xabcd0000u;
  const uint32_t upper = inner_bytes_swapped((pair & 0xff00) << 16 | 0x00cd00abu | (i & 0xff) << 8);
  const Pair pairs[4] = {unpack<Half>(halves_of_e4m3(lower)), unpack<Half>(halves_of_e5m2(lower)),
                         unpack<Half>(upper_halves_of_e4m3(upper)),
                         unpack<Half>(upper_halves_of_e5m2(upper))};
  for (int n = 0; n < 4; ++n) {
    out[i * 8 + 2 * n] = pairs[n].low;
    out[i * 8 + 2 * n + 1] = pairs[n].high;
  }
}
CASE(eight_bits) {
  return launch(eight_bits_kernel, dim3(8), 32, 0, stream, static_cast<float*>(out));
}

__global__ void approximate_kernel(const float* in, float* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const float x = in[i];
  out[i * 4] = exp2_approx(x);
  out[i * 4 + 1] = log2_approx(fabsf(x));
  out[i * 4 + 2] = tanh_approx(x);
  out[i * 4 + 3] = reciprocal_approx(x);
}
CASE(approximate) {
  return launch(approximate_kernel, dim3(32), 32, 0, stream, input<float>(in),
                static_cast<float*>(out));
}

// --- barriers ---

// Warps 0 and 1 fill a buffer, 2 and 3 read it, five times: full is barrier 1, empty is barrier 2.
__global__ void named_barrier_kernel(const int* in, int* out) {
  int* s = dynamic_shared<int>();
  const int t = threadIdx.x;
  for (int round = 0; round < 5; ++round) {
    if (t < 64) {
      if (round > 0) named_barrier_sync(2, 128);
      s[t] = in[round * 64 + t];
      named_barrier_arrive(1, 128);
    } else {
      named_barrier_sync(1, 128);
      out[round * 64 + t - 64] = s[127 - t];
      if (round < 4) named_barrier_arrive(2, 128);
    }
  }
}
CASE(named_barrier) {
  return launch(named_barrier_kernel, dim3(1), 128, 256, stream, input<int>(in),
                static_cast<int*>(out));
}

// --- only sm_90: stmatrix, mbarriers, registers ---

template <bool kTransposed>
__global__ void store_matrix_kernel(const uint32_t* in, uint16_t* out) {
  auto* s = dynamic_shared<uint16_t>();
  const int t = threadIdx.x;
  const uint32_t r[4] = {in[t * 4], in[t * 4 + 1], in[t * 4 + 2], in[t * 4 + 3]};
  if constexpr (kTransposed) stmatrix_x4_transposed(s + t * 8, r);
  else stmatrix_x4(s + t * 8, r);
  __syncthreads();
  for (int i = t; i < 256; i += 32) out[i] = s[i];
}
CASE(store_matrix) {
  return launch(store_matrix_kernel<false>, dim3(1), 32, 512, stream, input<uint32_t>(in),
                static_cast<uint16_t*>(out));
}
CASE(store_matrix_transposed) {
  return launch(store_matrix_kernel<true>, dim3(1), 32, 512, stream, input<uint32_t>(in),
                static_cast<uint16_t*>(out));
}

// A ring of two stages: warp 0 gathers by cp.async, warp 1 reads; seven rounds.
__global__ void ring_kernel(const int* in, int* out) {
  int* s = dynamic_shared<int>();
  auto* full = reinterpret_cast<uint64_t*>(s + 64);
  uint64_t* empty = full + 2;
  const int t = threadIdx.x, lane = t % 32;
  if (t == 0) {
    for (int stage = 0; stage < 2; ++stage) {
      mbarrier_init(full + stage, 32);
      mbarrier_init(empty + stage, 1);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  for (int round = 0; round < 7; ++round) {
    const int stage = round % 2, parity = round / 2 % 2;
    if (t < 32) {
      mbarrier_wait(empty + stage, parity ^ 1);
      cp_async<4>(s + stage * 32 + lane, in + round * 32 + lane, true);
      cp_async_arrive(full + stage);
    } else {
      while (!mbarrier_try_wait(full + stage, parity)) {
      }
      out[round * 32 + lane] = s[stage * 32 + 31 - lane];
      __syncwarp();
      if (elect_one()) mbarrier_arrive(empty + stage);
    }
  }
}
CASE(ring) {
  return launch(ring_kernel, dim3(1), 64, 320, stream, input<int>(in), static_cast<int*>(out));
}

// Three warpgroups of 168 registers a thread trade them; out counts the elected lanes of each warp.
__global__ void __launch_bounds__(384, 1) registers_kernel(int* out) {
  if (threadIdx.x < 128) registers_decrease<40>();
  else registers_increase<232>();
  const unsigned elected = __ballot_sync(0xffffffffu, elect_one());
  if (threadIdx.x % 32 == 0) out[threadIdx.x / 32] = __popc(elected);
}
CASE(registers) {
  return launch(registers_kernel, dim3(1), 384, 0, stream, static_cast<int*>(out));
}

// --- TMA ---

// Loads a box and dumps shared memory as it is, swizzled.
template <int kRank>
__global__ void tma_load_kernel(const __grid_constant__ TensorMap map, uint16_t* out, int rows,
                                int c0, int c1, int c2, int c3, int c4) {
  auto* s = dynamic_shared<uint16_t>();
  auto* barrier = reinterpret_cast<uint64_t*>(s + rows * 64);
  if (threadIdx.x == 0) {
    tma_prefetch(&map);
    mbarrier_init(barrier, 1);
    mbarrier_init_fence();
    mbarrier_expect(barrier, rows * 128);
    tma_load<kRank>(s, &map, barrier, c0, c1, c2, c3, c4);
  }
  __syncthreads();
  mbarrier_wait(barrier, 0);
  for (int i = threadIdx.x; i < rows * 64; i += 32) out[i] = s[i];
}
template <int kRank>
const char* load_box(const void* in, void* out, void* stream, const uint64_t (&sizes)[kRank],
                     const uint64_t (&strides)[kRank - 1], const uint32_t (&box)[kRank],
                     const int (&at)[5]) {
  TensorMap map;
  if (const char* error = make_tensor_map(&map, DType::bf16, in, kRank, sizes, strides, box)) {
    return error;
  }
  int rows = 1;
  for (int i = 1; i < kRank; ++i) rows *= static_cast<int>(box[i]);
  return launch(tma_load_kernel<kRank>, dim3(1), 32, rows * 128 + 64, stream, map,
                static_cast<uint16_t*>(out), rows, at[0], at[1], at[2], at[3], at[4]);
}
// The tensor of all: [2][3][13][96] elements, by rows.
CASE(load_3d) {
  return load_box<3>(in, out, stream, {96, 13, 6}, {192, 192 * 13}, {64, 16, 2}, {32, 5, 1, 0, 0});
}
CASE(load_3d_past_the_end) {
  return load_box<3>(in, out, stream, {96, 13, 6}, {192, 192 * 13}, {64, 8, 1}, {64, 9, 5, 0, 0});
}
CASE(load_3d_before_the_start) {
  return load_box<3>(in, out, stream, {96, 13, 6}, {192, 192 * 13}, {64, 8, 2},
                     {-24, -3, -1, 0, 0});
}
CASE(load_4d) {
  return load_box<4>(in, out, stream, {96, 13, 3, 2}, {192, 192 * 13, 192 * 39}, {64, 4, 2, 2},
                     {16, 11, 1, 0, 0});
}
CASE(load_5d) {
  return load_box<5>(in, out, stream, {96, 13, 3, 1, 2}, {192, 192 * 13, 192 * 39, 192 * 39},
                     {64, 2, 2, 1, 2}, {8, 12, 0, 0, 0});
}

// Two boxes of [8][64] from shared memory, which ordinary stores fill, into [3][13][96].
__global__ void tma_store_kernel(const __grid_constant__ TensorMap map, const uint16_t* in) {
  auto* s = dynamic_shared<uint16_t>();
  for (int i = threadIdx.x; i < 1024; i += 64) {
    const uint32_t address = i * 2;
    s[(address ^ ((address >> 3) & 0x70)) / 2] = in[i];
  }
  fence_async_shared();
  __syncthreads();
  if (threadIdx.x == 0) {
    tma_store<3>(&map, s, 32, 2, 1);
    tma_store_commit();
    tma_store<3>(&map, s + 512, 64, 9, 2);
    tma_store_commit();
    tma_store_wait_read<1>();
    tma_store_wait_read<0>();
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 1024; i += 64) s[i] = 0;
  if (threadIdx.x == 0) tma_store_wait<0>();
}
CASE(tma_store) {
  TensorMap map;
  const uint64_t sizes[3] = {96, 13, 3}, strides[2] = {192, 192 * 13};
  const uint32_t box[3] = {64, 8, 1};
  if (const char* error = make_tensor_map(&map, DType::f16, out, 3, sizes, strides, box)) {
    return error;
  }
  return launch(tma_store_kernel, dim3(1), 64, 2048, stream, map, input<uint16_t>(in));
}

// Blocks take turns at 1024 floats: the first stores its own, each other adds its own, which is of
// another size, so that an order is seen. The counter lies after them.
__global__ void turns_kernel(const float* in, float* out) {
  auto* s = dynamic_shared<float>();
  const int block = static_cast<int>(blockIdx.x);
  for (int i = threadIdx.x; i < 1024; i += 64) s[i] = in[block * 1024 + i];
  fence_async_shared();
  __syncthreads();
  if (threadIdx.x == 0) {
    auto* counter = reinterpret_cast<uint32_t*>(out + 1024);
    wait_for_turn(counter, static_cast<uint32_t>(block));
    if (block == 0) bulk_store(out, s, 4096);
    else bulk_add(out, s, 2048), bulk_add(out + 512, s + 512, 2048);
    tma_store_commit();
    tma_store_wait_read<0>();
    tma_store_wait<0>();
    pass_turn(counter);
  }
}
CASE(turns) {
  return launch(turns_kernel, dim3(24), 64, 4096, stream, input<float>(in),
                static_cast<float*>(out));
}

// --- wgmma ---

// in: a [64][64], b [kN][64], its transpose [64][kN], then floats d [64][kN].
// out: d + a b^T, then a b^T, [2][64][kN].
// kFirst: where among 64 the columns of a transposed b begin.
template <class Element, int kN, bool kFromRegisters, bool kTransposeB, int kFirst = 0>
__global__ void __launch_bounds__(128) wgmma_kernel(const uint16_t* in, float* out) {
  auto* a = dynamic_shared<uint16_t>();
  uint16_t* b = a + 64 * 64;
  constexpr int kChunk = 64 * 64;  // of a transposed b: 64 rows of k, 64 columns
  const int t = threadIdx.x, g = t / 32 * 16 + t % 32 / 4, c = t % 4 * 2;
  const auto place = [](uint16_t* to, int row, int column, uint16_t x) {
    const uint32_t address = row * 128 + column * 2;
    to[(address ^ ((address >> 3) & 0x70)) / 2] = x;
  };
  for (int i = t; i < 64 * 64; i += 128) place(a, i / 64, i % 64, in[i]);
  for (int i = t; i < kN * 64; i += 128) {
    if constexpr (kTransposeB) {
      const int k = i / kN, n = i % kN;
      place(b + n / 64 * kChunk, k, kFirst + n % 64, in[64 * 64 + kN * 64 + i]);
    } else {
      place(b, i / 64, i % 64, in[64 * 64 + i]);
    }
  }
  fence_async_shared();
  __syncthreads();
  const auto* initial = reinterpret_cast<const float*>(in + 64 * 64 + 2 * kN * 64);
  uint32_t left[4][4] = {};
  if constexpr (kFromRegisters) {
    for (int k = 0; k < 4; ++k) {
      const uint16_t* from = in + g * 64 + k * 16 + c;
      left[k][0] = two(from, 1);
      left[k][1] = two(from + 8 * 64, 1);
      left[k][2] = two(from + 8, 1);
      left[k][3] = two(from + 8 * 64 + 8, 1);
    }
  }
  float d[kN / 2];
  for (int which = 0; which < 2; ++which) {
    for (int i = 0; i < kN / 2; ++i) {
      d[i] = which == 0 ? initial[(g + i / 2 % 2 * 8) * kN + i / 4 * 8 + c + i % 2] : 1e30f;
    }
    fence_registers(d);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const uint64_t right = kTransposeB
                                 ? matrix_descriptor(b + k * 16 * 64 + kFirst, kChunk * 2, 1024)
                                 : matrix_descriptor(b + k * 16, 0, 1024);
      const bool accumulate = which == 0 || k > 0;
      if constexpr (kFromRegisters) {
        wgmma_rs<Element, kN, kTransposeB>(d, left[k], right, accumulate);
      } else {
        wgmma_ss<Element, kN, kTransposeB>(d, matrix_descriptor(a + k * 16, 0, 1024), right,
                                           accumulate);
      }
    }
    wgmma_commit();
    wgmma_wait<0>();
    fence_registers(d);
    for (int i = 0; i < kN / 2; ++i) {
      out[(which * 64 + g + i / 2 % 2 * 8) * kN + i / 4 * 8 + c + i % 2] = d[i];
    }
  }
}

#define WGMMA(name, Element, n, from_registers, transpose)                           \
  CASE(wgmma_##name) {                                                               \
    return launch(wgmma_kernel<Element, n, from_registers, transpose>, dim3(1), 128, \
                  64 * 128 + (n + 63) / 64 * 64 * 128, stream, input<uint16_t>(in),  \
                  static_cast<float*>(out));                                         \
  }
#define WGMMA_WIDTH(n)                       \
  WGMMA(ss_bf16_##n, Bf16, n, false, false)  \
  WGMMA(ss_t_bf16_##n, Bf16, n, false, true) \
  WGMMA(rs_bf16_##n, Bf16, n, true, false)   \
  WGMMA(rs_t_bf16_##n, Bf16, n, true, true)
WGMMA_WIDTH(32)
WGMMA_WIDTH(64)
WGMMA_WIDTH(80)
WGMMA_WIDTH(96)
WGMMA_WIDTH(112)
WGMMA_WIDTH(128)
WGMMA_WIDTH(144)
WGMMA_WIDTH(160)
WGMMA_WIDTH(176)
WGMMA_WIDTH(192)
WGMMA_WIDTH(208)
WGMMA_WIDTH(224)
WGMMA_WIDTH(240)
WGMMA_WIDTH(256)
WGMMA(ss_f16_96, Half, 96, false, false)
WGMMA(ss_t_f16_96, Half, 96, false, true)
WGMMA(rs_f16_256, Half, 256, true, false)
WGMMA(rs_t_f16_256, Half, 256, true, true)
CASE(wgmma_second_half) {
  return launch(wgmma_kernel<Bf16, 32, false, true, 32>, dim3(1), 128, 64 * 128 + 64 * 128, stream,
                input<uint16_t>(in), static_cast<float*>(out));
}
