// What the backward kernel asks of a functor beside the contract of the forward kernels.
#pragma once

#include <concepts>
#include <type_traits>

#include "kernels/cpu_variant.h"
#include "kernels/gradient_variant.h"

namespace attnlang::cpu {

template <class V>
concept HasDotGradient = requires(const typename V::Request& r, const typename V::Row& row,
                                  const typename V::Column& column, F x) {
  { V::dot_gradient(r, row, column, x, x, x) } -> std::same_as<F>;
};

template <class V>
concept HasQueryRanges = !V::kMask || requires(const typename V::Request& r, int64_t i) {
  { V::query_ranges(r, i, i) } -> std::same_as<Coverage>;
};

template <class V>
concept HasDropout =
    !V::kDropout || requires(const typename V::Request& r, const typename V::Row& row,
                             const typename V::Column& column) {
      { V::dropout(r, row, column) } -> std::same_as<F>;
    };

template <class V>
constexpr bool check_gradient_variant() {
  static_assert(HasDotGradient<V>, "a Variant has dot_gradient(..., dot, argument, factor) -> F");
  static_assert(HasQueryRanges<V>, "a Variant with kMask has query_ranges -> Coverage");
  static_assert(HasDropout<V>, "a Variant with kDropout has dropout -> F");
  return true;
}

}  // namespace attnlang::cpu
