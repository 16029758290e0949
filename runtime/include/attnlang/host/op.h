// One torch op of a variant on the stable ABI: a generated unit holds a `Spec` and a `Binding` of
// it.
//
//   attnlang::<name>        the forward: (out, lse, max)
//   attnlang::<name>_tiles  the same arguments: how many tiles the call visits, int64[5]
//   attnlang::<name>_packed the forward of a packed call (`op_packed.h`)
//   attnlang::<name>_schedule   its arguments, workers, split_tokens: int32 (`op_schedule.h`)
//   attnlang::<name>_api    the address of the `Api` by which kernels are added
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "attnlang/host/call.h"
#include "attnlang/host/gradients.h"
#include "attnlang/host/op_built_in.h"
#include "attnlang/host/op_extents.h"
#include "attnlang/host/op_kernels.h"
#include "attnlang/host/op_packed.h"
#include "attnlang/host/op_results.h"
#include "attnlang/host/op_schedule.h"
#include "attnlang/host/op_spec.h"
#include "attnlang/host/op_values.h"

namespace attnlang::op {

template <const Spec& kSpec, BackwardFunction kRun, BackwardWorkspaceFunction kWorkspace>
class BackwardBinding;

constexpr int32_t kScheduleArguments = 2;
constexpr int64_t kMostWorkers = 65536;

template <const Spec& kSpec>
class Binding {
  template <const Spec& kOther, BackwardFunction kRun, BackwardWorkspaceFunction kWorkspace>
  friend class BackwardBinding;

 public:
  // Defines and implements the ops. Where another object did so before (a just-in-time and an
  // ahead-of-time copy in one process), that one stays in charge.
  Binding() {
    TorchLibraryHandle definitions = nullptr, cpu = nullptr, cuda = nullptr, all = nullptr;
    check(aoti_torch_library_init_fragment("attnlang", kFile, 0, &definitions), "open a library");
    if (aoti_torch_library_def(definitions, kSpec.schema) != 0) return;
    check(aoti_torch_library_def(definitions, kSpec.tiles_schema), "define an op");
    check(aoti_torch_library_def(definitions, kSpec.packed_schema), "define an op");
    check(aoti_torch_library_def(definitions, kSpec.schedule_schema), "define an op");
    check(aoti_torch_library_def(definitions, kSpec.api_schema), "define an op");
    check(aoti_torch_library_init_impl("attnlang", "CPU", kFile, 0, &cpu), "open a library");
    check(aoti_torch_library_init_impl("attnlang", "CUDA", kFile, 0, &cuda), "open a library");
    check(aoti_torch_library_init_impl("attnlang", "CompositeExplicitAutograd", kFile, 0, &all),
          "open a library");
    const std::string name = kSpec.name;
    for (const TorchLibraryHandle library : {cpu, cuda}) {
      implement(library, name, forward);
      implement(library, name + "_tiles", count_tiles);
      implement(library, name + "_packed", packed);
      implement(library, name + "_schedule", schedule);
    }
    implement(all, name + "_api", lend_api);
    // The library handles live as long as the registration: until the process ends.
  }

 private:
  // The arguments of one call, taken off the stack.
  struct Arguments {
    static constexpr int32_t kMost =
        std::max(kSpec.argument_count, kSpec.packed_argument_count + kScheduleArguments);
    const Argument* table;
    int32_t count;
    std::array<StableIValue, kMost> values;
    std::array<bool, kMost> present;
    std::array<OwnedTensor, kMost> tensors;

    explicit Arguments(const StableIValue* stack)
        : Arguments(stack, kSpec.arguments, kSpec.argument_count) {}

    // Takes everything before anything can throw: what stays on the stack would leak.
    Arguments(const StableIValue* stack, const Argument* arguments, int32_t argument_count)
        : table(arguments), count(argument_count) {
      for (int32_t i = 0; i < count; ++i) {
        const Role role = table[i].role;
        values[i] = stack[i];
        present[i] = !is_optional(role) || take_optional(stack[i], values[i]);
        if (present[i] && is_tensor(role)) tensors[i].take(as_handle(values[i]));
      }
    }
  };

  // A call and the arrays that it points to.
  struct Bound {
    Call call{};
    Device device{};     // q's
    int32_t target = 0;  // what a kernel for the call is built for
    bool return_lse = false, return_max = false, wide_out = false, has_seed = false;
    std::array<Number, kSpec.scalar_count + 1> scalars{};
    std::array<DeviceScalar, kSpec.scalar_count + 1> device_scalars{};
    std::array<Tensor, kSpec.tensor_count + 1> tensors{};
    std::array<PackedAxis, kSpec.tensor_count + 1> axes{};
    Packed packed{};
    std::vector<int64_t> kv_starts;  // of the requests of a paged call
    Tensor schedule{};
    int64_t workers = 0, split_tokens = 0;
    std::array<int64_t, kSpec.size_count + 1> sizes{};
    std::array<int32_t, kSpec.tensor_count + 1> dtypes{};
    KernelKey key{};
    int64_t out_dim = 0;

    explicit Bound(const Arguments& arguments) {
      call.version = kCallVersion;
      call.default_q_offset = 1;
      call.scalars = scalars.data();
      call.device_scalars = device_scalars.data();
      call.tensors = tensors.data();
      call.sizes = sizes.data();
      if (arguments.table == kSpec.packed_arguments) {
        packed.tensors = axes.data(), packed.tensor_count = kSpec.tensor_count;
        call.packed = &packed;
      }
      for (const bool first : {true, false}) {
        for (int32_t i = 0; i < arguments.count; ++i) {
          const Argument& argument = arguments.table[i];
          if (arguments.present[i] && comes_first(argument.role) == first) {
            take(argument, arguments.values[i]);
          }
        }
      }
      if (call.v.data == nullptr) call.v = call.k;  // v is made from k
      if (call.packed != nullptr) {
        pack();
        if (schedule.data != nullptr) follow_schedule(schedule, "schedule", call, packed);
      }
      Extents extents(call, kSpec, tensors.data(), sizes.data());
      kSpec.bind(extents);
      finish(extents);
    }

    void take(const Argument& argument, StableIValue value) {
      const char* name = argument.name;
      switch (argument.role) {
        case Role::q:
          device = device_of(as_handle(value), name);
          target = kernels().target_of(device);
          call.q = rows_of(view(as_handle(value), name), name);
          break;
        case Role::k:
          call.k = keys_of(view_beside_q(value, name), name);
          break;
        case Role::v:
          call.v = keys_of(view_beside_q(value, name), name);
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
          if (!defer(value, name, device_scalars[argument.index])) {
            scalars[argument.index].real = read_real(as_handle(value), name);
          }
          break;
        case Role::integer_tensor:
          if (!defer(value, name, device_scalars[argument.index])) {
            scalars[argument.index].integer = read_integer(as_handle(value), name);
          }
          break;
        case Role::tensor:
        case Role::optional_tensor:
          take_tensor(argument.index, view_beside_q(value, name));
          break;
        case Role::scale:
          call.scale = as_real(value), has_scale_ = true;
          break;
        case Role::scale_tensor:
          has_scale_ = true;
          if (!defer(value, name, call.device_scale)) {
            call.scale = read_real(as_handle(value), name);
          }
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
          has_seed = true;
          if (!defer(value, name, call.device_seed)) {
            call.seed = static_cast<uint64_t>(read_integer(as_handle(value), name));
          }
          break;
        case Role::kv_indices:
          call.kv_indices = view_beside_q(value, name);
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
        case Role::wide_out:
          wide_out = as_boolean(value);
          break;
        case Role::q_indptr:
          packed.q_indptr = offsets_of(view_beside_q(value, name), name, packed.requests);
          break;
        case Role::kv_indptr:
          packed.kv_indptr = offsets_of(view_beside_q(value, name), name, kv_requests_);
          break;
        case Role::page_indptr:
          packed.page_indptr = offsets_of(view_beside_q(value, name), name, kv_requests_);
          break;
        case Role::page_indices:
          packed.page_indices = page_numbers_of(view_beside_q(value, name), name, page_count_);
          break;
        case Role::k_scale:
          packed.k_scale = scales_of(view_beside_q(value, name), name, call.k.size[1]);
          break;
        case Role::v_scale:
          packed.v_scale = scales_of(view_beside_q(value, name), name, call.k.size[1]);
          break;
        case Role::part:
          packed.part = as_integer(value);
          break;
        case Role::schedule:
          schedule = view_beside_q(value, name);
          break;
        case Role::workers:
          workers = as_integer(value);
          if (workers < 1 || workers > kMostWorkers) refuse_argument(name, "expected 1 to 65536");
          break;
        case Role::split_tokens:
          split_tokens = as_integer(value);
          if (split_tokens < 0) refuse_argument(name, "expected 0 or more");
          break;
      }
    }

    Tensor rows_of(const Tensor& tensor, const char* name) const {
      return call.packed == nullptr ? tensor : packed_rows(tensor, name);
    }

    Tensor keys_of(const Tensor& tensor, const char* name) const {
      return packed.is_paged() ? paged_rows(tensor, name) : rows_of(tensor, name);
    }

    // Compares the offsets and the tensors' rows with the packed rows.
    void pack() {
      if (target != 0) refuse_argument("q_indptr", "packed calls run on the CPU alone");
      const bool paged = packed.is_paged();
      if (paged != (packed.page_indptr.data != nullptr) ||
          paged == (packed.kv_indptr.data != nullptr)) {
        refuse_argument("kv_indptr", "expected it, or page_indptr and page_indices");
      }
      if (kv_requests_ != packed.requests) {
        refuse_argument(paged ? "page_indptr" : "kv_indptr",
                        "expected as many offsets as q_indptr has");
      }
      if (!paged && (packed.k_scale.data != nullptr || packed.v_scale.data != nullptr)) {
        refuse_argument("k_scale", "expected pages beside it");
      }
      const int64_t rows = call.q.size[2];
      const int64_t most_rows = expect_offsets(packed.q_indptr, packed.requests, rows, "q_indptr");
      int64_t columns = call.k.size[2], most_columns;
      if (paged) {
        packed.page_size = columns;
        most_columns = expect_pages(packed, call, page_count_, kv_starts);
        columns = kv_starts.back();
      } else {
        most_columns = expect_offsets(packed.kv_indptr, packed.requests, columns, "kv_indptr");
      }
      for (int32_t i = 0; i < kSpec.tensor_count; ++i) {
        const TensorParam& param = kSpec.tensors[i];
        if (tensors[i].data == nullptr) continue;
        const bool queries = param.rows == PackedAxis::queries;
        if (axes[i].rows == PackedAxis::pages) continue;
        axes[i] = expect_rows(tensors[i], param, kSpec.tensor_names[i], queries ? rows : columns,
                              queries ? most_rows : most_columns);
      }
    }

    // A tensor on q's device.
    Tensor view_beside_q(StableIValue value, const char* name) const {
      if (!(device_of(as_handle(value), name) == device)) {
        refuse_argument(name, "expected a tensor on q's device");
      }
      return view(as_handle(value), name);
    }

    // Leaves a 0-d tensor to the kernel where that is a GPU's and can read it.
    bool defer(StableIValue value, const char* name, DeviceScalar& scalar) const {
      if (target == 0 || !(device_of(as_handle(value), name) == device)) return false;
      const Tensor tensor = view(as_handle(value), name);
      if (tensor.rank != 0) refuse_argument(name, "expected a tensor of one number");
      scalar = {.data = tensor.data, .dtype = tensor.dtype};
      return true;
    }

    void take_tensor(int32_t index, const Tensor& tensor) {
      const TensorParam& wanted = kSpec.tensors[index];
      const char* name = kSpec.tensor_names[index];
      const bool folded = call.packed != nullptr && wanted.batch_axis >= 0 && wanted.row_axis >= 0;
      if (is_page_dtype(tensor.dtype)) refuse_argument(name, "a dtype of pages");
      const TensorKind kind = is_real(tensor.dtype)            ? TensorKind::real
                              : tensor.dtype == DType::boolean ? TensorKind::boolean
                                                               : TensorKind::integer;
      if (kind != wanted.kind)
        refuse_argument(name, "a dtype of another kind than the spec declares");
      if (folded && packed.is_paged() && wanted.rows == PackedAxis::keys &&
          tensor.rank == wanted.rank) {
        tensors[index] = paged_tensor(tensor, wanted, name, call, axes[index]);
        return;
      }
      if (tensor.rank != wanted.rank - folded) {
        refuse_argument(name, "expected " + std::to_string(wanted.rank - folded) + " dimensions");
      }
      tensors[index] = folded ? unfolded(tensor, wanted, packed.requests) : tensor;
    }

    static PerRequest one(int64_t value, const char* name) {
      if (value <= -kPositionLimit || value >= kPositionLimit) {
        refuse_argument(name, "expected an offset below 2 ** 30 in magnitude");
      }
      return {.data = nullptr, .dtype = DType::i64, .stride = 0, .value = value};
    }

    // An integer a request; B is compared in `finish`, the values too.
    PerRequest each(AtenTensorHandle handle, const char* name) {
      const Tensor tensor = view_beside_q(from_handle(handle), name);
      if (tensor.dtype != DType::i32 && tensor.dtype != DType::i64) {
        refuse_argument(name, "expected int32 or int64");
      }
      if (tensor.rank > 1 || (tensor.rank == 1 && tensor.size[0] != requests_of(call))) {
        refuse_argument(name, "expected one integer, or one a request");
      }
      const int64_t stride = tensor.rank == 1 ? tensor.stride[0] : 0;
      return {.data = tensor.data, .dtype = tensor.dtype, .stride = stride, .value = 0};
    }

    void finish(const Extents& extents) {
      if (!has_scale_) call.scale = 1.0 / std::sqrt(static_cast<double>(extents.D));
      if (call.kv_lens.data == nullptr) call.kv_lens.value = extents.KV;  // of all, where packed
      if (extents.DV < 1 || extents.out < 1) refuse_argument("q", "too narrow for the spec");
      out_dim = extents.out;
      if (target == 0) {
        expect_positions(call.q_offset, "q_offset", extents.B);
        expect_positions(call.kv_offset, "kv_offset", extents.B);
      }
      for (int32_t i = 0; i < kSpec.tensor_count; ++i) {
        dtypes[i] = tensors[i].data == nullptr ? kAbsent : static_cast<int32_t>(tensors[i].dtype);
      }
      key = {.dtype = static_cast<int32_t>(call.q.dtype),
             .head_dim = static_cast<int32_t>(extents.D),
             .value_dim = static_cast<int32_t>(extents.DV),
             .target = target,
             .count = kSpec.tensor_count,
             .param_dtypes = dtypes.data()};
    }

    static void expect_positions(const PerRequest& offsets, const char* name, int64_t requests) {
      if (offsets.data == nullptr) return;
      for (int64_t b = 0; b < requests; ++b) one(offsets[b], name);
    }

   private:
    bool has_scale_ = false;
    int64_t kv_requests_ = 0, page_count_ = 0;
  };

  static void forward(StableIValue* stack, uint64_t inputs, uint64_t) {
    expect_count(inputs, kSpec.argument_count);
    const Arguments arguments(stack);
    attend(arguments, stack);
  }

  static void packed(StableIValue* stack, uint64_t inputs, uint64_t) {
    expect_count(inputs, kSpec.packed_argument_count);
    const Arguments arguments(stack, kSpec.packed_arguments, kSpec.packed_argument_count);
    attend(arguments, stack);
  }

  // The inspector: what the kernel says of the work items' costs, dealt out.
  static void schedule(StableIValue* stack, uint64_t inputs, uint64_t) {
    constexpr int32_t kCount = kSpec.packed_argument_count + kScheduleArguments;
    expect_count(inputs, kCount);
    const Arguments arguments(stack, kSpec.packed_arguments, kCount);
    Bound bound(arguments);
    const Kernel& kernel = kernels().get(bound.key, bound.device, kSpec.name);
    Costs costs{};
    bound.packed.costs = &costs;
    std::vector<int32_t> values;
    do {
      values.resize(costs.items);
      costs.data = values.data(), costs.capacity = static_cast<int64_t>(values.size());
      char error[kErrorSize] = "";
      if (kernel.run(&bound.call, error) != 0)
        throw std::runtime_error(std::string(kSpec.name) + ": " + error);
    } while (costs.items > costs.capacity);
    const std::vector<int32_t> made =
        make_schedule(bound.call, values, bound.workers, bound.split_tokens);
    OwnedTensor result;
    const int64_t size = static_cast<int64_t>(made.size()), stride = 1;
    void* data = allocate(1, &size, &stride, DType::i32, bound.device, result);
    std::memcpy(data, made.data(), made.size() * sizeof(int32_t));
    stack[0] = from_handle(result.release());
  }

  static void attend(const Arguments& arguments, StableIValue* stack) {
    Bound bound(arguments);
    Call& call = bound.call;
    if (kSpec.has_dropout && !bound.has_seed) {
      refuse_argument("seed",
                      "expected one: the op of a variant with dropout draws none by itself");
    }
    const Kernel& kernel = kernels().get(bound.key, bound.device, kSpec.name);
    const DeviceGuard guard(bound.device);
    OwnedTensor out, lse, max, workspace;
    if (call.packed == nullptr) {
      allocate_out(call, bound.out_dim, bound.wide_out, bound.device, out);
      allocate_rows(call, 3, bound.return_lse, call.lse, bound.device, lse);
    } else {
      allocate_packed_out(call, bound.out_dim, bound.wide_out, bound.device, out);
      allocate_packed_lse(call, bound.return_lse, bound.device, lse);
    }
    allocate_rows(call, 2, bound.return_max, call.max, bound.device, max);
    prepare(bound, kernel, workspace);
    char error[kErrorSize] = "";
    if (kernel.run(&call, error) != 0)
      throw std::runtime_error(std::string(kSpec.name) + ": " + error);
    stack[0] = from_handle(out.release());
    stack[1] = from_handle(lse.release());
    stack[2] = from_handle(max.release());
  }

  static void count_tiles(StableIValue* stack, uint64_t inputs, uint64_t) {
    expect_count(inputs, kSpec.argument_count);
    const Arguments arguments(stack);
    Bound bound(arguments);
    if (bound.call.kv_indices.data != nullptr) {
      refuse_argument("kv_indices", "a call that selects columns has no tiles to count");
    }
    const Kernel& kernel = kernels().get(bound.key, bound.device, kSpec.name);
    const DeviceGuard guard(bound.device);
    OwnedTensor result, workspace;
    const int64_t size = sizeof(TileCounts) / sizeof(int64_t), stride = 1;
    void* counts = allocate(1, &size, &stride, DType::i64, bound.device, result);
    prepare(bound, kernel, workspace);
    char error[kErrorSize] = "";
    if (kernel.count_tiles(&bound.call, static_cast<TileCounts*>(counts), error) != 0) {
      throw std::runtime_error(std::string(kSpec.name) + ": " + error);
    }
    stack[0] = from_handle(result.release());
  }

  // What a GPU's kernel is given beside the call.
  static void prepare(Bound& bound, const Kernel& kernel, OwnedTensor& workspace) {
    if (kernel.workspace == nullptr) return;
    allocate_workspace(bound.call, kernel.workspace(&bound.call), bound.device, workspace);
    bound.call.stream = current_stream(bound.device);
  }

  static void lend_api(StableIValue* stack, uint64_t, uint64_t) {
    static constexpr Api api{
        .version = kApiVersion,
        .call_version = kCallVersion,
        .add = [](const KernelKey* key, KernelFunction run, CountFunction count,
                  WorkspaceFunction workspace) { kernels().add(*key, run, count, workspace); },
        .set_builder = [](BuilderFunction builder) { kernels().set_builder(builder); },
        .set_target = [](int32_t device, int32_t target) { kernels().set_target(device, target); },
        .set_obstacle = [](const char* text) { kernels().set_obstacle(text); },
    };
    stack[0] = static_cast<StableIValue>(reinterpret_cast<uintptr_t>(&api));
  }

  // What torch is told of where registrations stand: `__FILE__` would hold a path of the builder's.
  static constexpr const char* kFile = "attnlang/host/op.h";

  static void expect_count(uint64_t inputs, int32_t count) {
    if (inputs != static_cast<uint64_t>(count)) {
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
