// What the ops of a forward kernel do: from torch's stack to the kernel and back.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "attnlang/host/call.h"
#include "attnlang/host/op.h"
#include "attnlang/host/op_arguments.h"
#include "attnlang/host/op_bound.h"
#include "attnlang/host/op_kernels.h"
#include "attnlang/host/op_results.h"
#include "attnlang/host/op_schedule.h"
#include "attnlang/host/op_values.h"

namespace attnlang::op {

constexpr int32_t kScheduleArguments = 1;

inline void expect_count(const Spec& spec, uint64_t inputs, int32_t count) {
  if (inputs != static_cast<uint64_t>(count)) {
    throw std::runtime_error(std::string(spec.name) + ": torch passed another number of arguments");
  }
}

[[noreturn]] inline void report(const Spec& spec, const char* error) {
  throw std::runtime_error(std::string(spec.name) + ": " + error);
}

// What a GPU's kernel is given beside the call.
inline void prepare(Bound& bound, const Kernel& kernel, OwnedTensor& workspace) {
  if (kernel.workspace == nullptr) return;
  allocate_workspace(bound.call, kernel.workspace(&bound.call), bound.device, workspace);
  bound.call.stream = current_stream(bound.device);
}

inline void attend(const Op& op, const Arguments& arguments, StableIValue* stack) {
  const Spec& spec = *op.spec;
  Bound bound(spec, *op.kernels, arguments);
  Call& call = bound.call;
  if (spec.has_dropout && !bound.has_seed) {
    refuse_argument("seed", "expected one: the op of a variant with dropout draws none by itself");
  }
  if (call.packed != nullptr && call.packed->split_tokens != 0 && bound.schedule.data == nullptr) {
    refuse_argument("split_tokens", "expected 0 without the schedule that was made so");
  }
  const Kernel& kernel = op.kernels->get(bound.key, bound.device, spec.name);
  const DeviceGuard guard(bound.device);
  OwnedTensor out, lse, max, workspace;
  if (call.packed == nullptr) {
    allocate_out(call, bound.out_dim, bound.wide_out, bound.device, out);
    allocate_rows(call, 3, bound.return_lse, call.lse, bound.device, lse);
  } else {
    allocate_packed_out(call, bound.out_dim, bound.wide_out, bound.device, out);
    allocate_packed_lse(call, bound.return_lse, bound.device, lse);
  }
  allocate_rows(call, 2, bound.return_max, call.max, bound.device, max);
  prepare(bound, kernel, workspace);
  char error[kErrorSize] = "";
  if (kernel.run(&call, error) != 0) report(spec, error);
  stack[0] = from_handle(out.release());
  stack[1] = from_handle(lse.release());
  stack[2] = from_handle(max.release());
}

inline void forward(const Op& op, StableIValue* stack, uint64_t inputs) {
  const Spec& spec = *op.spec;
  expect_count(spec, inputs, spec.argument_count);
  const Arguments arguments(stack, spec.arguments, spec.argument_count);
  attend(op, arguments, stack);
}

inline void packed(const Op& op, StableIValue* stack, uint64_t inputs) {
  const Spec& spec = *op.spec;
  expect_count(spec, inputs, spec.packed_argument_count);
  const Arguments arguments(stack, spec.packed_arguments, spec.packed_argument_count);
  attend(op, arguments, stack);
}

// A GPU's kernels make the schedule where they read it. Returns the bytes of workspace that a call
// with it needs, whatever the lengths are.
inline int64_t schedule_on_gpu(const Spec& spec, Bound& bound, const Kernel& kernel,
                               OwnedTensor& result) {
  const DeviceGuard guard(bound.device);
  const auto ask = [&] {
    char error[kErrorSize] = "";
    if (kernel.run(&bound.call, error) != 0) report(spec, error);
  };
  ask();
  OwnedTensor workspace;
  prepare(bound, kernel, workspace);
  Costs& costs = *bound.packed.costs;
  const int64_t stride = 1;
  void* data = allocate(1, &costs.items, &stride, DType::i32, bound.device, result);
  costs.data = static_cast<int32_t*>(data), costs.capacity = costs.items;
  ask();
  bound.packed.costs = nullptr;
  bound.packed.chunks = static_cast<const Chunk*>(data), bound.packed.chunk_count = costs.items;
  return kernel.workspace(&bound.call);
}

// The inspector: what the kernel says of the work items' costs, dealt out.
inline void schedule(const Op& op, StableIValue* stack, uint64_t inputs) {
  const Spec& spec = *op.spec;
  const int32_t count = spec.packed_argument_count + kScheduleArguments;
  expect_count(spec, inputs, count);
  const Arguments arguments(stack, spec.packed_arguments, count);
  Bound bound(spec, *op.kernels, arguments);
  const Kernel& kernel = op.kernels->get(bound.key, bound.device, spec.name);
  Costs costs{};
  bound.packed.costs = &costs;
  OwnedTensor result;
  if (kernel.workspace != nullptr) {
    const int64_t bytes = schedule_on_gpu(spec, bound, kernel, result);
    stack[0] = from_handle(result.release());
    stack[1] = static_cast<StableIValue>(bytes);
    return;
  }
  std::vector<int32_t> values;
  do {
    values.resize(costs.items);
    costs.data = values.data(), costs.capacity = static_cast<int64_t>(values.size());
    char error[kErrorSize] = "";
    if (kernel.run(&bound.call, error) != 0) report(spec, error);
  } while (costs.items > costs.capacity);
  const std::vector<int32_t> made =
      make_schedule(bound.call, values, bound.workers, bound.packed.split_tokens);
  const int64_t size = static_cast<int64_t>(made.size()), stride = 1;
  void* data = allocate(1, &size, &stride, DType::i32, bound.device, result);
  std::memcpy(data, made.data(), made.size() * sizeof(int32_t));
  stack[0] = from_handle(result.release());
  stack[1] = static_cast<StableIValue>(0);  // the CPU's kernel takes its own memory
}

inline void count_tiles(const Op& op, StableIValue* stack, uint64_t inputs) {
  const Spec& spec = *op.spec;
  expect_count(spec, inputs, spec.argument_count);
  const Arguments arguments(stack, spec.arguments, spec.argument_count);
  Bound bound(spec, *op.kernels, arguments);
  if (bound.call.kv_indices.data != nullptr) {
    refuse_argument("kv_indices", "a call that selects columns has no tiles to count");
  }
  const Kernel& kernel = op.kernels->get(bound.key, bound.device, spec.name);
  const DeviceGuard guard(bound.device);
  OwnedTensor result, workspace;
  const int64_t size = sizeof(TileCounts) / sizeof(int64_t), stride = 1;
  void* counts = allocate(1, &size, &stride, DType::i64, bound.device, result);
  prepare(bound, kernel, workspace);
  char error[kErrorSize] = "";
  if (kernel.count_tiles(&bound.call, static_cast<TileCounts*>(counts), error) != 0) {
    report(spec, error);
  }
  stack[0] = from_handle(result.release());
}

}  // namespace attnlang::op
