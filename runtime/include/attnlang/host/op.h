// One torch op of a variant on the stable ABI: a generated unit holds a `Spec` and a `Binding` of
// it.
//
//   attnlang::<name>        the forward: (out, lse, max)
//   attnlang::<name>_tiles  the same arguments: how many tiles the call visits, int64[5]
//   attnlang::<name>_api    the address of the `Api` by which kernels are added
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <string>

#include "attnlang/host/call.h"
#include "attnlang/host/op_built_in.h"
#include "attnlang/host/op_extents.h"
#include "attnlang/host/op_kernels.h"
#include "attnlang/host/op_values.h"

namespace attnlang::op {

// What an argument of the schema is for.
enum class Role : int32_t {
  q,
  k,
  v,
  real,
  integer,
  boolean,  // a 0-d parameter as a number
  real_tensor,
  integer_tensor,  // the same as a 0-d tensor, optional
  tensor,
  optional_tensor,  // a tensor parameter
  scale,
  scale_tensor,
  q_offset,
  q_offset_tensor,
  kv_offset,
  kv_offset_tensor,
  kv_lens,
  seed,
  seed_tensor,
  kv_indices,
  kv_block,
  return_lse,
  return_max,
};

constexpr bool is_tensor(Role role) {
  switch (role) {
    case Role::q:
    case Role::k:
    case Role::v:
    case Role::real_tensor:
    case Role::integer_tensor:
    case Role::tensor:
    case Role::optional_tensor:
    case Role::scale_tensor:
    case Role::q_offset_tensor:
    case Role::kv_offset_tensor:
    case Role::kv_lens:
    case Role::seed_tensor:
    case Role::kv_indices:
      return true;
    default:
      return false;
  }
}

constexpr bool is_optional(Role role) {
  switch (role) {
    case Role::q:
    case Role::k:
    case Role::v:
    case Role::real:
    case Role::integer:
    case Role::boolean:
    case Role::tensor:
    case Role::kv_offset:
    case Role::kv_block:
    case Role::return_lse:
    case Role::return_max:
      return false;
    default:
      return true;
  }
}

struct Argument {
  const char* name;
  Role role;
  int32_t index;  // of the scalar or tensor parameter
};

enum class TensorKind : int32_t { real, integer, boolean };

struct TensorParam {
  TensorKind kind;
  int32_t rank;
};

// Everything about an op that its generated unit knows; arrays have a spare element where empty.
struct Spec {
  const char* name;
  const char* schema;
  const char* tiles_schema;
  const char* api_schema;
  const Argument* arguments;
  int32_t argument_count;
  int32_t scalar_count;
  const TensorParam* tensors;
  const char* const* tensor_names;
  int32_t tensor_count;
  int32_t size_count;
  bool has_dropout;                // a call needs a seed
  void (*bind)(Extents& extents);  // solves the bound sizes and compares the declared shapes
};

template <const Spec& kSpec>
class Binding {
 public:
  // Defines and implements the ops. Where another object did so before (a just-in-time and an
  // ahead-of-time copy in one process), that one stays in charge.
  Binding() {
    TorchLibraryHandle definitions = nullptr, cpu = nullptr, all = nullptr;
    check(aoti_torch_library_init_fragment("attnlang", kFile, 0, &definitions), "open a library");
    if (aoti_torch_library_def(definitions, kSpec.schema) != 0) return;
    check(aoti_torch_library_def(definitions, kSpec.tiles_schema), "define an op");
    check(aoti_torch_library_def(definitions, kSpec.api_schema), "define an op");
    check(aoti_torch_library_init_impl("attnlang", "CPU", kFile, 0, &cpu), "open a library");
    check(aoti_torch_library_init_impl("attnlang", "CompositeExplicitAutograd", kFile, 0, &all),
          "open a library");
    const std::string name = kSpec.name;
    implement(cpu, name, forward);
    implement(cpu, name + "_tiles", count_tiles);
    implement(all, name + "_api", lend_api);
    // The library handles live as long as the registration: until the process ends.
  }

 private:
  // The arguments of one call, taken off the stack.
  struct Arguments {
    std::array<StableIValue, kSpec.argument_count> values;
    std::array<bool, kSpec.argument_count> present;
    std::array<OwnedTensor, kSpec.argument_count> tensors;

    // Takes everything before anything can throw: what stays on the stack would leak.
    explicit Arguments(const StableIValue* stack) {
      for (int32_t i = 0; i < kSpec.argument_count; ++i) {
        const Role role = kSpec.arguments[i].role;
        values[i] = stack[i];
        present[i] = !is_optional(role) || take_optional(stack[i], values[i]);
        if (present[i] && is_tensor(role)) tensors[i].take(as_handle(values[i]));
      }
    }
  };

  // A call and the arrays that it points to.
  struct Bound {
    Call call{};
    bool return_lse = false, return_max = false, has_seed = false;
    std::array<Number, kSpec.scalar_count + 1> scalars{};
    std::array<Tensor, kSpec.tensor_count + 1> tensors{};
    std::array<int64_t, kSpec.size_count + 1> sizes{};
    std::array<int32_t, kSpec.tensor_count + 1> dtypes{};
    KernelKey key{};
    int64_t out_dim = 0;

    explicit Bound(const Arguments& arguments) {
      call.version = kCallVersion;
      call.default_q_offset = 1;
      call.scalars = scalars.data();
      call.tensors = tensors.data();
      call.sizes = sizes.data();
      for (int32_t i = 0; i < kSpec.argument_count; ++i) {
        if (arguments.present[i]) take(kSpec.arguments[i], arguments.values[i]);
      }
      if (call.v.data == nullptr) call.v = call.k;  // v is made from k
      Extents extents(call, kSpec.tensor_names, tensors.data(), sizes.data());
      kSpec.bind(extents);
      finish(extents);
    }

    void take(const Argument& argument, StableIValue value) {
      const char* name = argument.name;
      switch (argument.role) {
        case Role::q:
          call.q = view(as_handle(value), name);
          break;
        case Role::k:
          call.k = view(as_handle(value), name);
          break;
        case Role::v:
          call.v = view(as_handle(value), name);
          break;
        case Role::real:
          scalars[argument.index].real = as_real(value);
          break;
        case Role::integer:
          scalars[argument.index].integer = as_integer(value);
          break;
        case Role::boolean:
          scalars[argument.index].integer = as_boolean(value);
          break;
        case Role::real_tensor:
          scalars[argument.index].real = read_real(as_handle(value), name);
          break;
        case Role::integer_tensor:
          scalars[argument.index].integer = read_integer(as_handle(value), name);
          break;
        case Role::tensor:
        case Role::optional_tensor:
          take_tensor(argument.index, view(as_handle(value), name));
          break;
        case Role::scale:
          call.scale = as_real(value), has_scale_ = true;
          break;
        case Role::scale_tensor:
          call.scale = read_real(as_handle(value), name), has_scale_ = true;
          break;
        case Role::q_offset:
          call.q_offset = one(as_integer(value), name), call.default_q_offset = 0;
          break;
        case Role::q_offset_tensor:
          call.q_offset = each(as_handle(value), name), call.default_q_offset = 0;
          break;
        case Role::kv_offset:
          call.kv_offset = one(as_integer(value), name);
          break;
        case Role::kv_offset_tensor:
          call.kv_offset = each(as_handle(value), name);
          break;
        case Role::kv_lens:
          call.kv_lens = each(as_handle(value), name);
          break;
        case Role::seed:
          call.seed = static_cast<uint64_t>(as_integer(value)), has_seed = true;
          break;
        case Role::seed_tensor:
          call.seed = static_cast<uint64_t>(read_integer(as_handle(value), name)), has_seed = true;
          break;
        case Role::kv_indices:
          call.kv_indices = view(as_handle(value), name);
          break;
        case Role::kv_block:
          call.kv_block = as_integer(value);
          break;
        case Role::return_lse:
          return_lse = as_boolean(value);
          break;
        case Role::return_max:
          return_max = as_boolean(value);
          break;
      }
    }

    void take_tensor(int32_t index, const Tensor& tensor) {
      const TensorParam& wanted = kSpec.tensors[index];
      const char* name = kSpec.tensor_names[index];
      const TensorKind kind = is_real(tensor.dtype)            ? TensorKind::real
                              : tensor.dtype == DType::boolean ? TensorKind::boolean
                                                               : TensorKind::integer;
      if (kind != wanted.kind)
        refuse_argument(name, "a dtype of another kind than the spec declares");
      if (tensor.rank != wanted.rank) {
        refuse_argument(name, "expected " + std::to_string(wanted.rank) + " dimensions");
      }
      tensors[index] = tensor;
    }

    static PerRequest one(int64_t value, const char* name) {
      if (value <= -kPositionLimit || value >= kPositionLimit) {
        refuse_argument(name, "expected an offset below 2 ** 30 in magnitude");
      }
      return {.data = nullptr, .dtype = DType::i64, .stride = 0, .value = value};
    }

    // An integer a request; B is compared in `finish`, the values too.
    PerRequest each(AtenTensorHandle handle, const char* name) {
      const Tensor tensor = view(handle, name);
      if (tensor.dtype != DType::i32 && tensor.dtype != DType::i64) {
        refuse_argument(name, "expected int32 or int64");
      }
      if (tensor.rank > 1 || (tensor.rank == 1 && tensor.size[0] != call.q.size[0])) {
        refuse_argument(name, "expected one integer, or one a request");
      }
      const int64_t stride = tensor.rank == 1 ? tensor.stride[0] : 0;
      return {.data = tensor.data, .dtype = tensor.dtype, .stride = stride, .value = 0};
    }

    void finish(const Extents& extents) {
      if (!has_scale_) call.scale = 1.0 / std::sqrt(static_cast<double>(extents.D));
      if (call.kv_lens.data == nullptr) call.kv_lens.value = extents.KV;
      if (extents.DV < 1 || extents.out < 1) refuse_argument("q", "too narrow for the spec");
      out_dim = extents.out;
      expect_positions(call.q_offset, "q_offset", extents.B);
      expect_positions(call.kv_offset, "kv_offset", extents.B);
      for (int32_t i = 0; i < kSpec.tensor_count; ++i) {
        dtypes[i] = tensors[i].data == nullptr ? kAbsent : static_cast<int32_t>(tensors[i].dtype);
      }
      key = {.dtype = static_cast<int32_t>(call.q.dtype),
             .head_dim = static_cast<int32_t>(extents.D),
             .value_dim = static_cast<int32_t>(extents.DV),
             .count = kSpec.tensor_count,
             .param_dtypes = dtypes.data()};
    }

    static void expect_positions(const PerRequest& offsets, const char* name, int64_t requests) {
      if (offsets.data == nullptr) return;
      for (int64_t b = 0; b < requests; ++b) one(offsets[b], name);
    }

   private:
    bool has_scale_ = false;
  };

  static void forward(StableIValue* stack, uint64_t inputs, uint64_t) {
    expect_count(inputs);
    const Arguments arguments(stack);
    Bound bound(arguments);
    Call& call = bound.call;
    if (kSpec.has_dropout && !bound.has_seed) {
      refuse_argument("seed",
                      "expected one: the op of a variant with dropout draws none by itself");
    }
    const Kernel& kernel = kernels().get(bound.key, kSpec.name);
    OwnedTensor out, lse, max;
    allocate_out(call, bound.out_dim, out);
    allocate_rows(call, 3, bound.return_lse, call.lse, lse);
    allocate_rows(call, 2, bound.return_max, call.max, max);
    char error[kErrorSize] = "";
    if (kernel.run(&call, error) != 0)
      throw std::runtime_error(std::string(kSpec.name) + ": " + error);
    stack[0] = from_handle(out.release());
    stack[1] = from_handle(lse.release());
    stack[2] = from_handle(max.release());
  }

  static void count_tiles(StableIValue* stack, uint64_t inputs, uint64_t) {
    expect_count(inputs);
    const Arguments arguments(stack);
    const Bound bound(arguments);
    if (bound.call.kv_indices.data != nullptr) {
      refuse_argument("kv_indices", "a call that selects columns has no tiles to count");
    }
    const Kernel& kernel = kernels().get(bound.key, kSpec.name);
    OwnedTensor result;
    const int64_t size = 5, stride = 1;
    auto* counts = static_cast<int64_t*>(allocate(1, &size, &stride, DType::i64, result));
    TileCounts tiles{};
    char error[kErrorSize] = "";
    if (kernel.count_tiles(&bound.call, &tiles, error) != 0) {
      throw std::runtime_error(std::string(kSpec.name) + ": " + error);
    }
    counts[0] = tiles.full, counts[1] = tiles.partial, counts[2] = tiles.empty;
    counts[3] = tiles.query_tile, counts[4] = tiles.key_tile;
    stack[0] = from_handle(result.release());
  }

  static void lend_api(StableIValue* stack, uint64_t, uint64_t) {
    static constexpr Api api{
        .version = kApiVersion,
        .call_version = kCallVersion,
        .add = [](const KernelKey* key, KernelFunction run,
                  CountFunction count) { kernels().add(*key, run, count); },
        .set_builder = [](BuilderFunction builder) { kernels().set_builder(builder); },
        .set_obstacle = [](const char* text) { kernels().set_obstacle(text); },
    };
    stack[0] = static_cast<StableIValue>(reinterpret_cast<uintptr_t>(&api));
  }

  // [B, HQ, Q, d], dense. Its memory is ordered as q's: [B, Q, HQ, DV] where q's heads lie inside
  // its rows. The fake implementation says the same.
  static void allocate_out(Call& call, int64_t d, OwnedTensor& owner) {
    Tensor& out = call.out;
    const int64_t b = call.q.size[0], h = call.q.size[1], q = call.q.size[2];
    const bool rows_first = call.q.stride[1] < call.q.stride[2];
    out = {.data = nullptr,
           .dtype = call.q.dtype,
           .rank = 4,
           .size = {b, h, q, d},
           .stride = {at_least_one(h) * at_least_one(q) * d, rows_first ? d : at_least_one(q) * d,
                      rows_first ? at_least_one(h) * d : d, 1}};
    out.data = allocate(4, out.size, out.stride, out.dtype, owner);
  }

  // The first `rank` of [B, HQ, Q], float32, or empty.
  static void allocate_rows(const Call& call, int32_t rank, bool wanted, Tensor& result,
                            OwnedTensor& owner) {
    if (!wanted) {
      const int64_t size = 0, stride = 1;
      allocate(1, &size, &stride, DType::f32, owner);
      return;
    }
    result = {.data = nullptr, .dtype = DType::f32, .rank = rank, .size = {}, .stride = {}};
    int64_t stride = 1;
    for (int32_t i = rank - 1; i >= 0; --i) {
      result.size[i] = call.q.size[i];
      result.stride[i] = stride;
      stride *= at_least_one(result.size[i]);
    }
    result.data = allocate(rank, result.size, result.stride, DType::f32, owner);
  }

  static int64_t at_least_one(int64_t n) { return n > 1 ? n : 1; }  // torch's rule for strides

  // What torch is told of where registrations stand: `__FILE__` would hold a path of the builder's.
  static constexpr const char* kFile = "attnlang/host/op.h";

  static void* allocate(int64_t rank, const int64_t* sizes, const int64_t* strides, DType dtype,
                        OwnedTensor& owner) {
    AtenTensorHandle handle = nullptr;
    check(aoti_torch_empty_strided(rank, sizes, strides, dtype_codes().code(dtype),
                                   aoti_torch_device_type_cpu(), 0, &handle),
          "allocate a result");
    owner.take(handle);
    void* data = nullptr;
    check(aoti_torch_get_data_ptr(handle, &data), "lend a result's memory");
    return data != nullptr ? data : const_cast<char*>(kNothing);
  }

  static void expect_count(uint64_t inputs) {
    if (inputs != static_cast<uint64_t>(kSpec.argument_count)) {
      throw std::runtime_error(std::string(kSpec.name) +
                               ": torch passed another number of arguments");
    }
  }

  static void implement(TorchLibraryHandle library, const std::string& name,
                        void (*function)(StableIValue*, uint64_t, uint64_t)) {
    check(torch_library_impl(library, name.c_str(), function, TORCH_ABI_VERSION),
          "implement an op");
  }

  static KernelTable& kernels() {
    static auto* table = new KernelTable;  // never destroyed: threads may outlive `main`
    return *table;
  }
};

}  // namespace attnlang::op
