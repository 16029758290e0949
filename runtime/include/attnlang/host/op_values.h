// Values on the stack of torch's stable ABI, through its C shim alone: its C++ wrappers cost a
// second of compile time and half a microsecond a call.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

#include "attnlang/host/call.h"

namespace attnlang::op {

inline void check(AOTITorchError status, const char* what) {
  if (status != 0) throw std::runtime_error(std::string("torch failed to ") + what);
}

inline int64_t as_integer(StableIValue value) { return static_cast<int64_t>(value); }

inline bool as_boolean(StableIValue value) { return (value & 0xff) != 0; }

inline double as_real(StableIValue value) {
  double real;
  std::memcpy(&real, &value, sizeof(real));
  return real;
}

inline AtenTensorHandle as_handle(StableIValue value) {
  AtenTensorHandle handle;
  std::memcpy(&handle, &value, sizeof(handle));
  return handle;
}

inline StableIValue from_handle(AtenTensorHandle handle) {
  StableIValue value = 0;
  std::memcpy(&value, &handle, sizeof(handle));
  return value;
}

// Takes an optional value off the stack into `value`; false for None. Its box comes from torch's
// `new`, as in torch's own `to<std::optional<T>>` for targets before 2.13.
inline bool take_optional(StableIValue boxed, StableIValue& value) {
  if (boxed == 0) return false;
  auto* box = reinterpret_cast<StableIValue*>(static_cast<uintptr_t>(boxed));
  value = *box;
  delete box;
  return true;
}

// A tensor handle that is deleted with its scope unless it is released.
class OwnedTensor {
 public:
  OwnedTensor() = default;
  OwnedTensor(const OwnedTensor&) = delete;
  OwnedTensor& operator=(const OwnedTensor&) = delete;
  ~OwnedTensor() {
    if (handle_ != nullptr) aoti_torch_delete_tensor_object(handle_);
  }

  void take(AtenTensorHandle handle) { handle_ = handle; }
  AtenTensorHandle get() const { return handle_; }
  AtenTensorHandle release() {
    const AtenTensorHandle handle = handle_;
    handle_ = nullptr;
    return handle;
  }

 private:
  AtenTensorHandle handle_ = nullptr;
};

// torch's dtype codes are known at load time only.
class DTypeCodes {
 public:
  DTypeCodes()
      : codes_{aoti_torch_dtype_float32(),       aoti_torch_dtype_float64(),
               aoti_torch_dtype_float16(),       aoti_torch_dtype_bfloat16(),
               aoti_torch_dtype_int8(),          aoti_torch_dtype_int16(),
               aoti_torch_dtype_int32(),         aoti_torch_dtype_int64(),
               aoti_torch_dtype_uint8(),         aoti_torch_dtype_bool(),
               aoti_torch_dtype_float8_e4m3fn(), aoti_torch_dtype_float8_e5m2()} {
    known_.fill(-1);
    for (size_t i = 0; i < codes_.size(); ++i) known_[codes_[i]] = static_cast<int8_t>(i);
  }

  // -1 for a dtype that kernels do not read.
  int32_t find(int32_t code) const {
    return code < 0 || code >= static_cast<int32_t>(known_.size()) ? -1 : known_[code];
  }
  int32_t code(DType dtype) const { return codes_[static_cast<size_t>(dtype)]; }

 private:
  std::array<int32_t, 12> codes_;  // by DType
  std::array<int8_t, 128> known_;  // by code
};

inline const DTypeCodes& dtype_codes() {
  static const DTypeCodes codes;
  return codes;
}

inline bool is_real(DType dtype) {
  return static_cast<int32_t>(dtype) <= static_cast<int32_t>(DType::bf16);
}

// Where empty tensors point: kernels take null for "not passed".
alignas(64) inline constexpr char kNothing[64] = {};

// Where a tensor lies.
struct Device {
  int32_t type = 0, index = 0;  // torch's

  bool is_gpu() const { return type == aoti_torch_device_type_cuda(); }
  bool operator==(const Device&) const = default;
};

inline Device device_of(AtenTensorHandle handle, const char* name) {
  Device device;
  check(aoti_torch_get_device_type(handle, &device.type), "tell a tensor's device");
  if (device.is_gpu()) {
    check(aoti_torch_get_device_index(handle, &device.index), "tell a tensor's device");
  } else if (device.type != aoti_torch_device_type_cpu()) {
    throw std::runtime_error(std::string("`") + name + "`: expected a CPU or CUDA tensor");
  }
  return device;
}

// Describes a tensor. Throws for one that kernels cannot read.
inline Tensor view(AtenTensorHandle handle, const char* name) {
  const auto refuse = [name](const char* why) {
    throw std::runtime_error(std::string("`") + name + "`: " + why);
  };
  int32_t code = 0;
  int64_t rank = 0;
  int64_t* sizes = nullptr;
  int64_t* strides = nullptr;
  const void* data = nullptr;
  check(aoti_torch_get_dtype(handle, &code), "tell a tensor's dtype");
  check(aoti_torch_get_dim(handle, &rank), "tell a tensor's rank");
  check(aoti_torch_get_sizes(handle, &sizes), "tell a tensor's sizes");
  check(aoti_torch_get_strides(handle, &strides), "tell a tensor's strides");
  check(torch_get_const_data_ptr(handle, &data), "lend a tensor's memory");
  const int32_t dtype = dtype_codes().find(code);
  if (dtype < 0) refuse("a dtype that no kernel reads");
  if (rank > kMaxRank) refuse("too many dimensions");
  Tensor tensor;
  tensor.data = const_cast<void*>(data != nullptr ? data : kNothing);
  tensor.dtype = static_cast<DType>(dtype);
  tensor.rank = static_cast<int32_t>(rank);
  for (int64_t i = 0; i < rank; ++i) {
    tensor.size[i] = sizes[i];
    tensor.stride[i] = strides[i];
  }
  return tensor;
}

inline double read_real(AtenTensorHandle handle, const char* name) {
  double value = 0;
  if (aoti_torch_item_float64(handle, &value) != 0) {
    throw std::runtime_error(std::string("`") + name + "`: expected a tensor of one number");
  }
  return value;
}

inline int64_t read_integer(AtenTensorHandle handle, const char* name) {
  int64_t value = 0;
  if (is_real(view(handle, name).dtype) || aoti_torch_item_int64(handle, &value) != 0) {
    throw std::runtime_error(std::string("`") + name + "`: expected a tensor of one integer");
  }
  return value;
}

}  // namespace attnlang::op
