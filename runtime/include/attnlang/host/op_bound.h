// From the arguments of a call to a `Call`: every one is read, placed and compared with what the
// spec declares. Kernels trust the result.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "attnlang/host/call.h"
#include "attnlang/host/op_arguments.h"
#include "attnlang/host/op_extents.h"
#include "attnlang/host/op_kernels.h"
#include "attnlang/host/op_packed.h"
#include "attnlang/host/op_schedule.h"
#include "attnlang/host/op_spec.h"
#include "attnlang/host/op_values.h"

namespace attnlang::op {

constexpr int64_t kMostWorkers = 65536;

// A call and the arrays that it points to.
struct Bound {
  const Spec& spec;
  const KernelTable& kernels;
  Call call{};
  Device device{};     // q's
  int32_t target = 0;  // what a kernel for the call is built for
  bool return_lse = false, return_max = false, wide_out = false, has_seed = false;
  std::vector<Number> scalars;
  std::vector<DeviceScalar> device_scalars;
  std::vector<Tensor> tensors;
  std::vector<PackedAxis> axes;
  Packed packed{};
  std::vector<int64_t> kv_starts;  // of the requests of a paged call
  Tensor schedule{};
  int64_t workers = 0;
  std::vector<int64_t> sizes;
  std::vector<int32_t> dtypes;
  KernelKey key{};
  int64_t out_dim = 0;

  Bound(const Spec& of, const KernelTable& table, const Arguments& arguments)
      : spec(of),
        kernels(table),
        scalars(of.scalar_count),
        device_scalars(of.scalar_count),
        tensors(of.tensor_count),
        sizes(of.size_count),
        dtypes(of.tensor_count) {
    call.version = kCallVersion;
    call.default_q_offset = 1;
    call.scalars = scalars.data();
    call.device_scalars = device_scalars.data();
    call.tensors = tensors.data();
    call.sizes = sizes.data();
    if (arguments.table == spec.packed_arguments) {
      axes.resize(spec.tensor_count);
      packed.tensors = axes.data(), packed.tensor_count = spec.tensor_count;
      call.packed = &packed;
    }
    for (const bool first : {true, false}) {
      for (size_t i = 0; i < arguments.passed.size(); ++i) {
        const Argument& argument = arguments.table[i];
        const PassedArgument& passed = arguments.passed[i];
        if (passed.present && comes_first(argument.role) == first) take(argument, passed.value);
      }
    }
    if (call.v.data == nullptr) call.v = call.k;  // v is made from k
    if (call.packed != nullptr) {
      pack();
      if (schedule.data != nullptr) {
        follow_schedule(schedule, "schedule", call, packed, target != 0);
      }
    }
    CallExtents extents(call, spec, tensors.data(), sizes.data());
    spec.bind(extents);
    finish(extents);
  }

  void take(const Argument& argument, StableIValue value) {
    const char* name = argument.name;
    switch (argument.role) {
      case Role::q:
        device = device_of(as_handle(value), name);
        target = kernels.target_of(device);
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
        packed.split_tokens = as_integer(value);
        if (packed.split_tokens < 0) refuse_argument(name, "expected 0 or more");
        break;
    }
  }

  Tensor rows_of(const Tensor& tensor, const char* name) const {
    return call.packed == nullptr ? tensor : packed_rows(tensor, name);
  }

  Tensor keys_of(const Tensor& tensor, const char* name) const {
    return packed.is_paged() ? paged_rows(tensor, name) : rows_of(tensor, name);
  }

  // Compares the offsets and the tensors' rows with the packed rows. Offsets in a GPU's memory are
  // for its kernels to read.
  void pack() {
    const bool paged = packed.is_paged(), readable = !device.is_gpu();
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
    int64_t columns = call.k.size[2], most_rows = 0, most_columns = 0;
    if (readable) {
      most_rows = expect_offsets(packed.q_indptr, packed.requests, rows, "q_indptr", target != 0);
    }
    if (paged) {
      packed.page_size = columns, packed.page_index_count = page_count_;
      if (call.kv_lens.data == nullptr) {
        refuse_argument("kv_lens", "expected the requests' lengths, with pages");
      }
      if (readable) most_columns = expect_pages(packed, call, page_count_, kv_starts);
      if (readable) columns = kv_starts.back();
    } else if (readable) {
      most_columns =
          expect_offsets(packed.kv_indptr, packed.requests, columns, "kv_indptr", target != 0);
    }
    for (int32_t i = 0; i < spec.tensor_count; ++i) {
      const TensorParam& param = spec.tensors[i];
      if (tensors[i].data == nullptr) continue;
      const bool queries = param.rows == PackedAxis::queries;
      const bool own = param.batch_axis >= 0 && param.row_axis >= 0;
      if (axes[i].rows == PackedAxis::pages) continue;
      // How many columns the requests have in a GPU's pages stands there.
      const bool counted = queries || !paged || readable || !own;
      const int64_t own_rows = queries ? rows : counted ? columns : tensors[i].size[param.row_axis];
      axes[i] = expect_rows(tensors[i], param, spec.tensor_names[i], own_rows,
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
    const TensorParam& wanted = spec.tensors[index];
    const char* name = spec.tensor_names[index];
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

  void finish(const CallExtents& extents) {
    if (!has_scale_) call.scale = 1.0 / std::sqrt(static_cast<double>(extents.D));
    if (call.kv_lens.data == nullptr) call.kv_lens.value = extents.KV;  // of all, where packed
    if (extents.DV < 1 || extents.out < 1) refuse_argument("q", "too narrow for the spec");
    out_dim = extents.out;
    if (target == 0) {
      expect_positions(call.q_offset, "q_offset", extents.B);
      expect_positions(call.kv_offset, "kv_offset", extents.B);
    }
    for (int32_t i = 0; i < spec.tensor_count; ++i) {
      dtypes[i] = tensors[i].data == nullptr ? kAbsent : static_cast<int32_t>(tensors[i].dtype);
    }
    key = {.dtype = static_cast<int32_t>(call.q.dtype),
           .head_dim = static_cast<int32_t>(extents.D),
           .value_dim = static_cast<int32_t>(extents.DV),
           .target = target,
           .packed = packing(),
           .count = spec.tensor_count,
           .param_dtypes = dtypes.data()};
  }

  int32_t packing() const {
    if (call.packed == nullptr) return 0;
    if (target == 0 || !is_page_dtype(call.k.dtype)) return 1;
    return call.k.dtype == DType::f8e4m3 ? 2 : 3;
  }

  static void expect_positions(const PerRequest& offsets, const char* name, int64_t requests) {
    if (offsets.data == nullptr) return;
    for (int64_t b = 0; b < requests; ++b) one(offsets[b], name);
  }

 private:
  bool has_scale_ = false;
  int64_t kv_requests_ = 0, page_count_ = 0;
};

}  // namespace attnlang::op
