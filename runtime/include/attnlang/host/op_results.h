// Where a call runs, and the tensors that it returns or works in, allocated there by torch.
#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <stdexcept>

#include "attnlang/host/call.h"
#include "attnlang/host/op_values.h"

namespace attnlang::op {

// Makes a GPU the current device while it lives; of the CPU it does nothing.
class DeviceGuard {
 public:
  explicit DeviceGuard(const Device& device) {
    if (!device.is_gpu()) return;
    check(aoti_torch_create_device_guard(device.index, &guard_), "select a device");
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  ~DeviceGuard() {
    if (guard_ != nullptr) aoti_torch_delete_device_guard(guard_);
  }

 private:
  DeviceGuardHandle guard_ = nullptr;
};

using CurrentStream = AOTITorchError (*)(int32_t device_index, void** stream);

// libtorch_cuda's function, where that is loaded: an op does not ask for the library.
inline CurrentStream find_current_stream() {
  void* library = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  return reinterpret_cast<CurrentStream>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
}

// torch's current stream of a GPU; null of the CPU.
inline void* current_stream(const Device& device) {
  if (!device.is_gpu()) return nullptr;
  static const CurrentStream current = find_current_stream();
  if (current == nullptr) throw std::runtime_error("this torch has no CUDA");
  void* stream = nullptr;
  check(current(device.index, &stream), "tell the current stream");
  return stream;
}

inline void* allocate(int64_t rank, const int64_t* sizes, const int64_t* strides, DType dtype,
                      const Device& device, OwnedTensor& owner) {
  AtenTensorHandle handle = nullptr;
  check(aoti_torch_empty_strided(rank, sizes, strides, dtype_codes().code(dtype), device.type,
                                 device.index, &handle),
        "allocate a result");
  owner.take(handle);
  void* data = nullptr;
  check(aoti_torch_get_data_ptr(handle, &data), "lend a result's memory");
  return data != nullptr ? data : const_cast<char*>(kNothing);
}

// `bytes` of the device's memory for a call to work in.
inline void allocate_workspace(Call& call, int64_t bytes, const Device& device,
                               OwnedTensor& owner) {
  constexpr int64_t kAlignment = 256, kStride = 1;
  call.workspace = nullptr, call.workspace_bytes = 0;
  if (bytes <= 0) return;
  const int64_t size = bytes + kAlignment;
  const auto start =
      reinterpret_cast<uintptr_t>(allocate(1, &size, &kStride, DType::u8, device, owner));
  call.workspace = reinterpret_cast<void*>((start + kAlignment - 1) / kAlignment * kAlignment);
  call.workspace_bytes = bytes;
}

inline int64_t at_least_one(int64_t n) { return n > 1 ? n : 1; }  // torch's rule for strides

// [B, HQ, Q, d] in q's dtype, or float32 where it is `wide`, dense. Its memory is ordered as q's:
// [B, Q, HQ, DV] where q's heads lie inside its rows. The fake implementation says the same.
inline void allocate_out(Call& call, int64_t d, bool wide, const Device& device,
                         OwnedTensor& owner) {
  Tensor& out = call.out;
  const int64_t b = call.q.size[0], h = call.q.size[1], q = call.q.size[2];
  const bool rows_first = call.q.stride[1] < call.q.stride[2];
  out = {.data = nullptr,
         .dtype = wide ? DType::f32 : call.q.dtype,
         .rank = 4,
         .size = {b, h, q, d},
         .stride = {at_least_one(h) * at_least_one(q) * d, rows_first ? d : at_least_one(q) * d,
                    rows_first ? at_least_one(h) * d : d, 1}};
  out.data = allocate(4, out.size, out.stride, out.dtype, device, owner);
}

// [sum Q, HQ, d], dense; the call has it as [1, HQ, sum Q, d].
inline void allocate_packed_out(Call& call, int64_t d, bool wide, const Device& device,
                                OwnedTensor& owner) {
  const int64_t h = call.q.size[1], rows = call.q.size[2];
  const int64_t sizes[] = {rows, h, d}, strides[] = {at_least_one(h) * d, d, 1};
  call.out = {.data = nullptr,
              .dtype = wide ? DType::f32 : call.q.dtype,
              .rank = 4,
              .size = {1, h, rows, d},
              .stride = {0, d, strides[0], 1}};
  call.out.data = allocate(3, sizes, strides, call.out.dtype, device, owner);
}

// [sum Q, HQ], float32, dense, or empty; the call has it as [1, HQ, sum Q].
inline void allocate_packed_lse(Call& call, bool wanted, const Device& device, OwnedTensor& owner) {
  const int64_t h = call.q.size[1], rows = call.q.size[2];
  const int64_t sizes[] = {wanted ? rows : 0, h}, strides[] = {at_least_one(h), 1};
  void* data = allocate(wanted ? 2 : 1, sizes, strides + !wanted, DType::f32, device, owner);
  if (!wanted) return;
  call.lse = {.data = data,
              .dtype = DType::f32,
              .rank = 3,
              .size = {1, h, rows},
              .stride = {0, 1, strides[0]}};
}

// The first `rank` of [B, HQ, Q], float32, or empty.
inline void allocate_rows(const Call& call, int32_t rank, bool wanted, Tensor& result,
                          const Device& device, OwnedTensor& owner) {
  if (!wanted) {
    const int64_t size = 0, stride = 1;
    allocate(1, &size, &stride, DType::f32, device, owner);
    return;
  }
  result = {.data = nullptr, .dtype = DType::f32, .rank = rank, .size = {}, .stride = {}};
  int64_t stride = 1;
  for (int32_t i = rank - 1; i >= 0; --i) {
    result.size[i] = i == 0 ? requests_of(call) : call.q.size[i];
    result.stride[i] = stride;
    stride *= at_least_one(result.size[i]);
  }
  result.data = allocate(rank, result.size, result.stride, DType::f32, device, owner);
}

}  // namespace attnlang::op
