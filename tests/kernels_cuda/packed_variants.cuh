// Functors of variants.cuh for packed calls: no tensor has rows of its own for each request.
#pragma once

#include "variants.cuh"

namespace attnlang::cuda {

template <class Variant>
struct OfRequests : Variant {
  static constexpr bool kLoadsKeys = false, kKeyTensors = false;
  static constexpr int kTensors = 0;
  using Arguments = typename Variant::Arguments;
  using Variant::arguments;
  static Arguments arguments(const Call& call, LineMemory&) { return Variant::arguments(call); }
  template <class Each>
  static void for_lines(const Arguments&, const Each&) {}
  static void limit_rows(RequestRows&, const Arguments&) {}
  static void request_rows(Arguments&, const RequestRows&) {}
};

// With a tensor over KV, which is brought and not read.
template <class Variant>
struct KeyTensor : OfRequests<Variant> {
  static constexpr bool kKeyTensors = true;
  static constexpr int kTensors = 1;
};

}  // namespace attnlang::cuda
