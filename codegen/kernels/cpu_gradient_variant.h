// What the backward kernel asks of a functor beside the contract of the forward kernels.
#pragma once

#include <concepts>
#include <type_traits>
#include <utility>

#include "kernels/cpu_variant.h"

namespace attnlang::cpu {

// What a partial derivative is of: softmax's argument (without one, the weight), what multiplies
// the weights, the sink, what the scores lack of the argument.
enum class Source { argument, factor, sink, shift };
constexpr bool of_elements(Source source) {
  return source == Source::argument || source == Source::factor;
}

// What the index of the read depends on: the finest loop that it needs.
enum class Reach { request, row, column, element };

// The partial derivatives of a functor: each a type with kSource, kReach, wanted, slope and add.
template <class... Partial>
struct PartialList {
  static constexpr int kCount = sizeof...(Partial);

  // visit.template operator()<Partial, kIndex>() for each.
  template <class Visit>
  static void each(const Visit& visit) {
    each(visit, std::make_integer_sequence<int, kCount>());
  }

 private:
  template <class Visit, int... kIndex>
  static void each(const Visit& visit, std::integer_sequence<int, kIndex...>) {
    (visit.template operator()<Partial, kIndex>(), ...);
  }
};

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

// The rows that see a block of columns, as far as the closed form tells.
template <class V>
Coverage query_coverage(const typename V::Request& request, int64_t k0, int64_t k1) {
  if constexpr (V::kMask) return V::query_ranges(request, k0, k1);
  else return Coverage::all();
}

}  // namespace attnlang::cpu
