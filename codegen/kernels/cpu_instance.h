// What a CPU kernel is an instance of, and whether a call may run it.
#pragma once

#include <type_traits>

#include "attnlang/cpu/element.h"
#include "kernels/cpu_problem.h"
#include "kernels/cpu_transforms.h"
#include "kernels/cpu_variant.h"

namespace attnlang::cpu {

template <class Variant, class Element, int kD, int kDV>
constexpr bool check_instance() {
  static_assert(std::is_same_v<Element, float> || std::is_same_v<Element, Bf16> ||
                    std::is_same_v<Element, Half>,
                "CPU kernels take float, Bf16 and Half");
  static_assert(1 <= kD && kD <= 576, "head dimensions from 1 to 576");
  static_assert(1 <= kDV && kDV <= 576, "value dimensions from 1 to 576");
  return check_variant<Variant>();
}

template <class Variant, class Element, int kD, int kDV>
int check_call(const Call& call, char* error) {
  using Width = Widths<Variant, kD, kDV>;
  return check_call<Element, Width::kHead, Width::kValue, Width::kOut>(call, error);
}

}  // namespace attnlang::cpu
