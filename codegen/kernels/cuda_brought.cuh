// What is brought together before a packed call, in the workspace: where tensors over KV begin for
// each request beside pages, those of them that lie in pages themselves, and keys and values that
// the functor reads apart from the products, or whose pages these cannot read.
//
// A tensor over KV has the rows of all requests one after another, each with as many as it has
// columns; keys and values stand in the order of the page table, as whole pages. Numbers and
// lengths are the GPU's to read, and may be anything: no row outside a tensor is touched.
#pragma once

#include <bit>
#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/host/call.h"
#include "attnlang/host/target.h"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_requests.cuh"
#include "kernels/cuda_selection.cuh"
#include "kernels/cuda_transforms.cuh"

namespace attnlang::cuda {

constexpr int kBringWarps = 4;
constexpr int kBringTile = 64;  // columns of a block

// starts[b]: the columns of all requests before b, as far as there is `room` for them: where
// offsets go back and forth, requests may have more columns than pages have slots. One warp.
// `Variant`: only units that need the kernel have it, as those below.
template <class Variant>
__global__ void __launch_bounds__(kWarp)
    start_columns(const Requests requests, int32_t* const starts, const int64_t room) {
  const int lane = static_cast<int>(threadIdx.x);
  int64_t before = 0;
  for (int b = lane; b - lane < requests.count(); b += kWarp) {
    const int64_t columns = b < requests.count() ? requests.rows(b).keys.count : 0;
    const LaneSums<int64_t> sums = lane_sums(columns, lane);
    if (b < requests.count()) {
      starts[b] = static_cast<int32_t>(least(before + sums.before, room));
    }
    before += sums.all;
  }
}

// A tensor in pages, and where its rows go; strides count elements of `bytes`.
struct PagedTensor {
  const char* data;
  char* result;
  int64_t page_stride, slot_stride, width;  // width: elements of a row
  int64_t size[kMaxRank], stride[kMaxRank];
  int32_t axes;
  int64_t rows;  // that the result has room for
  int32_t bytes;

  ATTNLANG_DEVICE int64_t offset(int64_t at) const {
    int64_t offset = 0;
    for (int axis = axes - 1; axis >= 0; --axis) {
      offset += at % size[axis] * stride[axis];
      at /= size[axis];
    }
    return offset;
  }
};

template <class T>
ATTNLANG_DEVICE void copy_element(char* to, int64_t index, const char* from, int64_t offset) {
  reinterpret_cast<T*>(to)[index] = reinterpret_cast<const T*>(from)[offset];
}

// A block copies the rows of kBringTile columns of a request.
template <class Variant>
__global__ void __launch_bounds__(kBringWarps* kWarp)
    bring_tensor(const Requests requests, const Pages all, const PagedTensor tensor) {
  const auto place = requests.key_tile(static_cast<int>(blockIdx.x), kBringTile);
  if (place.b < 0) return;
  const RequestRows rows = requests.rows(place.b);
  Pages pages = all;
  pages.begin = rows.keys.begin;
  const int left = rows.keys.count - place.row;
  const int64_t elements = (left < kBringTile ? left : kBringTile) * tensor.width;
  for (int64_t i = threadIdx.x; i < elements; i += kBringWarps * kWarp) {
    const int column = place.row + static_cast<int>(i / tensor.width);
    const int64_t at = i % tensor.width, row = int64_t{rows.columns.begin} + column;
    if (row >= tensor.rows) return;  // offsets that go back and forth: more columns than slots
    const Pages::Slot slot = pages.slot(column);
    const int64_t from =
        slot.page * tensor.page_stride + slot.slot * tensor.slot_stride + tensor.offset(at);
    const int64_t to = row * tensor.width + at;
    switch (tensor.bytes) {
      case 1:
        copy_element<uint8_t>(tensor.result, to, tensor.data, from);
        break;
      case 2:
        copy_element<uint16_t>(tensor.result, to, tensor.data, from);
        break;
      case 4:
        copy_element<uint32_t>(tensor.result, to, tensor.data, from);
        break;
      default:
        copy_element<uint64_t>(tensor.result, to, tensor.data, from);
    }
  }
}

// A block copies kBringTile columns of a head, a warp a row.
template <class Element, int kWidth>
__global__ void __launch_bounds__(kBringWarps* kWarp)
    bring_rows(const Requests requests, const Pages all, const VectorRows<const Element> pool,
               const Stored stored, const VectorRows<Element> result, const int heads) {
  const int index = static_cast<int>(blockIdx.x), h = index % heads;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const auto place = requests.key_tile(index / heads, kBringTile);
  if (place.b < 0) return;
  const RequestRows rows = requests.rows(place.b);
  Pages pages = all;
  pages.begin = rows.keys.begin;
  const int end = place.row + kBringTile;
  for (int column = place.row + warp_index(); column < rows.keys.count && column < end;
       column += kBringWarps) {
    const char* from = pages.stored_row(pool, stored, h, column);
    Element* to = result.row(0, h, rows.keys.begin + column);
    for (int d = lane; d < kWidth; d += kWarp) {
      to[d] = from_float32<Element>(
          converted_entry<Element>(from, d * pool.stride[3], stored, stored.scale(h)));
    }
  }
}

// The call that the kernels are given; `whole`: the one that was passed.
template <class Variant, class Element, int kD, int kDV>
class BroughtCall {
 public:
  // Takes room. With a workspace that counts, the call's tensors stay where they are.
  BroughtCall(const Call& whole, Workspace& workspace)
      : call_(whole), packed_(*whole.packed), whole_(whole) {
    call_.packed = &packed_;
    if (!packed_.is_paged()) return;
    packed_.kv_indptr = {};
    if constexpr (Variant::kKeyTensors) {
      call_.tensors = tensors_;
      bool any = false;
      for (int i = 0; i < Variant::kTensors; ++i) {
        tensors_[i] = whole.tensors[i];
        const PackedAxis& axis = packed_.tensors[i];
        if (tensors_[i].data == nullptr) continue;
        any = any || axis.rows == PackedAxis::keys || axis.rows == PackedAxis::pages;
        if (axis.rows == PackedAxis::pages) take(tensors_[i], axis, workspace);
      }
      if (any) {
        starts_ = static_cast<int32_t*>(workspace.take(packed_.requests * sizeof(int32_t)));
        packed_.kv_indptr = {.data = starts_, .dtype = DType::i32, .stride = 1, .value = 0};
      }
    }
    brings_rows_ = Variant::kLoadsKeys || !takes(whole.k, packed_.k_scale);
    if constexpr (!Variant::kValueFromKey) {
      brings_rows_ = brings_rows_ || !takes(whole.v, packed_.v_scale);
    }
    if (!brings_rows_) return;
    take<Width::kHead>(call_.k, workspace);
    if constexpr (Variant::kValueFromKey) call_.v = call_.k;
    else take<Width::kValue>(call_.v, workspace);
  }
  BroughtCall(const BroughtCall&) = delete;
  BroughtCall& operator=(const BroughtCall&) = delete;

  const Call& call() const { return call_; }
  Call& call() { return call_; }

  // Whether the products find keys and values in pages.
  bool is_paged() const { return packed_.is_paged() && !brings_rows_; }

  static Pages pages_of(const Call& call) {
    return {.numbers = call.packed->page_indices,
            .size = static_cast<int32_t>(call.packed->page_size),
            .count = static_cast<int32_t>(call.k.size[0]),
            .shift = logarithm(call.packed->page_size),
            .begin = 0,
            .keys = Stored::of(call.k, call.packed->k_scale),
            .values = Variant::kValueFromKey ? Stored::of(call.k, call.packed->k_scale)
                                             : Stored::of(call.v, call.packed->v_scale)};
  }

  // Enqueues what fills the room. Null, or what is wrong.
  const char* start() const {
    if (!packed_.is_paged()) return nullptr;
    const char* wrong = nullptr;
    const Requests requests(call_);
    if constexpr (Variant::kKeyTensors) {
      if (starts_ != nullptr) {
        // Its own requests: where columns begin is not known yet.
        Packed unstarted = packed_;
        unstarted.kv_indptr = {};
        Call before = call_;
        before.packed = &unstarted;
        wrong = launch(start_columns<Variant>, dim3(1), kWarp, 0, call_.stream, Requests(before),
                       starts_, key_rows(whole_));
      }
      for (int i = 0; i < Variant::kTensors && wrong == nullptr; ++i) {
        const PackedAxis& axis = packed_.tensors[i];
        if (tensors_[i].data == nullptr || axis.rows != PackedAxis::pages) continue;
        wrong = start(bring_tensor<Variant>, 1, requests, pages_of(whole_), tensor_of(i, axis));
      }
    }
    if (wrong != nullptr || !brings_rows_) return wrong;
    wrong = bring<Width::kHead>(whole_.k, packed_.k_scale, call_.k);
    if (wrong != nullptr || Variant::kValueFromKey) return wrong;
    return bring<Width::kValue>(whole_.v, packed_.v_scale, call_.v);
  }

 private:
  using Width = Widths<Variant, kD, kDV>;

  // Whether the products can read a pool where it lies, or a transform's pass can.
  static bool takes(const Tensor& pool, const Tensor& scales) {
    return is_page_dtype(pool.dtype) || scales.data == nullptr;
  }

  static int32_t logarithm(int64_t size) {
    return (size & (size - 1)) == 0 ? std::countr_zero(static_cast<uint64_t>(size)) : -1;
  }

  // The room of a tensor, side by side: rows, then its other axes but those of one element.
  void take(Tensor& t, const PackedAxis& paged, Workspace& workspace) const {
    int64_t width = 1;
    Tensor brought = t;
    for (int axis = t.rank - 1; axis >= 0; --axis) {
      if (axis == paged.axis || t.stride[axis] == 0) continue;
      brought.stride[axis] = width;
      width *= t.size[axis];
    }
    brought.size[paged.axis] = key_rows(whole_), brought.stride[paged.axis] = width;
    void* room = workspace.take(key_rows(whole_) * width * element_size(t.dtype));
    if (room == nullptr) return;
    brought.data = room;
    t = brought;
  }

  PagedTensor tensor_of(int i, const PackedAxis& paged) const {
    const Tensor &from = whole_.tensors[i], &to = tensors_[i];
    PagedTensor tensor{.data = static_cast<const char*>(from.data),
                       .result = static_cast<char*>(to.data),
                       .page_stride = paged.page_stride,
                       .slot_stride = from.stride[paged.axis],
                       .width = to.stride[paged.axis],
                       .size = {},
                       .stride = {},
                       .axes = 0,
                       .rows = key_rows(whole_),
                       .bytes = static_cast<int32_t>(element_size(from.dtype))};
    for (int axis = 0; axis < from.rank; ++axis) {
      if (axis == paged.axis || from.stride[axis] == 0) continue;
      tensor.size[tensor.axes] = from.size[axis];
      tensor.stride[tensor.axes++] = from.stride[axis];
    }
    return tensor;
  }

  template <int kWidth>
  void take(Tensor& vectors, Workspace& workspace) const {
    const int64_t heads = vectors.size[1], rows = key_rows(whole_);
    void* room = workspace.take(heads * rows * kWidth * int64_t{sizeof(Element)});
    if (room == nullptr) return;
    vectors = {.data = room,
               .dtype = dtype_of<Element>(),
               .rank = 4,
               .size = {whole_.k.size[0] == 0 ? 0 : 1, heads, rows, kWidth},
               .stride = {0, rows * kWidth, kWidth, 1}};
  }

  template <int kWidth>
  const char* bring(const Tensor& pool, const Tensor& scales, const Tensor& room) const {
    const int heads = static_cast<int>(pool.size[1]);
    return start(bring_rows<Element, kWidth>, heads, Requests(call_), pages_of(whole_),
                 VectorRows<const Element>::of(pool, 0), Stored::of(pool, scales),
                 VectorRows<Element>::of(room, 0), heads);
  }

  // A block for each tile of columns and head.
  template <class Kernel, class... Arguments>
  const char* start(Kernel kernel, int heads, const Requests& requests,
                    const Arguments&... arguments) const {
    const int64_t blocks = requests.key_tiles(kBringTile) * heads;
    if (blocks == 0) return nullptr;
    return launch(kernel, dim3(static_cast<unsigned>(blocks)), kBringWarps * kWarp, 0, call_.stream,
                  requests, arguments...);
  }

  Call call_;
  Packed packed_;
  const Call& whole_;
  int32_t* starts_ = nullptr;
  bool brings_rows_ = false;
  Tensor tensors_[Variant::kTensors + 1] = {};
};

}  // namespace attnlang::cuda
