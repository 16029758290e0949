// The arguments of one call, taken off torch's stack.
#pragma once

#include <cstdint>
#include <vector>

#include "attnlang/host/op_spec.h"
#include "attnlang/host/op_values.h"

namespace attnlang::op {

struct PassedArgument {
  StableIValue value;
  bool present;
  OwnedTensor tensor;
};

struct Arguments {
  const Argument* table;
  std::vector<PassedArgument> passed;

  // Takes everything before anything can throw: what stays on the stack would leak.
  Arguments(const StableIValue* stack, const Argument* arguments, int32_t count)
      : table(arguments), passed(count) {
    for (int32_t i = 0; i < count; ++i) {
      const Role role = table[i].role;
      PassedArgument& to = passed[i];
      to.value = stack[i];
      to.present = !is_optional(role) || take_optional(stack[i], to.value);
      if (to.present && is_tensor(role)) to.tensor.take(as_handle(to.value));
    }
  }
};

}  // namespace attnlang::op
