// A reference to a callable that outlives the call: one instantiation of what takes it, not one a
// lambda. For loops whose body costs far more than an indirect call.
#pragma once

#include <type_traits>

namespace attnlang {

template <class Signature>
class FunctionRef;

template <class Result, class... Args>
class FunctionRef<Result(Args...)> {
 public:
  template <class Callable>
    requires(!std::is_same_v<std::remove_cvref_t<Callable>, FunctionRef>)
  FunctionRef(const Callable& callable)  // NOLINT: implicit, as std::function
      : object_(&callable), call_([](const void* object, Args... args) -> Result {
          return (*static_cast<const Callable*>(object))(args...);
        }) {}

  Result operator()(Args... args) const { return call_(object_, args...); }

 private:
  const void* object_;
  Result (*call_)(const void*, Args...);
};

}  // namespace attnlang
