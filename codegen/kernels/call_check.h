// Whether a call's tensors are those that a kernel was built for: shapes and dtypes, of every
// target.
#pragma once

#include <cinttypes>
#include <cstdarg>
#include <cstdio>

#include "attnlang/host/call.h"
#include "attnlang/host/order.h"
#include "attnlang/host/tensor_view.h"

namespace attnlang {

constexpr int64_t kPositionLimit = int64_t{1} << 30;

// The last dimensions of a call's q and k, of its v, and of its out; kD and kDV are those of the
// products. A functor without transforms need not say them.
template <class Variant, int kD, int kDV>
struct Widths {
  static constexpr int kHead = [] {
    if constexpr (requires { Variant::kHeadDim; }) return Variant::kHeadDim;
    else return kD;
  }();
  static constexpr int kValue = [] {
    if constexpr (requires { Variant::kValueDim; }) return Variant::kValueDim;
    else return kDV;
  }();
  static constexpr int kOut = [] {
    if constexpr (requires { Variant::kOutDim; }) return Variant::kOutDim;
    else return kDV;
  }();
};

// A message of at most kErrorSize, and -1.
[[gnu::format(printf, 2, 3)]] inline int fail(char* error, const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::vsnprintf(error, kErrorSize, format, args);
  va_end(args);
  return -1;
}

inline bool same_shape(const Tensor& t, int64_t a, int64_t b, int64_t c) {
  return t.size[0] == a && t.size[1] == b && t.size[2] == c;
}

// Whether the positions of `count` rows or columns are within the limit.
inline bool are_positions(int64_t offset, int64_t count) {
  return -kPositionLimit < offset && offset + count < kPositionLimit;
}

// How many query rows and columns a request has; `kv_lens` may say that it has fewer columns.
struct Lengths {
  int64_t queries, keys;
};
inline Lengths lengths_of(const Call& call, int64_t b) {
  const Packed* packed = call.packed;
  if (packed == nullptr) return {call.q.size[2], call.k.size[2]};
  const int64_t queries = packed->q_indptr[b + 1] - packed->q_indptr[b];
  if (!packed->is_paged()) return {queries, packed->kv_indptr[b + 1] - packed->kv_indptr[b]};
  const int64_t pages = packed->page_indptr[b + 1] - packed->page_indptr[b];
  return {queries, bounded<int64_t>(call.kv_lens[b], 0, pages * packed->page_size)};
}

// Whether offsets of requests go from 0 to at most `rows` and never back.
inline bool are_offsets(const PerRequest& indptr, int64_t requests, int64_t rows) {
  if (indptr.data == nullptr || indptr[0] != 0 || indptr[requests] > rows) return false;
  for (int64_t b = 0; b < requests; ++b) {
    if (indptr[b + 1] < indptr[b]) return false;
  }
  return true;
}

// 0, or -1 and a message where no kernel takes tensors of these shapes; kD, kDV, kOut: the last
// dimensions.
template <class Element, int kD, int kDV, int kOut>
[[gnu::cold]] int check_shapes(const Call& call, char* error) {
  if (call.version != kCallVersion) {
    return fail(error, "the kernel was built for calls of version %d, got %d", kCallVersion,
                call.version);
  }
  const Tensor* tensors[] = {&call.q, &call.k, &call.v, &call.out};
  const char* names[] = {"q", "k", "v", "out"};
  const int widths[] = {kD, kD, kDV, kOut};
  const bool writes = call.out.rank != 0;  // a call that only counts tiles has no out
  for (int i = 0; i < (writes ? 4 : 3); ++i) {
    const Tensor& t = *tensors[i];
    if (t.rank != 4) return fail(error, "%s has rank %d, expected 4", names[i], t.rank);
    const bool wide = &t == &call.out && t.dtype == DType::f32;
    const bool paged = call.packed != nullptr && (&t == &call.k || &t == &call.v) &&
                       call.packed->is_paged() && is_page_dtype(t.dtype);
    if (t.dtype != dtype_of<Element>() && !wide && !paged)
      return fail(error, "%s is not of the kernel's dtype", names[i]);
    if (t.size[3] != widths[i]) {
      return fail(error, "%s has a last dimension of %" PRId64 ", the kernel was built for %d",
                  names[i], t.size[3], widths[i]);
    }
  }
  const int64_t batch = call.q.size[0], heads = call.q.size[1], queries = call.q.size[2];
  const int64_t kv_heads = call.k.size[1], keys = call.k.size[2];
  bool paged = false;
  if (const Packed* packed = call.packed; packed != nullptr) {
    paged = packed->is_paged();
    if (batch != 1) return fail(error, "q of a packed call is not [1, HQ, sum Q, D]");
    if (paged && call.kv_lens.data == nullptr) return fail(error, "a paged call has no kv_lens");
  }
  const int64_t kv_batch = paged ? call.k.size[0] : batch;
  if (call.k.size[0] != kv_batch || !same_shape(call.v, kv_batch, kv_heads, keys)) {
    return fail(error, "q, k and v do not agree on batch, key/value heads or keys");
  }
  if (writes && !same_shape(call.out, batch, heads, queries)) {
    return fail(error, "out does not have the batch, heads and queries of q");
  }
  if (heads != 0 && (kv_heads == 0 || heads % kv_heads != 0)) {
    return fail(error, "%" PRId64 " query heads are no multiple of %" PRId64 " key/value heads",
                heads, kv_heads);
  }
  if (call.lse.data != nullptr && (call.lse.rank != 3 || call.lse.dtype != DType::f32 ||
                                   !same_shape(call.lse, batch, heads, queries))) {
    return fail(error, "lse is not float32 [B, HQ, Q]");
  }
  const Tensor& max = call.max;
  if (max.data != nullptr && (max.rank != 2 || max.dtype != DType::f32 ||
                              max.size[0] != requests_of(call) || max.size[1] != heads)) {
    return fail(error, "max is not float32 [B, HQ]");
  }
  if (queries > kPositionLimit || keys > kPositionLimit) {
    return fail(error, "lengths above 2^30: %" PRId64 " queries, %" PRId64 " keys", queries, keys);
  }
  return 0;
}

// The same of a packed call's offsets, where the host can read them.
[[gnu::cold]] inline int check_offsets(const Call& call, char* error) {
  const Packed* packed = call.packed;
  if (packed == nullptr) return 0;
  const bool fits =
      are_offsets(packed->q_indptr, packed->requests, call.q.size[2]) &&
      (packed->is_paged() || are_offsets(packed->kv_indptr, packed->requests, call.k.size[2]));
  return fits ? 0 : fail(error, "q_indptr or kv_indptr does not go from 0 up within the rows");
}

}  // namespace attnlang
