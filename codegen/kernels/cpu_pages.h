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

// Calls f(j, page, slot) for the columns k0 + j of request b, j below n.
template <class Function>
void for_slots(const Packed& packed, int64_t b, int64_t k0, int64_t n, const Function& f) {
  const int64_t page_size = packed.page_size;
  const int64_t place = k0 / page_size, first_slot = k0 % page_size;
  const auto walk = [&]<class Number>(const Number* table, int64_t stride) {
    table += (packed.page_indptr[b] + place) * stride;
    if (page_size == 1) {  // what follows, without its inner loop
      for (int64_t j = 0; j < n; ++j) f(j, int64_t{table[j * stride]}, int64_t{0});
      return;
    }
    for (int64_t j = 0, slot = first_slot; j < n; slot = 0, table += stride) {
      const int64_t page = *table, rest = std::min(n - j, page_size - slot);
      for (int64_t i = 0; i < rest; ++i) f(j + i, page, slot + i);
      j += rest;
    }
  };
  const PerRequest& table = packed.page_indices;
  if (table.dtype == DType::i32) walk(static_cast<const int32_t*>(table.data), table.stride);
  else walk(static_cast<const int64_t*>(table.data), table.stride);
}

template <class Element>
struct Pages {
  const Call& call;
  int64_t b;

  // Columns [k0, k0 + n), where they lie, or converted into kWidth and kValueWidth wide rows.
  template <int kWidth, int kValueWidth>
  [[gnu::noinline]] void locate(int64_t h_kv, int64_t k0, int n, Element* k_room, Element* v_room,
                                KvRows<Element>& rows) const {
    const Slots slots = find(k0, n);
    locate<kWidth>(call.k, call.packed->k_scale, h_kv, slots, n, k_room, rows.k, rows.k_inner);
    locate<kValueWidth>(call.v, call.packed->v_scale, h_kv, slots, n, v_room, rows.v, rows.v_inner);
  }

  // The rows of the columns [k0, k0 + n) as they are stored, of keys and, where asked, of values.
  [[gnu::noinline]] void locate_stored(int64_t h_kv, int64_t k0, int n, StoredRows& keys,
                                       StoredRows* values) const {
    const Slots slots = find(k0, n);
    locate_stored(call.k, h_kv, slots, n, keys);
    if (values != nullptr) locate_stored(call.v, h_kv, slots, n, *values);
  }

  bool is_converted(bool keys) const {
    return keys ? converts(call.k, call.packed->k_scale) : converts(call.v, call.packed->v_scale);
  }

 private:
  static bool converts(const Tensor& t, const Tensor& scales) {
    return is_page_dtype(t.dtype) || scales.data != nullptr;
  }

  struct Slots {
    int64_t page[kMaxKeyTile];
    int64_t slot[kMaxKeyTile];
  };

  [[gnu::always_inline]] Slots find(int64_t k0, int n) const {
    Slots slots;
    for_slots(*call.packed, b, k0, n, [&](int64_t j, int64_t page, int64_t slot) {
      slots.page[j] = page, slots.slot[j] = slot;
    });
    return slots;
  }

  template <class Row>
  static void rows_of(const Tensor& t, int64_t h_kv, const Slots& slots, int n, Row* rows) {
    const int64_t bytes = element_size(t.dtype);
    const char* head = static_cast<const char*>(t.data) + h_kv * t.stride[1] * bytes;
    const int64_t page_bytes = t.stride[0] * bytes, slot_bytes = t.stride[2] * bytes;
    for (int j = 0; j < n; ++j) {
      rows[j] =
          reinterpret_cast<Row>(head + slots.page[j] * page_bytes + slots.slot[j] * slot_bytes);
    }
  }

  static void locate_stored(const Tensor& t, int64_t h_kv, const Slots& slots, int n,
                            StoredRows& stored) {
    stored.bytes = t.stride[3] == 1 ? t.size[3] * element_size(t.dtype) : 0;
    rows_of(t, h_kv, slots, n, stored.row);
    stored.repeat_last(n);
  }

  template <int kWidth>
  static void locate(const Tensor& t, const Tensor& scales, int64_t h_kv, const Slots& slots, int n,
                     Element* room, const Element** rows, int64_t& inner) {
    rows_of(t, h_kv, slots, n, rows);
    inner = t.stride[3];
    if (!converts(t, scales)) return;
    const float scale = scales.data == nullptr
                            ? 1.0f
                            : static_cast<const float*>(scales.data)[h_kv * scales.stride[0]];
    switch (t.dtype) {
      case DType::f8e4m3:
        convert<DType::f8e4m3, kWidth>(scale, n, inner, room, rows);
        break;
      case DType::f8e5m2:
        convert<DType::f8e5m2, kWidth>(scale, n, inner, room, rows);
        break;
      default:
        for (int j = 0; j < n; ++j) {
          Element* to = room + j * kWidth;
          for (int d = 0; d < kWidth; ++d) {
            to[d] = from_float32<Element>(to_float32(rows[j][d * inner]) * scale);
          }
        }
    }
    for (int j = 0; j < n; ++j) rows[j] = room + j * kWidth;
    inner = 1;
  }

  template <DType kType, int kWidth>
  static void convert(float scale, int n, int64_t inner, Element* room,
                      const Element* const* rows) {
    const Fp8Reader<kType, Element> reader(scale);
    for (int j = 0; j < n; ++j) {
      const auto* row = reinterpret_cast<const uint8_t*>(rows[j]);
      uint8_t together[kWidth];
      if (inner != 1) {
        for (int d = 0; d < kWidth; ++d) together[d] = row[d * inner];
        row = together;
      }
      reader.template read<kWidth>(room + j * kWidth, row);
    }
  }
};

}  // namespace attnlang::cpu
