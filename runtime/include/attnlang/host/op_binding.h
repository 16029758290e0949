// The binding of all ops on torch's stable ABI: registers them, and does their calls.
#pragma once

#include <cstdio>
#include <exception>
#include <string>

#include "attnlang/host/op.h"
#include "attnlang/host/op_backward.h"
#include "attnlang/host/op_forward.h"
#include "attnlang/host/op_kernels.h"
#include "attnlang/host/op_values.h"

namespace attnlang::op {

// What torch is told of where registrations stand: `__FILE__` would hold a path of the builder's.
inline constexpr const char* kFile = "attnlang/host/op_binding.h";

inline void lend_api(const Op& op, StableIValue* stack, uint64_t) {
  stack[0] = static_cast<StableIValue>(reinterpret_cast<uintptr_t>(&op.kernels->api()));
}

inline constexpr Binding kBinding{.forward = forward,
                                  .count_tiles = count_tiles,
                                  .packed = packed,
                                  .schedule = schedule,
                                  .lend_api = lend_api,
                                  .backward = backward,
                                  .packed_backward = packed_backward};

inline TorchLibraryHandle open_library(const char* dispatch_key) {
  TorchLibraryHandle library = nullptr;
  check(dispatch_key == nullptr
            ? aoti_torch_library_init_fragment("attnlang", kFile, 0, &library)
            : aoti_torch_library_init_impl("attnlang", dispatch_key, kFile, 0, &library),
        "open a library");
  return library;  // lives as long as the registration: until the process ends
}

inline void implement(TorchLibraryHandle library, const std::string& name, TorchFunction function) {
  check(torch_library_impl(library, name.c_str(), function, TORCH_ABI_VERSION), "implement an op");
}

// Defines and implements the ops. Where another object did so before (a just-in-time and an
// ahead-of-time copy in one process), that one stays in charge.
inline void register_op(Op& op) {
  const Spec& spec = *op.spec;
  const TorchLibraryHandle definitions = open_library(nullptr);
  if (aoti_torch_library_def(definitions, spec.schema) != 0) return;
  op.kernels = new KernelTable;  // never destroyed: threads may outlive `main`
  op.binding = &kBinding;
  for (const char* schema :
       {spec.tiles_schema, spec.packed_schema, spec.schedule_schema, spec.api_schema}) {
    check(aoti_torch_library_def(definitions, schema), "define an op");
  }
  const std::string name = spec.name;
  for (const char* key : {"CPU", "CUDA"}) {
    const TorchLibraryHandle library = open_library(key);
    implement(library, name, op.forward);
    implement(library, name + "_tiles", op.count_tiles);
    implement(library, name + "_packed", op.packed);
    implement(library, name + "_schedule", op.schedule);
  }
  implement(open_library("CompositeExplicitAutograd"), name + "_api", op.lend_api);
}

// The same for the op of a backward kernel.
inline void register_backward_op(BackwardOp& op) {
  const TorchLibraryHandle definitions = open_library(nullptr);
  op.binding = &kBinding;
  const auto define = [&](const std::string& name, const char* schema, TorchFunction run) {
    if (aoti_torch_library_def(definitions, schema) != 0) return;
    implement(open_library("CPU"), name, run);
    if (op.workspace != nullptr) implement(open_library("CUDA"), name, run);
  };
  const std::string name = op.spec->name;
  if (op.dense) define(name, op.spec->schema, op.backward);
  if (op.packed) define(name + "_packed", op.spec->packed_schema, op.packed_backward);
}

// Calls `f`; no exception passes through C.
template <class Function>
int guarded(char* error, const Function& f) {
  try {
    f();
    return 0;
  } catch (const std::exception& exception) {
    std::snprintf(error, kErrorSize, "%s", exception.what());
    return -1;
  }
}

}  // namespace attnlang::op

extern "C" {

int attnlang_register(attnlang::op::Op* op, char* error) {
  return attnlang::op::guarded(error, [&] { attnlang::op::register_op(*op); });
}

int attnlang_register_backward(attnlang::op::BackwardOp* op, char* error) {
  return attnlang::op::guarded(error, [&] { attnlang::op::register_backward_op(*op); });
}

}  // extern "C"
