// The pages of one request of a paged call: where its columns lie, and their conversion.
//
// Slots from the request's length on are never touched: they may hold anything, as may pages that
// it does not use.
#pragma once

#include <algorithm>

#include "attnlang/cpu/element.h"
#include "attnlang/cpu/fp8.h"
#include "attnlang/host/call.h"
#include "kernels/cpu_rows.h"

namespace attnlang::cpu {

constexpr int64_t element_size(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f16:
    case DType::bf16:
    case DType::i16:
      return 2;
    default:
      return 1;
  }
}

// Calls f(j, page, slot) for the columns k0 + j of request b, j below n.
template <class Function>
void for_slots(const Packed& packed, int64_t b, int64_t k0, int64_t n, const Function& f) {
  const int64_t page_size = packed.page_size;
  const int64_t first = packed.page_indptr[b];
  int64_t place = k0 / page_size, slot = k0 % page_size;
  for (int64_t j = 0; j < n; ++place, slot = 0) {
    const int64_t page = packed.page_indices[first + place];
    for (; j < n && slot < page_size; ++j, ++slot) f(j, page, slot);
  }
}

template <class Element>
struct Pages {
  const Call& call;
  int64_t b;

  // Columns [k0, k0 + n), where they lie, or converted into kWidth and kValueWidth wide rows.
  template <int kWidth, int kValueWidth>
  [[gnu::noinline]] void locate(int64_t h_kv, int64_t k0, int n, Element* k_room, Element* v_room,
                                KvRows<Element>& rows) const {
    rows.ahead = 0;
    find<kWidth>(call.k, call.packed->k_scale, h_kv, k0, n, k_room, rows.k, rows.k_inner);
    find<kValueWidth>(call.v, call.packed->v_scale, h_kv, k0, n, v_room, rows.v, rows.v_inner);
  }

 private:
  template <int kWidth>
  void find(const Tensor& t, const Tensor& scales, int64_t h_kv, int64_t k0, int n, Element* room,
            const Element** rows, int64_t& inner) const {
    const int64_t bytes = element_size(t.dtype);
    const char* head = static_cast<const char*>(t.data) + h_kv * t.stride[1] * bytes;
    const bool convert = is_page_dtype(t.dtype) || scales.data != nullptr;
    const float scale = scales.data == nullptr
                            ? 1.0f
                            : static_cast<const float*>(scales.data)[h_kv * scales.stride[0]];
    inner = convert ? 1 : t.stride[3];
    for_slots(*call.packed, b, k0, n, [&](int64_t j, int64_t page, int64_t slot) {
      const char* at = head + (page * t.stride[0] + slot * t.stride[2]) * bytes;
      rows[j] = convert ? room + j * kWidth : reinterpret_cast<const Element*>(at);
      if (convert) convert_row<kWidth>(t, at, scale, room + j * kWidth);
    });
  }

  template <int kWidth>
  static void convert_row(const Tensor& t, const char* at, float scale, Element* to) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(at);
    if (t.dtype == DType::f8e4m3) {
      fp8_to_row<DType::f8e4m3>(to, bytes, t.stride[3], kWidth, scale);
    } else if (t.dtype == DType::f8e5m2) {
      fp8_to_row<DType::f8e5m2>(to, bytes, t.stride[3], kWidth, scale);
    } else {
      const auto* row = reinterpret_cast<const Element*>(at);
      for (int d = 0; d < kWidth; ++d) {
        to[d] = from_float32<Element>(to_float32(row[d * t.stride[3]]) * scale);
      }
    }
  }
};

}  // namespace attnlang::cpu
