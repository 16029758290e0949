// The entry point of a CPU backward unit: dense calls, and packed ones as a problem a request.
#pragma once

#include <deque>
#include <exception>
#include <vector>

#include "attnlang/host/gradients.h"
#include "kernels/cpu_backward.h"
#include "kernels/cpu_backward_selection.h"
#include "kernels/cpu_gradient_variant.h"
#include "kernels/cpu_packed.h"
#include "kernels/cpu_problem.h"
#include "kernels/cpu_variant.h"

namespace attnlang::cpu {

// The gradients of one request: the rows that are its own. Those of other tensors are all
// requests'.
class RequestGradients {
 public:
  [[gnu::cold]] RequestGradients(const Call& whole, const Gradients& gradients, int64_t b)
      : own_(gradients),
        tensors_(gradients.tensors, gradients.tensors + whole.packed->tensor_count) {
    const Packed& packed = *whole.packed;
    const auto [queries, keys] = lengths_of(whole, b);
    const int64_t row = packed.q_indptr[b], column = packed.kv_indptr[b];
    for (Tensor* rows : {&own_.q, &own_.out, &own_.lse, &own_.out_grad, &own_.lse_grad}) {
      take_rows(*rows, 2, row, queries);
      rows->stride[0] = 0;
    }
    for (Tensor* rows : {&own_.k, &own_.v}) {
      take_rows(*rows, 2, column, keys);
      rows->stride[0] = 0;
    }
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const PackedAxis& axis = packed.tensors[i];
      if (axis.rows == PackedAxis::queries) take_rows(tensors_[i], axis.axis, row, queries);
      if (axis.rows == PackedAxis::keys) take_rows(tensors_[i], axis.axis, column, keys);
    }
    own_.tensors = tensors_.data();
  }
  RequestGradients(const RequestGradients&) = delete;
  RequestGradients& operator=(const RequestGradients&) = delete;

  const Gradients& gradients() const { return own_; }

 private:
  Gradients own_;
  std::vector<Tensor> tensors_;
};

// A request of a packed call as a problem of its own.
template <class Variant, class Element>
struct RequestProblem {
  RequestCall own;
  Problem<Element> problem;
  typename Variant::Params params;
  RequestGradients gradients;

  [[gnu::cold]] RequestProblem(const Call& call, const Gradients& whole, int64_t b)
      : own(call, b),
        problem(own.call(), b),
        params(Variant::params(own.call())),
        gradients(call, whole, b) {}
};

// 0, or -1 and a message in `error` (kErrorSize).
template <class Variant, class Element, int kD, int kDV>
int run_backward(const Call& call, const Gradients& gradients, char* error) {
  static_assert(check_variant<Variant>());
  static_assert(check_gradient_variant<Variant>());
  error[0] = '\0';
  if (check_call<Element, kD, kDV, kDV>(call, error) != 0) return -1;
  if (call.kv_indices.data != nullptr && check_selection(call, error) != 0) return -1;
  const int64_t kv_heads = call.k.size[1];
  if (requests_of(call) == 0) return 0;
  try {
    const RowSelections selections(call);
    std::deque<RequestProblem<Variant, Element>> requests;
    std::deque<Backward<Variant, Element, kD, kDV>> problems;
    if (call.packed == nullptr) {
      const Problem<Element> problem(call);
      const typename Variant::Params params = Variant::params(call);
      problems.emplace_back(problem, params, gradients, problem.batch * kv_heads);
      return run_problems(problems, gradients, selections, kv_heads, error);
    }
    if (call.packed->is_paged()) return fail(error, "pages have no gradients");
    for (int64_t b = 0; b < call.packed->requests; ++b) {
      auto& request = requests.emplace_back(call, gradients, b);
      problems.emplace_back(request.problem, request.params, request.gradients.gradients(),
                            call.packed->requests * kv_heads);
    }
    return run_problems(problems, gradients, selections, kv_heads, error);
  } catch (const std::exception& exception) {
    return fail(error, "%s", exception.what());
  }
}

}  // namespace attnlang::cpu
