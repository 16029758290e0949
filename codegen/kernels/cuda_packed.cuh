// Packed calls: requests of any lengths, whose rows lie one after another, in one launch for many
// query rows and one for few.
//
// A block finds its request and makes of the call that of the request alone: tensors begin at its
// rows, strides that would count requests are 0, `b` is its number. The skeletons of dense calls
// then run it as it is.
#pragma once

#include <algorithm>
#include <cinttypes>
#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/host/call.h"
#include "kernels/cuda_attention.cuh"
#include "kernels/cuda_brought.cuh"
#include "kernels/cuda_decode.cuh"
#include "kernels/cuda_items.cuh"
#include "kernels/cuda_packed_lines.cuh"
#include "kernels/cuda_requests.cuh"
#include "kernels/cuda_transforms.cuh"
#include "kernels/sm80_attention.cuh"

namespace attnlang::cuda {

template <class Variant, class Element>
struct PackedWork {
  Work<Variant, Element> all;  // `unit` heads share an item's rows, `chunks` items a unit
  Requests requests;
};

template <class Variant, class Element>
ATTNLANG_DEVICE Work<Variant, Element> of_request(Work<Variant, Element> work,
                                                  const RequestRows& rows) {
  Variant::request_rows(work.arguments, rows);
  take_rows<Variant>(work.problem, rows);
  return work;
}

// What a block makes of the call for its request lies in shared memory, behind what the skeleton
// has there: in registers it would stand beside the accumulators.
template <class Variant, class Element>
struct RequestWork {
  Work<Variant, Element> work;
  typename Variant::Params params;
};
template <class Kernel, class Variant, class Element>
constexpr int kPackedSharedBytes =
    (Kernel::kSharedBytes + 15) / 16 * 16 + static_cast<int>(sizeof(RequestWork<Variant, Element>));

// All threads of a block call it.
template <class Kernel, class Variant, class Element>
ATTNLANG_DEVICE void run_request(const Work<Variant, Element>& all, const RequestRows& rows,
                                 const Item& item) {
  auto& own = *reinterpret_cast<RequestWork<Variant, Element>*>(
      dynamic_shared<char>() + (Kernel::kSharedBytes + 15) / 16 * 16);
  if (threadIdx.x == 0) {
    own.work = of_request(all, rows);
    own.params = Variant::params(own.work.arguments);
  }
  __syncthreads();
  Kernel::run(own.work, own.params, item);
}

// A tile of query rows of one head; late tiles, which a causal mask lets see most, come first.
template <class Kernel, class Variant, class Element>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocks)
    packed_rows_kernel(const __grid_constant__ PackedWork<Variant, Element> work) {
  const int heads = work.all.problem.heads, index = static_cast<int>(blockIdx.x);
  const int last = static_cast<int>(gridDim.x) / heads - 1;
  const auto place = work.requests.query_tile(last - index / heads, Kernel::kRows);
  if (place.b < 0) return;
  const RequestRows rows = rows_of<Variant>(work.requests, work.all.arguments, place.b);
  const int left = rows.queries.count - place.row;
  if (rows.queries.count <= kDecodeQueries || left <= 0) return;
  Item item{};
  item.b = place.b;
  item.head = index % heads;
  item.h_kv = item.head / work.all.problem.group();
  item.row0 = place.row;
  item.rows = left < Kernel::kRows ? left : Kernel::kRows;
  item.step = 1;
  item.queries = rows.queries.count;
  run_request<Kernel>(work.all, rows, item);
}

// The few rows of a unit of heads.
template <class Kernel, class Variant, class Element>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocks)
    packed_decode_kernel(const __grid_constant__ PackedWork<Variant, Element> work) {
  const int chunks = work.all.chunks, index = static_cast<int>(blockIdx.x) / chunks;
  const int units = work.all.problem.heads / work.all.unit, b = index / units;
  const RequestRows rows = rows_of<Variant>(work.requests, work.all.arguments, b);
  Item item{};
  item.b = b;
  item.head = index % units * work.all.unit;
  item.h_kv = item.head / work.all.problem.group();
  item.row0 = static_cast<int>(blockIdx.x) % chunks * Kernel::kRows;
  item.step = 1;
  item.queries = rows.queries.count;
  if (item.queries > kDecodeQueries) return;
  const int left = item.queries * work.all.unit - item.row0;
  if (left <= 0) return;
  item.rows = left < Kernel::kRows ? left : Kernel::kRows;
  run_request<Kernel>(work.all, rows, item);
}

template <class Variant, class Element, int kD, int kDV>
struct PackedPass {
  Passed<Variant, Element, kD, kDV> all;
  Requests requests;
};

template <class Variant, class Element, int kD, int kDV>
ATTNLANG_DEVICE Passed<Variant, Element, kD, kDV> of_request(Passed<Variant, Element, kD, kDV> pass,
                                                             const RequestRows& rows) {
  Variant::request_rows(pass.arguments, rows);
  take_rows<Variant>(pass.problem, rows);
  take_rows(pass.q, rows.queries);
  if (pass.problem.pages.size == 0) {
    take_rows(pass.k, rows.keys);
    take_rows(pass.v, rows.keys);
  }
  take_rows(pass.new_q, rows.queries);
  take_rows(pass.new_k, rows.keys);
  take_rows(pass.new_v, rows.keys);
  return pass;
}

template <class Variant, class Element, int kD, int kDV>
__global__ void __launch_bounds__(kTransformWarps* kWarp)
    transform_packed_queries(const __grid_constant__ PackedPass<Variant, Element, kD, kDV> work) {
  const int64_t index = int64_t{blockIdx.x} * kTransformWarps + warp_index();
  const Problem<Element>& problem = work.all.problem;
  if (index >= int64_t{problem.heads} * problem.queries) return;
  const auto place = work.requests.query(static_cast<int>(index % problem.queries));
  if (place.b < 0) return;
  const RequestRows rows = rows_of<Variant>(work.requests, work.all.arguments, place.b);
  if (place.row >= rows.queries.count) return;
  const auto pass = of_request(work.all, rows);
  transform_query(pass, place.b, static_cast<int>(index / problem.queries), place.row);
}

template <class Variant, class Element, int kD, int kDV>
__global__ void __launch_bounds__(kTransformWarps* kWarp)
    transform_packed_keys(const __grid_constant__ PackedPass<Variant, Element, kD, kDV> work) {
  const int kv_heads = work.all.problem.kv_heads, index = static_cast<int>(blockIdx.x);
  const auto place = work.requests.key_tile(index / kv_heads, kTransformTile);
  if (place.b < 0) return;
  const RequestRows rows = rows_of<Variant>(work.requests, work.all.arguments, place.b);
  if (rows.queries.count == 0) return;
  const auto pass = of_request(work.all, rows);
  const auto load = [&]<bool kKeys, int kWidth>(float* row, int b, int h, int i, int lane) {
    const Pages& pages = pass.problem.pages;
    const VectorRows<const Element>& vectors = kKeys ? pass.k : pass.v;
    const Stored& stored = kKeys ? pages.keys : pages.values;
    if (pages.size != 0 && stored.converted) {
      load_converted<Element, kWidth>(row, pages.stored_row(vectors, stored, h, i),
                                      vectors.stride[3], stored, stored.scale(h), lane);
      return;
    }
    const Element* from = pages.size == 0 ? vectors.row(b, h, i) : pages.row(vectors, h, i);
    load_floats<kWidth>(row, from, vectors.stride[3], lane);
  };
  transform_tile(pass, place.b, index % kv_heads, place.row, load);
}

template <class Variant, class Element, int kD, int kDV>
struct PackedPasses {
  using Pass = Passed<Variant, Element, kD, kDV>;

  static const char* queries(const Call& call, const Pass& pass) {
    const int64_t rows = call.q.size[1] * call.q.size[2];
    return start(call, transform_packed_queries<Variant, Element, kD, kDV>, pass,
                 (rows + kTransformWarps - 1) / kTransformWarps);
  }
  static const char* keys(const Call& call, const Pass& pass) {
    return start(call, transform_packed_keys<Variant, Element, kD, kDV>, pass,
                 call.k.size[1] * Requests(call).key_tiles(kTransformTile));
  }

 private:
  template <class Kernel>
  static const char* start(const Call& call, Kernel kernel, const Pass& pass, int64_t blocks) {
    if (blocks == 0) return nullptr;
    const PackedPass<Variant, Element, kD, kDV> work{.all = pass, .requests = Requests(call)};
    return launch(kernel, dim3(static_cast<unsigned>(blocks)), kTransformWarps * kWarp,
                  Pass::kSharedBytes, call.stream, work);
  }
};

template <class Variant, class Element, int kD, int kDV, class Tiles>
class PackedAttention {
  static constexpr Sm80Shape shape_of(Sm80Shape shape) {
    shape.paged = true;
    return shape;
  }
  using Many = Sm80Forward<Variant, Element, kD, kDV, shape_of(forward_shape<Tiles, kDV>())>;
  using Few = Sm80Forward<Variant, Element, kD, kDV, shape_of(decode_shape<kD, kDV>())>;
  using Launch = PackedWork<Variant, Element>;

 public:
  static int64_t workspace(const Call& call) {
    if (is_empty(call)) return 0;
    Workspace workspace(nullptr);
    enqueue(call, workspace, false);
    return workspace.used();
  }

  static int run(const Call& call, char* error) {
    error[0] = '\0';
    if (check_call<Variant, Element, kD, kDV>(call, error, true) != 0) return -1;
    if (call.packed->requests > INT32_MAX) return fail(error, "more than 2^31 requests");
    if (check_packed(call, error) != 0) return -1;
    const int64_t needed = workspace(call);
    if (call.workspace_bytes < needed) {
      return fail(error, "a workspace of %" PRId64 " bytes is needed, got %" PRId64, needed,
                  call.workspace_bytes);
    }
    Workspace pieces(call.workspace);
    const char* wrong = start_max(problem_of(call), call.stream);
    if (wrong == nullptr && !is_empty(call)) wrong = enqueue(call, pieces, true);
    return wrong == nullptr ? 0 : fail(error, "%s", wrong);
  }

 private:
  // What of packed calls the CPU alone runs.
  static int check_packed(const Call& call, char* error) {
    const Packed& packed = *call.packed;
    if (packed.costs != nullptr) return fail(error, "schedules are for the CPU alone");
    if (packed.is_paged() && key_rows(call) > kPositionLimit) {
      return fail(error, "more than 2^30 slots in pages");
    }
    return 0;
  }

  static bool is_empty(const Call& call) { return has_no_rows(call) || call.packed->requests == 0; }

  static Problem<Element> problem_of(const Call& call) {
    Problem<Element> problem = cuda::problem_of<Variant, Element>(call);
    problem.batch = static_cast<int32_t>(call.packed->requests);
    return problem;
  }

  // Takes the workspace's pieces in order and, if it `runs`, enqueues everything.
  static const char* enqueue(const Call& whole, Workspace& workspace, bool runs) {
    using Brought = BroughtCall<Variant, Element, kD, kDV>;
    Brought brought(whole, workspace);
    Call& call = brought.call();
    call.lines = workspace.take(line_bytes<Variant>(call));
    Problem<Element> problem = problem_of(call);
    if (brought.is_paged()) problem.pages = Brought::pages_of(call);
    const char* wrong = runs ? brought.start() : nullptr;
    if (wrong == nullptr && runs) wrong = start_packed_lines<Variant>(call, problem);
    if (wrong == nullptr) {
      wrong = transform<Variant, Element, kD, kDV>(call, workspace, runs ? &problem : nullptr,
                                                   PackedPasses<Variant, Element, kD, kDV>{});
    }
    if (wrong != nullptr) return wrong;
    const int64_t heads = call.q.size[1], requests = call.packed->requests;
    const int64_t unit = kSharesRows<Variant> ? heads / call.k.size[1] : 1;
    const int64_t units = requests * (heads / unit);
    const int64_t chunks = chunks_of(unit * std::min<int64_t>(call.q.size[2], kDecodeQueries));
    const int64_t items = units * chunks;
    // As many parts as suit requests of the average lengths: the host need not know each one's.
    const int64_t rows = (call.q.size[2] + requests - 1) / requests;
    const int64_t busy = units * chunks_of(unit * std::min<int64_t>(rows, kDecodeQueries));
    const int64_t key_tiles = (key_rows(call) / requests + Few::kKeyTile - 1) / Few::kKeyTile;
    const int count = parts_of(busy, key_tiles, int64_t{Few::kBlocks} * kProcessors);
    const Parts parts = take_parts<kDV>(workspace, items, Few::kRows, count);
    if (!runs) return nullptr;
    Launch work{.all = {.problem = problem,
                        .arguments = Variant::arguments(call),
                        .order = {},
                        .unit = static_cast<int32_t>(unit),
                        .chunks = static_cast<int32_t>(chunks),
                        .parts = parts,
                        .selection = {}},
                .requests = Requests(call)};
    wrong = start<Few>(packed_decode_kernel<Few, Variant, Element>, work, items, call.stream);
    if (wrong != nullptr || call.q.size[2] <= kDecodeQueries) return wrong;
    work.all.parts = {.count = 1, .done = nullptr, .states = nullptr};
    return start<Many>(packed_rows_kernel<Many, Variant, Element>, work,
                       work.requests.query_tiles(Many::kRows) * heads, call.stream);
  }

  static int64_t chunks_of(int64_t rows) { return (rows + Few::kRows - 1) / Few::kRows; }

  template <class Kernel, class Function>
  static const char* start(Function kernel, const Launch& work, int64_t items, void* stream) {
    if (items == 0) return nullptr;
    const Parts& parts = work.all.parts;
    if (parts.count > 1) {
      const char* wrong = fill_bytes(parts.done, 0, items * sizeof(int32_t), stream);
      if (wrong != nullptr) return wrong;
    }
    const dim3 grid(static_cast<unsigned>(items), static_cast<unsigned>(parts.count));
    return launch(kernel, grid, Kernel::kThreads, kPackedSharedBytes<Kernel, Variant, Element>,
                  stream, work);
  }
};

// Bytes that `packed_run` needs in the call's workspace.
template <class Variant, class Element, int kD, int kDV, class Tiles>
int64_t packed_workspace(const Call& call) {
  return PackedAttention<Variant, Element, kD, kDV, Tiles>::workspace(call);
}

// 0, or -1 and a message in `error` (kErrorSize).
template <class Variant, class Element, int kD, int kDV, class Tiles>
int packed_run(const Call& call, char* error) {
  return PackedAttention<Variant, Element, kD, kDV, Tiles>::run(call, error);
}

}  // namespace attnlang::cuda
