// How a functor says what it differentiates: the vocabulary of the backward kernels of every
// target.
#pragma once

#include <utility>

#include "attnlang/host/coverage.h"
#include "attnlang/host/target.h"

namespace attnlang {

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
  static constexpr bool kOfElements = (of_elements(Partial::kSource) || ...);

  // visit.template operator()<Partial, kIndex>() for each.
  template <class Visit>
  ATTNLANG_DEVICE static void each(const Visit& visit) {
    each(visit, std::make_integer_sequence<int, kCount>());
  }

 private:
  template <class Visit, int... kIndex>
  ATTNLANG_DEVICE static void each([[maybe_unused]] const Visit& visit,
                                   std::integer_sequence<int, kIndex...>) {
    (visit.template operator()<Partial, kIndex>(), ...);
  }
};

// The rows that see a block of columns, as far as the closed form tells.
template <class V>
ATTNLANG_DEVICE Coverage query_coverage(const typename V::Request& request, int64_t k0,
                                        int64_t k1) {
  if constexpr (V::kMask) return V::query_ranges(request, k0, k1);
  else return Coverage::all();
}

}  // namespace attnlang
