// The entry point of a CPU kernel unit for packed calls, a unit of its own: whoever makes no packed
// call compiles none of this.
#pragma once

#include <exception>

#include "kernels/cpu_instance.h"
#include "kernels/cpu_packed.h"
#include "kernels/cpu_problem.h"

namespace attnlang::cpu {

// 0, or -1 and a message in `error` (kErrorSize).
template <class Variant, class Element, int kD, int kDV>
int run_packed(const Call& call, char* error) {
  static_assert(check_instance<Variant, Element, kD, kDV>());
  error[0] = '\0';
  if (call.packed == nullptr) return fail(error, "this kernel runs packed calls");
  if (check_call<Variant, Element, kD, kDV>(call, error) != 0) return -1;
  const Problem<Element> problem(call);
  problem.start_max();
  if (problem.batch == 0 || problem.heads == 0 || problem.queries == 0) return 0;
  try {
    return PackedRun<Variant, Element, kD, kDV>(call).run(error);
  } catch (const std::exception& exception) {
    return fail(error, "%s", exception.what());
  }
}

}  // namespace attnlang::cpu
