// A call as CUDA kernels receive it, by value: shapes, strides, lengths and offsets. Plain data,
// made on the host; what a request's tensors hold (lengths, offsets) is read on the device.
//
// Kernels reach keys and values through logical columns: rows that lie anywhere, in a strided
// tensor or in the workspace that a transform wrote.
#pragma once

#include <cstdint>
#include <type_traits>

#include "attnlang/host/call.h"
#include "attnlang/host/order.h"
#include "attnlang/host/target.h"
#include "attnlang/host/tensor_view.h"
#include "kernels/call_check.h"
#include "kernels/cuda_stored.cuh"

namespace attnlang::cuda {

constexpr int kWarp = 32;
constexpr int kVectorBytes = 16;  // what one asynchronous copy moves

// Vectors of [batch, heads, rows]; strides count elements.
template <class T>
struct VectorRows {
  T* data;
  int64_t stride[4];
  bool vectorised;  // each row may be accessed 16 bytes at a time

  // `start`: the entry of each vector that is entry 0 of the view. Entries of one byte, which pages
  // alone have, are counted as such.
  static VectorRows of(const Tensor& t, int start) {
    VectorRows rows;
    const int64_t bytes = is_page_dtype(t.dtype) ? 1 : sizeof(T);
    rows.data = reinterpret_cast<T*>(static_cast<char*>(t.data) + start * t.stride[3] * bytes);
    const int64_t entries = kVectorBytes / bytes;
    bool aligned = t.stride[3] == 1 && reinterpret_cast<uintptr_t>(rows.data) % kVectorBytes == 0;
    for (int i = 0; i < 4; ++i) {
      rows.stride[i] = t.stride[i];
      if (i < 3 && t.size[i] > 1) aligned = aligned && t.stride[i] % entries == 0;
    }
    rows.vectorised = aligned;
    return rows;
  }

  // Rows of `width` entries side by side, as the workspace holds them.
  static VectorRows packed(T* data, int64_t heads, int64_t rows, int64_t width) {
    return {.data = data,
            .stride = {heads * rows * width, rows * width, width, 1},
            .vectorised = width * sizeof(T) % kVectorBytes == 0};
  }

  ATTNLANG_HD T* row(int64_t b, int64_t h, int64_t i) const {
    return data + b * stride[0] + h * stride[1] + i * stride[2];
  }
};

// Keys and values of one request in pages: column j is a slot of the page whose number stands at
// j / size from the request's first on. A number that no page has counts as the nearest one.
struct Pages {
  PerRequest numbers;
  int32_t size, count;  // slots of a page; pages that there are
  int32_t shift;        // the size's logarithm; negative: it is no power of two
  int32_t begin;        // slots of all pages before the request's first, in the order of `numbers`
  Stored keys, values;

  template <class T>
  ATTNLANG_DEVICE T* row(const VectorRows<T>& pool, int h, int column) const {
    return pool.data + offset(pool, h, column);
  }
  // Of a pool that is converted: its entries are narrow or of type T.
  template <class T>
  ATTNLANG_DEVICE const char* stored_row(const VectorRows<T>& pool, const Stored& stored, int h,
                                         int column) const {
    const int64_t bytes = stored.is_narrow() ? 1 : sizeof(T);
    return reinterpret_cast<const char*>(pool.data) + offset(pool, h, column) * bytes;
  }

  struct Slot {
    int64_t page;
    int32_t slot;

    template <class T>
    ATTNLANG_DEVICE int64_t offset(const VectorRows<T>& pool, int h) const {
      return page * pool.stride[0] + h * pool.stride[1] + slot * pool.stride[2];
    }
  };
  ATTNLANG_DEVICE Slot slot(int column) const { return bounded_slot(sought(column)); }
  // The same before the number is looked at, so that nobody waits for it yet.
  ATTNLANG_DEVICE Slot sought(int column) const {
    const int at = begin + column, index = shift < 0 ? at / size : at >> shift;
    return {numbers[index], at - index * size};
  }
  // Of what was sought, a page that there is.
  ATTNLANG_DEVICE Slot bounded_slot(const Slot& sought) const {
    return {bounded<int64_t>(sought.page, 0, count - 1), sought.slot};
  }
  // Its page's number as it stands there, of which 32 bits are enough; it may be anything.
  ATTNLANG_DEVICE int32_t raw_number(int column) const {
    const int64_t at = (begin + column) / size * numbers.stride;
    const auto* words = static_cast<const int32_t*>(numbers.data);
    return words[numbers.dtype == DType::i32 ? at : 2 * at];
  }

 private:
  template <class T>
  ATTNLANG_DEVICE int64_t offset(const VectorRows<T>& pool, int h, int column) const {
    return slot(column).offset(pool, h);
  }
};

// One float for each of [batch, heads, rows]; data null: not wanted.
struct Scalars {
  float* data;
  int64_t stride[3];

  static Scalars of(const Tensor& t, int rank) {
    Scalars s{.data = static_cast<float*>(t.data), .stride = {}};
    for (int i = 0; i < rank; ++i) s.stride[i] = t.stride[i];
    return s;
  }
  ATTNLANG_HD float* at(int64_t b, int64_t h, int64_t i = 0) const {
    return data + b * stride[0] + h * stride[1] + i * stride[2];
  }
};

// A request's keys and the positions of its first row and column.
struct Extent {
  int32_t b, keys;
  int64_t q_offset, kv_offset;
};

// q, k, v are those of the products: views of what the call passed, or transformed rows.
template <class Element>
struct Problem {
  int32_t batch, heads, kv_heads, queries, keys;
  bool default_q_offset;
  PerRequest q_offsets, kv_offsets, kv_lens;
  VectorRows<const Element> q, k, v;
  VectorRows<Element> out;
  VectorRows<float> wide_out;  // out itself, where the call wants float32; else its data is null
  Scalars lse, max;
  Pages pages;  // where k and v are pools of them

  ATTNLANG_HD int group() const { return heads / kv_heads; }

  ATTNLANG_HD int kv_len(int b) const {
    const int64_t length = kv_lens[b];
    return length < 0 ? 0 : length < keys ? static_cast<int>(length) : keys;
  }
  // What a request's own tensors say of it, read once.
  ATTNLANG_HD Extent extent(int b) const {
    const int64_t offset = kv_offsets[b];
    const int length = kv_len(b);
    return {.b = b,
            .keys = length,
            .q_offset = default_q_offset ? offset + length - queries : q_offsets[b],
            .kv_offset = offset};
  }

  // Of request b alone: what its own tensors say of it is looked up for good.
  ATTNLANG_DEVICE void settle(int b) {
    const Extent own = extent(b);
    const auto constant = [](int64_t value) {
      return PerRequest{.data = nullptr, .dtype = DType::i64, .stride = 0, .value = value};
    };
    kv_lens = constant(own.keys);
    kv_offsets = constant(own.kv_offset);
    q_offsets = constant(own.q_offset);
    default_q_offset = false;
  }

  // `anchor`: the row that stands for the query tile that is worked on. Params outlive the request.
  template <class Variant>
  ATTNLANG_DEVICE typename Variant::Request request(const typename Variant::Params& params,
                                                    const Extent& extent, int h, int anchor) const {
    return Variant::request(params, extent.b, h, h / group(), queries, extent.keys, extent.q_offset,
                            extent.kv_offset, anchor);
  }
  template <class Variant>
  ATTNLANG_DEVICE typename Variant::Request request(const typename Variant::Params& params, int b,
                                                    int h, int anchor) const {
    return request<Variant>(params, extent(b), h, anchor);
  }
};

// v' lies within the rows of the k' that the product reads, from this entry on: keys are loaded
// once for both. Negative: it does not.
template <class Variant, int kD, int kDV>
constexpr int kValueWithinKey = [] {
  int start = -1;
  if (Variant::kValueSharesKey) start = Variant::kValueStart;
  if (Variant::kValueFromKey && !Variant::kValue && !Variant::kKey) {
    start = Variant::kValueStart - Variant::kKeyStart;
  }
  const bool inside = start >= 0 && start % 8 == 0 && start + kDV <= kD;
  return inside ? start : -1;
}();

// Floats that a vector program needs after its result, which whoever calls it lends.
template <class V>
constexpr int kProgramScratch = [] {
  if constexpr (requires { V::kScratch; }) return V::kScratch;
  else return 0;
}();

// Keys of one head that all requests have between them, those of a paged call as whole pages.
inline int64_t key_rows(const Call& call) {
  if (call.packed == nullptr || !call.packed->is_paged()) return call.k.size[2];
  return call.packed->page_index_count * call.packed->page_size;
}

// The call's own tensors as the products see them, transforms left out.
template <class Variant, class Element>
Problem<Element> problem_of(const Call& call) {
  Problem<Element> problem{};
  problem.batch = static_cast<int32_t>(call.q.size[0]);
  problem.heads = static_cast<int32_t>(call.q.size[1]);
  problem.kv_heads = static_cast<int32_t>(call.k.size[1]);
  problem.queries = static_cast<int32_t>(call.q.size[2]);
  problem.keys = static_cast<int32_t>(call.k.size[2]);
  problem.default_q_offset = call.default_q_offset != 0;
  problem.q_offsets = call.q_offset;
  problem.kv_offsets = call.kv_offset;
  problem.kv_lens = call.kv_lens;
  problem.q = VectorRows<const Element>::of(call.q, Variant::kQueryStart);
  problem.k = VectorRows<const Element>::of(call.k, Variant::kKeyStart);
  problem.v =
      VectorRows<const Element>::of(Variant::kValueFromKey ? call.k : call.v, Variant::kValueStart);
  if (call.out.dtype == DType::f32) problem.wide_out = VectorRows<float>::of(call.out, 0);
  else problem.out = VectorRows<Element>::of(call.out, 0);
  problem.lse = Scalars::of(call.lse, 3);
  problem.max = Scalars::of(call.max, 2);
  return problem;
}

// 0, or -1 and a message where no kernel can run the call. Lengths and offsets that lie on the
// device are not looked at: kernels clamp them. `packed`: whether the kernels are those of packed
// calls.
template <class Variant, class Element, int kD, int kDV>
[[gnu::cold]] int check_call(const Call& call, char* error, bool packed = false) {
  using Width = Widths<Variant, kD, kDV>;
  if (check_shapes<Element, Width::kHead, Width::kValue, Width::kOut>(call, error) != 0) return -1;
  if ((call.packed != nullptr) != packed) {
    return fail(error, "the kernel was built for %s calls", packed ? "packed" : "dense");
  }
  for (int i = 0; i < 3; ++i) {
    if (call.q.size[i] > INT32_MAX || call.k.size[i] > INT32_MAX) {
      return fail(error, "a dimension is above 2^31");
    }
  }
  const bool known = call.kv_offset.data == nullptr && call.q_offset.data == nullptr;
  if (known &&
      (!are_positions(call.kv_offset.value, call.k.size[2]) ||
       (call.default_q_offset == 0 && !are_positions(call.q_offset.value, call.q.size[2])))) {
    return fail(error, "positions beyond 2^30");
  }
  return 0;
}

// The order in which a grid goes through query tiles x heads. Heads whose keys and values fit in
// the L2 cache together go through their tiles side by side; where the mask may be causal-like,
// later tiles, which see more keys, come first.
struct TileOrder {
  int32_t heads, tiles, section;  // heads of the whole batch; how many of them go together

  static TileOrder of(int64_t batch, int64_t heads, int64_t kv_heads, int64_t tiles,
                      int64_t bytes_per_kv_head) {
    constexpr int64_t kCacheBytes = int64_t{24} << 20;
    const int64_t all = batch * heads;
    int64_t section = bytes_per_kv_head == 0 ? all : kCacheBytes / bytes_per_kv_head;
    section = (section < 1 ? 1 : section) * (heads / kv_heads);
    return {.heads = static_cast<int32_t>(all),
            .tiles = static_cast<int32_t>(tiles),
            .section = static_cast<int32_t>(section < all ? section : all)};
  }

  ATTNLANG_HD int64_t items() const { return int64_t{heads} * tiles; }

  struct Place {
    int32_t head, tile;  // head: b * heads + h
  };
  // A section of fewer heads comes first: the last one has enough tiles for all multiprocessors.
  ATTNLANG_HD Place operator[](int index) const {
    const int whole = section * tiles, few = heads % section, begin = few * tiles;
    const bool early = index < begin;
    const int later = early ? 0 : (index - begin) / whole;
    const int first = early ? 0 : few + later * section;
    const int width = early ? few : section;
    const int rest = early ? index : index - begin - later * whole;
    return {.head = first + rest % width, .tile = tiles - 1 - rest / width};
  }
};

}  // namespace attnlang::cuda
