// The door of a CUDA backward unit: checks the call, and enqueues what makes the gradients: the
// rows' terms, then those of keys and values, those of queries, and the parameters' sums. Nothing
// here waits for the device or allocates.
#pragma once

#include <cinttypes>
#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/host/call.h"
#include "attnlang/host/gradients.h"
#include "kernels/cuda_attention.cuh"
#include "kernels/cuda_gradient_rows.cuh"
#include "kernels/cuda_gradient_sums.cuh"
#include "kernels/cuda_gradients.cuh"
#include "kernels/cuda_lines.cuh"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_requests.cuh"
#include "kernels/cuda_transforms.cuh"
#include "kernels/sm80_backward_work.cuh"

namespace attnlang::cuda {

// `Sides` is the architecture's: its `run(call, gradients, workspace, work, sums)` takes its pieces
// of the workspace and, unless `work` is null, enqueues; null, or what is wrong. `sums`:
// parameters' gradients are wanted. That of packed calls (kPacked) makes the rows' terms too, and
// gets their pass in front of `work`.
template <class Variant, class Element, int kD, int kDV, class Sides>
class Backward {
  static_assert(!Variant::kQuery && !Variant::kKey && !Variant::kValue,
                "transforms are differentiated apart");
  using Sums = GradientSums<Variant>;
  static constexpr bool kPacked = Sides::kPacked;

 public:
  // Bytes that `run` needs in the call's workspace.
  static int64_t workspace(const Call& call, const Gradients& gradients) {
    Workspace workspace(nullptr);
    take(call, workspace);
    const Sums sums(gradients, workspace);
    if (wants_sums(gradients)) take_rests(call, workspace);
    const bool any = Sums::any(gradients);
    if constexpr (kPacked) Sides::run(call, gradients, workspace, nullptr, nullptr, any);
    else Sides::run(call, gradients, workspace, nullptr, any);
    return workspace.used();
  }

  // 0, or -1 and a message in `error` (kErrorSize).
  static int run(const Call& call, const Gradients& gradients, char* error) {
    if (check_call<Variant, Element, kD, kDV>(call, error, kPacked) != 0) return -1;
    if (kPacked && call.packed->is_paged()) return fail(error, "pages have no gradients");
    if (kPacked && call.packed->requests > INT32_MAX) return fail(error, "more than 2^31 requests");
    if (check_results(gradients, error) != 0) return -1;
    const int64_t needed = workspace(call, gradients);
    if (call.workspace_bytes < needed) {
      return fail(error, "a workspace of %" PRId64 " bytes is needed, got %" PRId64, needed,
                  call.workspace_bytes);
    }
    const char* wrong = enqueue(call, gradients);
    return wrong == nullptr ? 0 : fail(error, "%s", wrong);
  }

 private:
  struct Pieces {
    RowTerms terms;
    VectorRows<Element> grads;
  };
  struct Rests {
    VectorRows<Element> rows;
    int32_t* any;
  };

  // Whether parameters gather what reaches elements.
  static bool wants_sums(const Gradients& gradients) {
    return Variant::Partials::kOfElements && Sums::any(gradients);
  }

  // A head's rows in whole blocks; those of each request are by themselves.
  static int64_t padded_rows(const Call& call) {
    const int64_t rows = call.q.size[2];
    if constexpr (kPacked) return Requests(call).query_tiles(kAnchorRows) * kAnchorRows;
    return (rows + kAnchorRows - 1) / kAnchorRows * kAnchorRows;
  }

  static Pieces take(const Call& call, Workspace& workspace) {
    const int64_t heads = call.q.size[0] * call.q.size[1], rows = call.q.size[2];
    const int64_t padded = padded_rows(call);
    const int64_t bytes = heads * padded * static_cast<int64_t>(sizeof(float));
    RowTerms terms{};
    terms.base = static_cast<float*>(workspace.take(bytes));
    terms.delta = static_cast<float*>(workspace.take(bytes));
    terms.total = static_cast<float*>(workspace.take(bytes));
    terms.exact = static_cast<float*>(workspace.take(bytes));
    terms.head = padded;
    terms.request = kPacked ? 0 : call.q.size[1] * padded;
    const int64_t entries = heads * rows * kDV;
    auto* grads =
        static_cast<Element*>(workspace.take(entries * static_cast<int64_t>(sizeof(Element))));
    return {terms, VectorRows<Element>::packed(grads, call.q.size[1], rows, kDV)};
  }

  // Whole blocks of rows: the products read them as they lie.
  static Rests take_rests(const Call& call, Workspace& workspace) {
    const int64_t heads = call.q.size[0] * call.q.size[1], padded = padded_rows(call);
    auto* entries = static_cast<Element*>(
        workspace.take(heads * padded * kDV * static_cast<int64_t>(sizeof(Element))));
    auto* any = static_cast<int32_t*>(workspace.take(rest_bytes(call)));
    return {VectorRows<Element>::packed(entries, call.q.size[1], padded, kDV), any};
  }

  static int64_t rest_bytes(const Call& call) {
    return requests_of(call) * call.q.size[1] * int64_t{sizeof(int32_t)};
  }

  // Results are written two entries at a time.
  static int check_results(const Gradients& gradients, char* error) {
    const Tensor* tensors[] = {&gradients.q, &gradients.k, &gradients.v};
    for (const Tensor* t : tensors) {
      bool pairs = t->stride[3] == 1 && reinterpret_cast<uintptr_t>(t->data) % 4 == 0;
      for (int i = 0; i < 3; ++i) pairs = pairs && t->stride[i] % 2 == 0;
      if (!pairs) return fail(error, "gradients of q, k and v lie in rows of whole pairs");
    }
    return 0;
  }

  static const char* enqueue(const Call& call, const Gradients& gradients) {
    Workspace pieces(call.workspace);
    const Pieces taken = take(call, pieces);
    const Sums sums(gradients, pieces);
    Problem<Element> problem = problem_of<Variant, Element>(call);
    problem.batch = static_cast<int32_t>(requests_of(call));
    const Rests rests = wants_sums(gradients) ? take_rests(call, pieces) : Rests{};
    const char* wrong = sums.start(gradients, call.stream);
    if (wrong == nullptr && rests.any != nullptr) {
      wrong = fill_bytes(rests.any, 0, static_cast<size_t>(rest_bytes(call)), call.stream);
    }
    const RowPass<Variant, Element> pass{.problem = problem,
                                         .arguments = Variant::arguments(call),
                                         .sums = sums.sums(gradients),
                                         .out = FloatRows::of(gradients.out),
                                         .out_grad = FloatRows::of(gradients.out_grad),
                                         .lse = Scalars::of(gradients.lse, 3),
                                         .lse_grad = Scalars::of(gradients.lse_grad, 3),
                                         .terms = taken.terms,
                                         .grads = taken.grads,
                                         .rests = rests.rows,
                                         .has_rest = rests.any};
    const BackwardWork<Variant, Element> work{.problem = problem,
                                              .arguments = Variant::arguments(call),
                                              .sums = sums.sums(gradients),
                                              .terms = taken.terms,
                                              .out_grad = constant(taken.grads),
                                              .rests = constant(rests.rows),
                                              .has_rest = rests.any,
                                              .q = VectorRows<Element>::of(gradients.q, 0),
                                              .k = VectorRows<Element>::of(gradients.k, 0),
                                              .v = VectorRows<Element>::of(gradients.v, 0),
                                              .order = {},
                                              .first_b = 0,
                                              .first_h = 0,
                                              .heads = problem.heads};
    const bool any = Sums::any(gradients);
    if constexpr (kPacked) {
      if (wrong == nullptr) wrong = Sides::run(call, gradients, pieces, &pass, &work, any);
    } else {
      if (wrong == nullptr && !has_no_rows(call)) wrong = find_terms(call, pass);
      if (wrong == nullptr) wrong = Sides::run(call, gradients, pieces, &work, any);
    }
    return wrong == nullptr ? sums.finish(gradients, call.stream) : wrong;
  }

  static VectorRows<const Element> constant(const VectorRows<Element>& rows) {
    VectorRows<const Element> same{.data = rows.data, .stride = {}, .vectorised = rows.vectorised};
    for (int i = 0; i < 4; ++i) same.stride[i] = rows.stride[i];
    return same;
  }

  static const char* find_terms(const Call& call, const RowPass<Variant, Element>& pass) {
    const int64_t rows = int64_t{pass.problem.batch} * pass.problem.heads * pass.terms.head;
    const dim3 grid(static_cast<unsigned>((rows + kRowWarps - 1) / kRowWarps));
    return launch(row_terms_kernel<Variant, Element, kDV>, grid, kRowWarps * kWarp, 0, call.stream,
                  pass);
  }
};

// What a unit exports, the lines of its tensors in front of the workspace.
template <class Variant, class Element, int kD, int kDV, class Sides>
int64_t backward_workspace(const Call& call, const Gradients& gradients) {
  return line_bytes<Variant>(call) +
         Backward<Variant, Element, kD, kDV, Sides>::workspace(call, gradients);
}

template <class Variant, class Element, int kD, int kDV, class Sides>
int run_backward(const Call& call, const Gradients& gradients, char* error) {
  using Kernels = Backward<Variant, Element, kD, kDV, Sides>;
  error[0] = '\0';
  const auto run = [&](const Call& inner) { return Kernels::run(inner, gradients, error); };
  if constexpr (Sides::kPacked) {  // its sides sum up their lines
    Call inner = call;
    if (take_lines(inner, line_bytes<Variant>(call), error) != 0) return -1;
    return run(inner);
  } else {
    return with_lines<Variant, Element>(call, error, run);
  }
}

}  // namespace attnlang::cuda
