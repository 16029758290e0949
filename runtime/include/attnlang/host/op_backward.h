// The torch op of one backward kernel, on torch's stable ABI.
//
// Its arguments are those of the forward op, then out, lse, what reached them, and which parameters
// want a gradient (a bit each: the run-time scalars, then the tensors). It returns the gradients of
// q, k and v in their dtype, then one float32 tensor a parameter, empty where none is wanted.
// `<name>_packed` is the same of packed calls: each tensor as the packed forward has it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "attnlang/host/call.h"
#include "attnlang/host/gradients.h"
#include "attnlang/host/op.h"
#include "attnlang/host/op_arguments.h"
#include "attnlang/host/op_bound.h"
#include "attnlang/host/op_forward.h"
#include "attnlang/host/op_results.h"
#include "attnlang/host/op_values.h"

namespace attnlang::op {

constexpr int32_t kSavedArguments = 5;

// What stands on the stack after the forward op's arguments, all taken before anything throws.
struct Saved {
  OwnedTensor out, lse, out_grad, lse_grad;
  int64_t wanted;

  explicit Saved(const StableIValue* stack) : wanted(as_integer(stack[4])) {
    out.take(as_handle(stack[0]));
    lse.take(as_handle(stack[1]));
    out_grad.take(as_handle(stack[2]));
    StableIValue value = 0;
    if (take_optional(stack[3], value)) lse_grad.take(as_handle(value));
  }
};

// [rows, heads] as [1, heads, rows].
inline Tensor packed_lse(const Tensor& t) {
  if (t.rank != 2) refuse_argument("lse", "expected [rows, heads]");
  Tensor rows = t;
  rows.rank = 3;
  rows.size[0] = 1, rows.size[1] = t.size[1], rows.size[2] = t.size[0];
  rows.stride[0] = 0, rows.stride[1] = t.stride[1], rows.stride[2] = t.stride[0];
  return rows;
}

// A tensor parameter as a packed call passes it, of one with the axes that the spec declares:
// `unfolded` backwards.
inline Tensor folded(const Tensor& tensor, const TensorParam& param) {
  if (param.batch_axis < 0 || param.row_axis < 0) return tensor;
  Tensor passed = tensor;
  passed.rank = 0;
  const auto take = [&](int32_t axis) { passed.size[passed.rank++] = tensor.size[axis]; };
  take(param.row_axis);
  for (int32_t axis = 0; axis < tensor.rank; ++axis) {
    if (axis != param.row_axis && axis != param.batch_axis) take(axis);
  }
  return passed;
}

inline bool same_rows(const Call& call, const Tensor& t) {
  return std::equal(t.size, t.size + 3, call.q.size);
}

// What was saved has the shapes that the call gives it: kernels trust them.
inline void expect_saved(const Call& call, const Gradients& g, bool on_gpu) {
  for (const Tensor* t : {&g.out, &g.out_grad}) {
    const bool typed = t->dtype == DType::f32 || (on_gpu && t->dtype == call.q.dtype);
    const bool same = t->rank == 4 && t->size[3] == call.v.size[3] && typed;
    if (!same || !same_rows(call, *t)) refuse_argument("out", "expected the shape of the output");
  }
  for (const Tensor* t : {&g.lse, &g.lse_grad}) {
    if (t->data == nullptr) continue;
    if (t->rank != 3 || t->dtype != DType::f32 || !same_rows(call, *t)) {
      refuse_argument("lse", "expected float32 [B, HQ, Q]");
    }
  }
}

// Dense, its memory ordered as the tensor's: heads inside rows where they lie so. That of a packed
// one is [rows, heads, d].
inline void allocate_like(const Tensor& like, bool packed, Tensor& result, const Device& device,
                          OwnedTensor& owner) {
  const int64_t h = like.size[1], n = like.size[2], d = like.size[3];
  const auto positive = at_least_one;
  const bool rows_first = packed || like.stride[1] < like.stride[2];
  result = like;
  result.stride[0] = positive(h) * positive(n) * positive(d);
  result.stride[1] = rows_first ? positive(d) : positive(n) * positive(d);
  result.stride[2] = rows_first ? positive(h) * positive(d) : positive(d);
  result.stride[3] = 1;
  if (packed) {
    const int64_t size[] = {n, h, d}, stride[] = {result.stride[2], result.stride[1], 1};
    result.data = allocate(3, size, stride, result.dtype, device, owner);
  } else {
    result.data = allocate(4, result.size, result.stride, result.dtype, device, owner);
  }
}

// Dense, float32, of a parameter's shape, `zeros` where the CPU adds to it; empty and null where
// none is wanted.
inline void allocate_sum(bool wanted, bool zeros, const Tensor& shape, Tensor& result,
                         const Device& device, OwnedTensor& owner) {
  if (!wanted) {
    const int64_t size = 0, stride = 1;
    allocate(1, &size, &stride, DType::f32, device, owner);
    return;
  }
  result = shape;
  result.dtype = DType::f32;
  int64_t count = 1;
  for (int32_t i = result.rank - 1; i >= 0; --i) {
    result.stride[i] = at_least_one(count);
    count *= result.size[i];
  }
  result.data = allocate(result.rank, result.size, result.stride, DType::f32, device, owner);
  if (zeros) std::memset(result.data, 0, static_cast<size_t>(count) * sizeof(float));
}

inline void differentiate(const BackwardOp& op, StableIValue* stack, uint64_t inputs,
                          const Argument* table, int32_t count) {
  const Spec& spec = *op.spec;
  const bool on_gpu = op.workspace != nullptr;
  const int32_t parameters = spec.scalar_count + spec.tensor_count;
  expect_count(spec, inputs, count + kSavedArguments);
  const Arguments arguments(stack, table, count);
  const Saved saved(stack + count);
  static const KernelTable& none = *new KernelTable;  // the kernel comes with the op
  Bound bound(spec, none, arguments);
  Call& call = bound.call;
  const DeviceGuard guard(bound.device);

  const bool packed = call.packed != nullptr;
  const auto rows_of = [&](const OwnedTensor& tensor) {
    const Tensor rows = view(tensor.get(), "out");
    return packed ? packed_rows(rows, "out") : rows;
  };
  const auto lse_of = [&](const OwnedTensor& tensor) {
    const Tensor lse = view(tensor.get(), "lse");
    return packed ? packed_lse(lse) : lse;
  };
  Gradients gradients{};
  gradients.out = rows_of(saved.out);
  gradients.out_grad = rows_of(saved.out_grad);
  if (view(saved.lse.get(), "lse").rank != 1) gradients.lse = lse_of(saved.lse);
  if (saved.lse_grad.get() != nullptr) gradients.lse_grad = lse_of(saved.lse_grad);
  expect_saved(call, gradients, on_gpu);

  std::vector<OwnedTensor> results(3 + parameters);
  allocate_like(call.q, packed, gradients.q, bound.device, results[0]);
  allocate_like(call.k, packed, gradients.k, bound.device, results[1]);
  allocate_like(call.v, packed, gradients.v, bound.device, results[2]);
  std::vector<Tensor> sums(parameters);
  for (int32_t i = 0; i < parameters; ++i) {
    const bool wanted = (saved.wanted >> i & 1) != 0;
    const int32_t tensor = i - spec.scalar_count;
    const Tensor shape = tensor < 0 ? Tensor{} : bound.tensors[tensor];
    const bool folds = packed && tensor >= 0;
    allocate_sum(wanted, !on_gpu, folds ? folded(shape, spec.tensors[tensor]) : shape, sums[i],
                 bound.device, results[3 + i]);
    if (wanted && folds && shape.rank != sums[i].rank) {
      sums[i] = unfolded(sums[i], spec.tensors[tensor], bound.packed.requests);
    }
  }
  gradients.scalars = sums.data();
  gradients.tensors = sums.data() + spec.scalar_count;

  OwnedTensor workspace;
  if (on_gpu) {
    allocate_workspace(call, op.workspace(&call, &gradients), bound.device, workspace);
    call.stream = current_stream(bound.device);
  }
  char error[kErrorSize] = "";
  if (op.run(&call, &gradients, error) != 0) report(spec, error);
  for (int32_t i = 0; i < 3 + parameters; ++i) stack[i] = from_handle(results[i].release());
}

inline void backward(const BackwardOp& op, StableIValue* stack, uint64_t inputs) {
  differentiate(op, stack, inputs, op.spec->arguments, op.spec->argument_count);
}

inline void packed_backward(const BackwardOp& op, StableIValue* stack, uint64_t inputs) {
  differentiate(op, stack, inputs, op.spec->packed_arguments, op.spec->packed_argument_count);
}

}  // namespace attnlang::op
