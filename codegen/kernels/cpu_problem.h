// A call as kernels see it: typed shapes, one request's lengths and offsets, the KV view.
#pragma once

#include <algorithm>
#include <atomic>
#include <limits>

#include "attnlang/cpu/element.h"
#include "attnlang/host/call.h"
#include "attnlang/host/tensor_view.h"
#include "kernels/call_check.h"
#include "kernels/cpu_pages.h"
#include "kernels/cpu_rows.h"

namespace attnlang::cpu {

// `first` is the number of request 0: of a packed call each request is a problem of its own.
template <class Element>
struct Problem {
  const Call& call;
  int64_t first, batch, heads, kv_heads, queries, keys;

  explicit Problem(const Call& c, int64_t first_request = 0)
      : call(c),
        first(first_request),
        batch(c.q.size[0]),
        heads(c.q.size[1]),
        kv_heads(c.k.size[1]),
        queries(c.q.size[2]),
        keys(is_paged() ? lengths_of(c, first).keys : c.k.size[2]) {}

  int64_t group() const { return heads / kv_heads; }
  int64_t kv_len(int64_t b) const { return std::clamp<int64_t>(call.kv_lens[b], 0, keys); }
  int64_t q_offset(int64_t b) const {
    return call.default_q_offset ? call.kv_offset[b] + kv_len(b) - queries : call.q_offset[b];
  }

  bool is_paged() const { return call.packed != nullptr && call.packed->is_paged(); }
  Pages<Element> pages() const { return {.call = call, .b = first}; }

  // Where nothing is paged.
  StridedKv<Element> kv(int64_t b, int64_t h_kv) const {
    const Tensor &k = call.k, &v = call.v;
    const auto* k_data = static_cast<const Element*>(k.data);
    const auto* v_data = static_cast<const Element*>(v.data);
    return {.k = k_data + b * k.stride[0] + h_kv * k.stride[1],
            .v = v_data + b * v.stride[0] + h_kv * v.stride[1],
            .k_stride = k.stride[2],
            .k_inner = k.stride[3],
            .v_stride = v.stride[2],
            .v_inner = v.stride[3]};
  }

  const Element* q_row(int64_t b, int64_t h, int64_t i) const {
    const Tensor& q = call.q;
    return static_cast<const Element*>(q.data) + b * q.stride[0] + h * q.stride[1] +
           i * q.stride[2];
  }
  // Writes a row of out: in the element type, or in float32 where the call wants that.
  void write_row(int64_t b, int64_t h, int64_t i, const float* values, int n) const {
    const Tensor& out = call.out;
    const int64_t at = b * out.stride[0] + h * out.stride[1] + i * out.stride[2];
    if (out.dtype == DType::f32) {
      float_to_row(static_cast<float*>(out.data) + at, out.stride[3], values, n);
    } else {
      float_to_row(static_cast<Element*>(out.data) + at, out.stride[3], values, n);
    }
  }
  // Null where the call wants none.
  float* lse(int64_t b, int64_t h, int64_t i) const {
    const Tensor& lse = call.lse;
    if (lse.data == nullptr) return nullptr;
    return static_cast<float*>(lse.data) + b * lse.stride[0] + h * lse.stride[1] +
           i * lse.stride[2];
  }

  bool wants_max() const { return call.max.data != nullptr; }
  float& max(int64_t b, int64_t h) const {
    const Tensor& max = call.max;
    return static_cast<float*>(max.data)[b * max.stride[0] + h * max.stride[1]];
  }
  void start_max() const {
    if (!wants_max()) return;
    for (int64_t b = 0; b < requests_of(call); ++b) {
      for (int64_t h = 0; h < heads; ++h) max(b, h) = -std::numeric_limits<float>::infinity();
    }
  }
  // Whatever the order of the items, the result is the same; NaN stays.
  void raise_max(int64_t b, int64_t h, float score) const {
    const std::atomic_ref<float> max(this->max(b, h));
    score += 0.0f;  // one zero, not two
    float seen = max.load(std::memory_order_relaxed);
    while ((score > seen || score != score) && seen == seen &&
           !max.compare_exchange_weak(seen, score, std::memory_order_relaxed)) {
    }
  }

  // `anchor`: the row that stands for the query tile that is worked on; a tile's verdict needs
  // none.
  template <class Variant>
  typename Variant::Request request(const typename Variant::Params& params, int64_t b, int64_t h,
                                    int64_t anchor = 0) const {
    return Variant::request(params, b, h, h / group(), queries, kv_len(b), q_offset(b),
                            call.kv_offset[b], anchor);
  }
};

// 0, or -1 and a message where no kernel can run the call; kD, kDV, kOut: the last dimensions.
template <class Element, int kD, int kDV, int kOut>
[[gnu::cold]] int check_call(const Call& call, char* error) {
  if (check_shapes<Element, kD, kDV, kOut>(call, error) != 0) return -1;
  if (check_offsets(call, error) != 0) return -1;
  for (int64_t b = 0; b < requests_of(call); ++b) {
    const auto [queries, keys] = lengths_of(call, b);
    const int64_t kv_offset = call.kv_offset[b];
    const int64_t length = std::clamp<int64_t>(call.kv_lens[b], 0, keys);
    const int64_t q_offset =
        call.default_q_offset ? kv_offset + length - queries : call.q_offset[b];
    if (!are_positions(kv_offset, keys) || !are_positions(q_offset, queries)) {
      return fail(error, "request %" PRId64 ": positions beyond 2^30", b);
    }
  }
  return 0;
}

}  // namespace attnlang::cpu
