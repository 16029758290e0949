// What the host asks of the CUDA runtime. Nothing here synchronises or allocates.
//
// Functions return null, or CUDA's text of what is wrong. A stream is a cudaStream_t as void*.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace attnlang::cuda {

// The error of a call; it is taken off the runtime's record unless the context is lost.
inline const char* error_text(cudaError_t rc) {
  if (rc == cudaSuccess) return nullptr;
  cudaGetLastError();
  return cudaGetErrorString(rc);
}

// Lets a kernel have more than 48 KiB of dynamic shared memory, on the current device. It stays so:
// the runtime is asked once by each thread, for as many kernels as a call has.
template <class... Parameters>
const char* set_shared_limit(void (*kernel)(Parameters...), size_t shared_bytes) {
  struct Known {
    const void* kernel;
    int device;
    size_t bytes;
  };
  constexpr size_t kKnown = 8;
  static thread_local Known known[kKnown] = {};
  static thread_local size_t next = 0;
  if (shared_bytes <= 48 * 1024) return nullptr;
  const void* address = reinterpret_cast<const void*>(kernel);
  int device = 0;
  if (const char* error = error_text(cudaGetDevice(&device))) return error;
  for (const Known& k : known) {
    if (k.kernel == address && k.device == device && k.bytes >= shared_bytes) return nullptr;
  }
  const char* error = error_text(cudaFuncSetAttribute(
      address, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
  if (error == nullptr) known[next++ % kKnown] = {address, device, shared_bytes};
  return error;
}

// Enqueues a kernel of grid CTAs of `block` threads with `shared_bytes` of dynamic shared memory.
template <class... Parameters, class... Arguments>
const char* launch(void (*kernel)(Parameters...), dim3 grid, int block, size_t shared_bytes,
                   void* stream, const Arguments&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments));
  if (const char* error = set_shared_limit(kernel, shared_bytes)) return error;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(block));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  return error_text(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

// The number of multiprocessors of the current device; 1 when it cannot be told.
inline int multiprocessors() {
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
    return 1;
  return count;
}

// Sets `bytes` bytes of device memory to `value`, in stream order.
inline const char* fill_bytes(void* data, int value, size_t bytes, void* stream) {
  if (bytes == 0) return nullptr;
  return error_text(cudaMemsetAsync(data, value, bytes, static_cast<cudaStream_t>(stream)));
}

}  // namespace attnlang::cuda
