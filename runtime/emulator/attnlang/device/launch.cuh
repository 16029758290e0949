// The emulator's twin of attnlang/device/launch.cuh: kernels run on the CPU, before launch returns.
#pragma once

#include <cstring>
#include <tuple>
#include <type_traits>

#include "attnlang/device/ptx.cuh"
#include "attnlang/emulator/grid.h"

namespace attnlang::cuda {

template <class... Parameters>
const char* set_shared_limit(void (*)(Parameters...), size_t) {
  return nullptr;
}

template <class... Parameters, class... Arguments>
const char* launch(void (*kernel)(Parameters...), dim3 grid, int block, size_t shared_bytes, void*,
                   const Arguments&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments));
  struct Bound {
    void (*kernel)(Parameters...);
    std::tuple<std::remove_cv_t<Parameters>...> parameters;
  };
  Bound bound{kernel, {static_cast<Parameters>(arguments)...}};
  const auto body = [](void* context) {
    auto* b = static_cast<Bound*>(context);
    std::apply(b->kernel, b->parameters);
  };
  return emulator::run_grid(grid, block, shared_bytes, body, &bound);
}

// Few, so that persistent CTAs have several tiles each in small tests.
inline int multiprocessors() { return 4; }

inline const char* fill_bytes(void* data, int value, size_t bytes, void*) {
  std::memset(data, value, bytes);
  return nullptr;
}

}  // namespace attnlang::cuda
