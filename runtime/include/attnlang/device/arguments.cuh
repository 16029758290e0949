// Scalars of a call as arguments of GPU kernels: a number, or where one lies in the GPU's memory.
// The host makes them without looking; a kernel reads them at its start.
#pragma once

#include <cstdint>

#include "attnlang/host/call.h"
#include "attnlang/host/target.h"
#include "attnlang/host/tensor_view.h"

namespace attnlang::cuda {

template <class T>
struct ScalarArgument {
  T value;
  DeviceScalar where;
};

// Element i of memory of a dtype, as T.
template <class T>
ATTNLANG_DEVICE T read_as(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::f32:
      return static_cast<T>(static_cast<const float*>(data)[i]);
    case DType::f64:
      return static_cast<T>(static_cast<const double*>(data)[i]);
    case DType::f16:
      return static_cast<T>(to_float32(static_cast<const Half*>(data)[i]));
    case DType::bf16:
      return static_cast<T>(to_float32(static_cast<const Bf16*>(data)[i]));
    case DType::i8:
      return static_cast<T>(static_cast<const int8_t*>(data)[i]);
    case DType::i16:
      return static_cast<T>(static_cast<const int16_t*>(data)[i]);
    case DType::i32:
      return static_cast<T>(static_cast<const int32_t*>(data)[i]);
    case DType::i64:
      return static_cast<T>(static_cast<const int64_t*>(data)[i]);
    case DType::u8:
    case DType::boolean:
      return static_cast<T>(static_cast<const uint8_t*>(data)[i]);
  }
  return T{};
}

template <class T>
ATTNLANG_DEVICE T read(const ScalarArgument<T>& argument) {
  if (argument.where.data == nullptr) return argument.value;
  return read_as<T>(argument.where.data, argument.where.dtype, 0);
}
template <class T>
ATTNLANG_DEVICE const T& read(const T& argument) {
  return argument;
}

inline DeviceScalar device_scalar(const Call& call, int i) {
  return call.device_scalars == nullptr ? DeviceScalar{nullptr, DType::f32}
                                        : call.device_scalars[i];
}
inline ScalarArgument<float> real_argument(const Call& call, int i) {
  return {static_cast<float>(call.scalars[i].real), device_scalar(call, i)};
}
inline ScalarArgument<double> exact_argument(const Call& call, int i) {
  return {call.scalars[i].real, device_scalar(call, i)};
}
inline ScalarArgument<int64_t> integer_argument(const Call& call, int i) {
  return {call.scalars[i].integer, device_scalar(call, i)};
}
inline ScalarArgument<bool> boolean_argument(const Call& call, int i) {
  return {call.scalars[i].integer != 0, device_scalar(call, i)};
}
inline ScalarArgument<float> scale_argument(const Call& call) {
  return {static_cast<float>(call.scale), call.device_scale};
}
inline ScalarArgument<uint64_t> seed_argument(const Call& call) {
  return {call.seed, call.device_seed};
}

}  // namespace attnlang::cuda
