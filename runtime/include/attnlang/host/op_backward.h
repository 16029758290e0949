// The torch op of one backward kernel, on torch's stable ABI.
//
// Its arguments are those of the forward op, then out, lse, what reached them, and which parameters
// want a gradient (a bit each: the run-time scalars, then the tensors). It returns the gradients of
// q, k and v in their dtype, then one float32 tensor a parameter, empty where none is wanted.
#pragma once

#include "attnlang/host/gradients.h"
#include "attnlang/host/op.h"

namespace attnlang::op {

// `kWorkspace`: of a GPU's kernel, which may be emulated on the CPU; null: of the CPU.
template <const Spec& kSpec, BackwardFunction kRun, BackwardWorkspaceFunction kWorkspace>
class BackwardBinding {
 public:
  // Defines and implements the op, unless another object did so before.
  BackwardBinding() {
    TorchLibraryHandle definitions = nullptr, library = nullptr;
    check(aoti_torch_library_init_fragment("attnlang", Forward::kFile, 0, &definitions),
          "open a library");
    if (aoti_torch_library_def(definitions, kSpec.schema) != 0) return;
    for (const char* key : {"CPU", "CUDA"}) {
      if (key[1] == 'U' && !kOnGpu) continue;
      check(aoti_torch_library_init_impl("attnlang", key, Forward::kFile, 0, &library),
            "open a library");
      Forward::implement(library, kSpec.name, backward);
    }
  }

 private:
  using Forward = Binding<kSpec>;
  static constexpr bool kOnGpu = kWorkspace != nullptr;
  static constexpr int32_t kExtra = 5;
  static constexpr int32_t kParameters = kSpec.scalar_count + kSpec.tensor_count;

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

  static void backward(StableIValue* stack, uint64_t inputs, uint64_t) {
    if (inputs != static_cast<uint64_t>(kSpec.argument_count + kExtra)) {
      throw std::runtime_error(std::string(kSpec.name) +
                               ": torch passed another number of arguments");
    }
    const typename Forward::Arguments arguments(stack);
    const Saved saved(stack + kSpec.argument_count);
    typename Forward::Bound bound(arguments);
    Call& call = bound.call;
    const DeviceGuard guard(bound.device);

    Gradients gradients{};
    gradients.out = view(saved.out.get(), "out");
    gradients.out_grad = view(saved.out_grad.get(), "out_grad");
    const Tensor lse = view(saved.lse.get(), "lse");
    if (lse.rank == 3) gradients.lse = lse;
    if (saved.lse_grad.get() != nullptr)
      gradients.lse_grad = view(saved.lse_grad.get(), "lse_grad");
    expect_rows(call, gradients);

    std::array<OwnedTensor, 3 + kParameters> results;
    allocate_like(call.q, gradients.q, bound.device, results[0]);
    allocate_like(call.k, gradients.k, bound.device, results[1]);
    allocate_like(call.v, gradients.v, bound.device, results[2]);
    std::array<Tensor, kParameters + 1> sums{};
    for (int32_t i = 0; i < kParameters; ++i) {
      const bool wanted = (saved.wanted >> i & 1) != 0;
      const int32_t tensor = i - kSpec.scalar_count;
      allocate_sum(wanted, tensor < 0 ? Tensor{} : bound.tensors[tensor], sums[i], bound.device,
                   results[3 + i]);
    }
    gradients.scalars = sums.data();
    gradients.tensors = sums.data() + kSpec.scalar_count;

    OwnedTensor workspace;
    if constexpr (kOnGpu) {
      allocate_workspace(call, kWorkspace(&call, &gradients), bound.device, workspace);
      call.stream = current_stream(bound.device);
    }
    char error[kErrorSize] = "";
    if (kRun(&call, &gradients, error) != 0) {
      throw std::runtime_error(std::string(kSpec.name) + ": " + error);
    }
    for (int32_t i = 0; i < 3 + kParameters; ++i) stack[i] = from_handle(results[i].release());
  }

  // What was saved has the shapes that the call gives it: kernels trust them.
  static void expect_rows(const Call& call, const Gradients& g) {
    for (const Tensor* t : {&g.out, &g.out_grad}) {
      const bool typed = t->dtype == DType::f32 || (kOnGpu && t->dtype == call.q.dtype);
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
  static bool same_rows(const Call& call, const Tensor& t) {
    return std::equal(t.size, t.size + 3, call.q.size);
  }

  // Dense, its memory ordered as the tensor's: heads inside rows where they lie so.
  static void allocate_like(const Tensor& like, Tensor& result, const Device& device,
                            OwnedTensor& owner) {
    const int64_t h = like.size[1], n = like.size[2], d = like.size[3];
    const auto positive = at_least_one;
    const bool rows_first = like.stride[1] < like.stride[2];
    result = like;
    result.stride[0] = positive(h) * positive(n) * positive(d);
    result.stride[1] = rows_first ? positive(d) : positive(n) * positive(d);
    result.stride[2] = rows_first ? positive(h) * positive(d) : positive(d);
    result.stride[3] = 1;
    result.data = allocate(4, result.size, result.stride, result.dtype, device, owner);
  }

  // Dense, float32, of a parameter's shape, zeros where the CPU adds to it; empty and null where
  // none is wanted.
  static void allocate_sum(bool wanted, const Tensor& shape, Tensor& result, const Device& device,
                           OwnedTensor& owner) {
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
    if (!kOnGpu) std::memset(result.data, 0, static_cast<size_t>(count) * sizeof(float));
  }
};

}  // namespace attnlang::op
