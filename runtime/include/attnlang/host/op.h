// One op as its generated unit holds it: what the spec declares, and the functions that torch
// calls.
//
// torch's functions take no data, so every op needs its own; they pass their op on to the binding,
// which is the same for all ops and built once (`op_binding.h`). The unit itself includes nothing
// of torch and no code that reads a stack.
#pragma once

#include <cstdint>

#include "attnlang/host/call.h"
#include "attnlang/host/gradients.h"
#include "attnlang/host/op_spec.h"

namespace attnlang::op {

using StackValue = uint64_t;  // torch's StableIValue
using TorchFunction = void (*)(StackValue* stack, uint64_t inputs, uint64_t outputs);

class KernelTable;
struct Op;
struct BackwardOp;

// The binding's functions: each does one call, whose arguments are on the stack.
struct Binding {
  void (*forward)(const Op& op, StackValue* stack, uint64_t inputs);
  void (*count_tiles)(const Op& op, StackValue* stack, uint64_t inputs);
  void (*packed)(const Op& op, StackValue* stack, uint64_t inputs);
  void (*schedule)(const Op& op, StackValue* stack, uint64_t inputs);
  void (*lend_api)(const Op& op, StackValue* stack, uint64_t inputs);
  void (*backward)(const BackwardOp& op, StackValue* stack, uint64_t inputs);
  void (*packed_backward)(const BackwardOp& op, StackValue* stack, uint64_t inputs);
};

//   attnlang::<name>            the forward: (out, lse, max)
//   attnlang::<name>_tiles      the same arguments: how many tiles the call visits, int64[5]
//   attnlang::<name>_packed     the forward of a packed call (`op_packed.h`)
//   attnlang::<name>_schedule   its arguments, workers, split_tokens: int32 (`op_schedule.h`)
//   attnlang::<name>_api        the address of the `Api` by which kernels are added
struct Op {
  const Spec* spec;
  TorchFunction forward, count_tiles, packed, schedule, lend_api;
  // Filled when it is registered.
  const Binding* binding;
  KernelTable* kernels;
};

// The ops of one backward kernel: `attnlang::<name>`, and `attnlang::<name>_packed`
// (`op_backward.h`). Those of a GPU run dense calls or packed ones; the CPU's run both.
struct BackwardOp {
  const Spec* spec;
  bool dense, packed;  // which calls the kernel runs
  BackwardFunction run;
  BackwardWorkspaceFunction workspace;  // of a GPU's kernel, maybe emulated; null: of the CPU
  TorchFunction backward, packed_backward;
  const Binding* binding;  // filled when it is registered
};

template <Op& kOp>
constexpr Op make_op(const Spec& spec) {
  using Stack = StackValue*;
  return {
      .spec = &spec,
      .forward = [](Stack s, uint64_t n, uint64_t) { kOp.binding->forward(kOp, s, n); },
      .count_tiles = [](Stack s, uint64_t n, uint64_t) { kOp.binding->count_tiles(kOp, s, n); },
      .packed = [](Stack s, uint64_t n, uint64_t) { kOp.binding->packed(kOp, s, n); },
      .schedule = [](Stack s, uint64_t n, uint64_t) { kOp.binding->schedule(kOp, s, n); },
      .lend_api = [](Stack s, uint64_t n, uint64_t) { kOp.binding->lend_api(kOp, s, n); },
      .binding = nullptr,
      .kernels = nullptr,
  };
}

template <BackwardOp& kOp>
constexpr BackwardOp make_backward_op(const Spec& spec, bool dense, bool packed,
                                      BackwardFunction run, BackwardWorkspaceFunction workspace) {
  using Stack = StackValue*;
  return {
      .spec = &spec,
      .dense = dense,
      .packed = packed,
      .run = run,
      .workspace = workspace,
      .backward = [](Stack s, uint64_t n, uint64_t) { kOp.binding->backward(kOp, s, n); },
      .packed_backward = [](Stack s, uint64_t n,
                            uint64_t) { kOp.binding->packed_backward(kOp, s, n); },
      .binding = nullptr,
  };
}

}  // namespace attnlang::op

// Of the binding's unit: 0, or -1 and a message in `error` (kErrorSize). An op that another object
// registered before is left as it is.
extern "C" {
int attnlang_register(attnlang::op::Op* op, char* error);
int attnlang_register_backward(attnlang::op::BackwardOp* op, char* error);
}
