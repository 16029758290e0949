// Copies of boxes of a tensor between global and shared memory by the copy engine: sm_90.
//
// A tensor map is made on the host and passed to the kernel by value as a `const __grid_constant__`
// parameter. Boxes lie in shared memory row after row of 128 bytes, swizzled: bits 4 to 6 of an
// address are xored with bits 7 to 9. What of a box is out of the tensor loads as zeros and is not
// stored; a load always counts the bytes of the whole box.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "attnlang/device/ptx.cuh"

namespace attnlang::cuda {

using TensorMap = CUtensorMap;

// The driver's function, looked up once; null where the driver is too old. Through the runtime: a
// unit is not linked with libcuda, so it loads where there is no driver.
static inline auto tensor_map_encoder() {
  static const auto encoder = [] {
    void* symbol = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t rc = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &symbol,
                                                            12000, cudaEnableDefault, &found);
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(rc == cudaSuccess ? symbol
                                                                                 : nullptr);
  }();
  return encoder;
}

// Describes a tensor of `rank` (3 to 5) dimensions, the contiguous one first: sizes[rank] in
// elements, strides_bytes[rank - 1] of dimensions 1 and up (multiples of 16), box[rank] in elements
// (at most 256; box[0] covers at most 128 bytes). base: 16-byte aligned, in global memory. bf16 or
// f16. Host; null, or what is wrong.
inline const char* make_tensor_map(TensorMap* map, DType dtype, const void* base, int rank,
                                   const uint64_t* sizes, const uint64_t* strides_bytes,
                                   const uint32_t* box) {
  if (dtype != DType::bf16 && dtype != DType::f16) return "a tensor map takes bf16 or f16";
  const auto encode = tensor_map_encoder();
  if (encode == nullptr) return "the CUDA driver is older than 12.0";
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  static_assert(sizeof(cuuint64_t) == sizeof(uint64_t));
  const CUresult result = encode(
      map,
      dtype == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
      static_cast<cuuint32_t>(rank), const_cast<void*>(base),
      reinterpret_cast<const cuuint64_t*>(sizes),
      reinterpret_cast<const cuuint64_t*>(strides_bytes), box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? nullptr : "cuTensorMapEncodeTiled refuses the tensor map";
}

__device__ __forceinline__ void tma_prefetch(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// By one thread: loads the box at (c0, c1 ...), in elements, which may be negative or past the end.
// shared: 128-byte aligned. Completes on the barrier, with the bytes of the box.
template <int kRank>
__device__ __forceinline__ void tma_load(void* shared, const TensorMap* map, uint64_t* barrier,
                                         int c0, int c1, int c2, int c3 = 0, int c4 = 0) {
  static_assert(kRank >= 3 && kRank <= 5);
  if constexpr (kRank == 3) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(shared)),
        "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2)
        : "memory");
  } else if constexpr (kRank == 4) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(shared)),
        "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
        : "memory");
  } else {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(shared_address(shared)),
        "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
        : "memory");
  }
}

// By one thread: stores a box from shared memory, which holds it swizzled as a load would leave it.
// Completes by bulk groups of this thread: commit, then wait.
template <int kRank>
__device__ __forceinline__ void tma_store(const TensorMap* map, const void* shared, int c0, int c1,
                                          int c2, int c3 = 0, int c4 = 0) {
  static_assert(kRank >= 3 && kRank <= 5);
  if constexpr (kRank == 3) {
    asm volatile(
        "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::
            "l"(map),
        "r"(shared_address(shared)), "r"(c0), "r"(c1), "r"(c2)
        : "memory");
  } else if constexpr (kRank == 4) {
    asm volatile(
        "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group "
        "[%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
        "r"(shared_address(shared)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
        : "memory");
  } else {
    asm volatile(
        "cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group "
        "[%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(map),
        "r"(shared_address(shared)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
        : "memory");
  }
}
// By one thread: bytes from shared memory to global memory as they lie, or floats that are added to
// those there, each once. Addresses and `bytes`: multiples of 16. Complete as tma_store does.
__device__ __forceinline__ void bulk_store(void* global, const void* shared, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
                   __cvta_generic_to_global(global)),
               "r"(shared_address(shared)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void bulk_add(float* global, const void* shared, int bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(
                   __cvta_generic_to_global(global)),
               "r"(shared_address(shared)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until at most kPending groups have not written global memory.
template <int kPending>
__device__ __forceinline__ void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}
// Until at most kPending groups have not read shared memory, which may be written again then.
template <int kPending>
__device__ __forceinline__ void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

}  // namespace attnlang::cuda
