// One attention call as kernels receive it: plain data, no torch. The op binding fills it from a
// torch call; tests and other hosts fill it by hand. Strides count elements.
#pragma once

#include <cstdint>

#include "attnlang/host/target.h"

namespace attnlang {

// The last two are dtypes of pages alone: torch's float8_e4m3fn, which has no infinity, and
// float8_e5m2.
enum class DType : int32_t {
  f32,
  f64,
  f16,
  bf16,
  i8,
  i16,
  i32,
  i64,
  u8,
  boolean,
  f8e4m3,
  f8e5m2,
};

constexpr bool is_page_dtype(DType dtype) {
  return dtype == DType::f8e4m3 || dtype == DType::f8e5m2;
}

// Bytes of an element.
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

constexpr int kMaxRank = 8;

struct Tensor {
  void* data;  // null: not passed
  DType dtype;
  int32_t rank;
  int64_t size[kMaxRank];
  int64_t stride[kMaxRank];
};

// The value of a 0-d parameter; the declared kind says which member holds it (bool: integer).
union Number {
  double real;
  int64_t integer;
};

// A 0-d parameter that lies in the memory of a GPU, where its kernels read it.
struct DeviceScalar {
  const void* data;  // null: the number is known to the host
  DType dtype;
};

// One integer a request: a tensor int[B] (i32 or i64), or one value for all.
struct PerRequest {
  const void* data;  // null: `value` for every request
  DType dtype;
  int64_t stride;
  int64_t value;

  ATTNLANG_HD int64_t operator[](int64_t b) const {
    if (data == nullptr) return value;
    return dtype == DType::i32 ? static_cast<const int32_t*>(data)[b * stride]
                               : static_cast<const int64_t*>(data)[b * stride];
  }
};

// Where a tensor parameter of a packed call has what belongs to a request. It stands in the call
// with the rank that the spec declares: the stride of its axis `B` is 0, and its axis `Q` or `KV`
// holds the rows of all requests, those of request b from `q_indptr[b]` or `kv_indptr[b]` on. A
// paged one has the slots of a page along that axis, and one page after another by `page_stride`.
struct PackedAxis {
  enum Rows : int32_t { shared, queries, keys, pages };
  Rows rows;     // shared: the tensor is the same for all requests
  int32_t axis;  // of the rows
  int64_t page_stride;
};

// What the work items of a packed call cost: in each, the key tiles that the mask does not hide. A
// GPU's kernels make the schedule of them too: `data` is its memory there, of `items` numbers.
struct Costs {
  int32_t* data;     // of the items, in order; room for `capacity`
  int64_t capacity;  // where it is too little, none is written
  int64_t items;     // how many there are, which the kernel says
};

struct Chunk;  // of `balance.h`

// The requests of a packed call, whose rows lie one after another. Plain data, for GPU kernels too.
struct Packed {
  int64_t requests;         // B
  PerRequest q_indptr;      // [B + 1]: request b has the query rows [q_indptr[b], q_indptr[b + 1])
  PerRequest kv_indptr;     // [B + 1]: the same of k and v, and of tensors with keys for rows
  PerRequest page_indptr;   // [B + 1]: of page_indices; data null: k and v are not paged
  PerRequest page_indices;  // column j of request b is the slot j % page of the page with the
                            // number page_indices[page_indptr[b] + j / page]
  int64_t page_index_count;
  int64_t page_size;
  int64_t part;               // of a call over one of several sets of keys
  Tensor k_scale, v_scale;    // f32 [HKV]: keys and values are what is stored times that; null: 1
  const PackedAxis* tensors;  // of the tensor parameters, in declared order
  int32_t tensor_count;
  Costs* costs;         // to be told instead of attending; null: attend
  const Chunk* chunks;  // who does what, in the order in which it begins; null: the kernel decides.
                        // A GPU's: the schedule that its kernels made, of `chunk_count` numbers
  int64_t chunk_count;
  int64_t split_tokens;  // keys of a piece, of which a GPU's schedule is made; 0: as the load says

  ATTNLANG_HD bool is_paged() const { return page_indices.data != nullptr; }
};

constexpr int32_t kCallVersion = 7;

// The tensors of a packed call have a first axis of size 1 and stride 0, and the rows of all
// requests one after another in place of those of one: q [1, HQ, sum Q, D],
// k [1, HKV, sum KV, D]. Paged, k is [pages, HKV, page, D], of a dtype of pages or q's, and
// `kv_lens` says how many columns a request has. max is [B, HQ]. `b` is the request's number.
struct Call {
  int32_t version;           // kCallVersion of whoever filled it
  int32_t default_q_offset;  // 1: q_offset[b] = kv_offset[b] + KV_b - Q, `q_offset` is not read
  Tensor q;                  // [B, HQ, Q, D]
  Tensor k;                  // [B, HKV, KV, D]
  Tensor v;                  // [B, HKV, KV, DV]
  Tensor out;                // [B, HQ, Q, DV]
  Tensor lse;                // [B, HQ, Q] f32, base e; data null: not wanted
  Tensor max;                // [B, HQ] f32, the largest score; data null: not wanted
  double scale;              // the call's scale, or 1 / sqrt(D)
  PerRequest q_offset;
  PerRequest kv_offset;
  PerRequest kv_lens;  // KV_b; `value` is KV where the call passed none. Kernels clamp to [0, KV]
  uint64_t seed;       // of dropout
  Tensor
      kv_indices;    // [B, HKV, Q, K] i32, i64: blocks of columns a row may see, -1 pads; null: all
  int64_t kv_block;  // columns of a block, at least 1
  const Number* scalars;  // the run-time 0-d parameters, in declared order
  const Tensor*
      tensors;  // the tensor parameters, in declared order; absent optional ones: data null
  const int64_t* sizes;  // the sizes bound by tensors, in the order of Variant.sizes
  const Packed* packed;  // null: every request has the same number of rows, as the tensors say

  // Of GPU kernels alone.
  const DeviceScalar* device_scalars;  // beside `scalars`; null: all of them are numbers
  DeviceScalar device_scale;
  DeviceScalar device_seed;
  void* stream;     // a cudaStream_t
  void* workspace;  // `workspace_bytes` of the GPU's memory, 256-byte aligned
  int64_t workspace_bytes;
  const void* lines;  // in the workspace: what the unit itself keeps of its lines there
};

ATTNLANG_HD inline int64_t part_of(const Call& call) {
  return call.packed != nullptr ? call.packed->part : 0;
}
ATTNLANG_HD inline int64_t requests_of(const Call& call) {
  return call.packed != nullptr ? call.packed->requests : call.q.size[0];
}

// How many tiles a call visits, over all (b, h) and query tiles.
struct TileCounts {
  int64_t full;
  int64_t partial;
  int64_t empty;
  int64_t query_tile;  // rows and keys of a tile
  int64_t key_tile;
};

// What a kernel unit exports with C linkage; both return 0, or -1 and a message in `error`
// (capacity `kErrorSize`, always terminated).
constexpr int kErrorSize = 512;
using KernelFunction = int (*)(const Call* call, char* error);
using CountFunction = int (*)(const Call* call, TileCounts* counts, char* error);
// Of a GPU unit: the bytes that a call needs as its workspace; its shapes, strides and alignment
// say how many.
using WorkspaceFunction = int64_t (*)(const Call* call);

}  // namespace attnlang
