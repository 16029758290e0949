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
#include "kernels/cuda_packed_lines.cuh"
#include "kernels/cuda_packed_work.cuh"
#include "kernels/cuda_requests.cuh"
#include "kernels/cuda_transforms.cuh"

namespace attnlang::cuda {

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

constexpr Sm80Shape with_pages(Sm80Shape shape) {
  shape.paged = true;
  return shape;
}

// What the products read of pages that hold PageElement; keys that are read apart from them too are
// brought together before.
template <class Variant, class Element, class PageElement>
using Held = std::conditional_t<Variant::kLoadsKeys, Element, PageElement>;

// `OfMany`: how items of many rows are launched, as `PackedLaunch`; kLargeShared: as `Decode` has
// it; PageElement: what pages hold, Element or 8-bit floats.
template <class Variant, class Element, int kD, int kDV, class OfMany, bool kLargeShared,
          class PageElement>
class PackedAttention {
  using Rows = Held<Variant, Element, PageElement>;
  using Few = Sm80Forward<Variant, Element, kD, kDV,
                          with_pages(decode_shape<kD, kDV>(kLargeShared, 2, sizeof(Rows))), Rows>;
  using Launch = PackedWork<Variant, Element>;
  using FewItems = FewRows<Few::kRows>;
  using OfFew = PackedLaunch<Few, FewItems, Variant, Element>;
  static constexpr int64_t kScheduledBytes = 256 << 20;  // of keys and values
  static constexpr Parts kWhole{.count = 1, .done = nullptr, .states = nullptr};

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
    const bool asks = call.packed->costs != nullptr;
    if (asks) {
      call.packed->costs->items = schedule_ints(call);
      if (call.packed->costs->data == nullptr) return 0;
    }
    const int64_t needed = workspace(call);
    if (call.workspace_bytes < needed) {
      return fail(error, "a workspace of %" PRId64 " bytes is needed, got %" PRId64, needed,
                  call.workspace_bytes);
    }
    Workspace pieces(call.workspace);
    const char* wrong = asks ? nullptr : start_max(problem_of(call), call.stream);
    if (wrong == nullptr && !is_empty(call)) wrong = enqueue(call, pieces, true);
    return wrong == nullptr ? 0 : fail(error, "%s", wrong);
  }

 private:
  // What the kernels of packed calls do not take.
  static int check_packed(const Call& call, char* error) {
    const Packed& packed = *call.packed;
    const auto place = reinterpret_cast<uintptr_t>(packed.chunks);
    if (packed.chunks != nullptr &&
        (packed.chunk_count != schedule_ints(call) || place % alignof(int64_t) != 0)) {
      return fail(error, "the schedule was made for other shapes");
    }
    const bool narrow = call.k.dtype == DType::f8e4m3 || call.k.dtype == DType::f8e5m2;
    if (narrow ? call.k.dtype != dtype_of<PageElement>() : kIsNarrow<PageElement>) {
      return fail(error, "the kernel was built for pages of another dtype");
    }
    if (!Variant::kValueFromKey && call.v.dtype != call.k.dtype) {
      return fail(error, "v has another dtype than k");
    }
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
    if (call.packed->costs != nullptr) {
      return wrong != nullptr || !runs ? wrong : make_schedule(call, problem);
    }
    if (wrong == nullptr) {
      wrong = transform<Variant, Element, kD, kDV>(call, workspace, runs ? &problem : nullptr,
                                                   PackedPasses<Variant, Element, kD, kDV>{});
    }
    if (wrong != nullptr) return wrong;
    const int64_t few = FewItems::items(call, unit_of(call));
    const int64_t many = OfMany::items(call);
    if (call.packed->chunks != nullptr && call.packed->split_tokens != 0) {
      // Items of many rows are whole, whatever else is in the step: nothing is cut there.
      const Fixed fixed = fixed_of(call, few);
      void* states = workspace.take(OfFew::state_bytes(few, fixed));
      void* queue = workspace.take(OfMany::kQueueBytes);
      if (!runs) return nullptr;
      const Launch work = work_of(call, problem, kWhole);
      wrong = OfFew::scheduled(call, work, few, schedule_of(call), states, fixed);
      return wrong != nullptr ? wrong : OfMany::even(call, work, many, queue);
    }
    if (call.packed->chunks != nullptr) {
      void* states = workspace.take(std::max(OfFew::state_bytes(few), OfMany::state_bytes(many)));
      if (!runs) return nullptr;
      const Launch work = work_of(call, problem, kWhole);
      int32_t* schedule = schedule_of(call);
      wrong = OfFew::scheduled(call, work, few, schedule, states);
      if (wrong != nullptr) return wrong;
      return OfMany::scheduled(call, work, many, schedule + OfFew::ints(few), states);
    }
    if (makes_schedule(call)) {
      void* made = workspace.take(OfFew::ints(few) * sizeof(int32_t));
      void* states = workspace.take(OfFew::state_bytes(few));
      if (runs) {
        const Launch work = work_of(call, problem, kWhole);
        auto* schedule = static_cast<int32_t*>(made);
        wrong = OfFew::make_schedule(work, few, schedule, call.stream);
        if (wrong == nullptr) wrong = OfFew::scheduled(call, work, few, schedule, states);
      }
    } else {
      const Parts parts = take_parts<kDV>(workspace, few, Few::kRows, parts_of_few(call));
      if (runs) wrong = OfFew::even(call, work_of(call, problem, parts), few, nullptr);
    }
    void* queue = workspace.take(OfMany::kQueueBytes);
    if (!runs || wrong != nullptr) return wrong;
    return OfMany::even(call, work_of(call, problem, kWhole), many, queue);
  }

  static const char* make_schedule(const Call& call, const Problem<Element>& problem) {
    const int64_t few = FewItems::items(call, unit_of(call));
    int32_t* schedule = call.packed->costs->data;
    const Launch work = work_of(call, problem, kWhole);
    const Fixed fixed = fixed_of(call, few);
    const char* wrong = OfFew::make_schedule(work, few, schedule, call.stream, fixed);
    if (wrong != nullptr || fixed.split != 0) return wrong;
    const int64_t many = OfMany::items(call);
    return OfMany::make_schedule(work, many, schedule + OfFew::ints(few), call.stream);
  }
  static int64_t schedule_ints(const Call& call) {
    if (is_empty(call)) return 0;
    const int64_t few = OfFew::ints(FewItems::items(call, unit_of(call)));
    return call.packed->split_tokens != 0 ? few : few + OfMany::ints(OfMany::items(call));
  }
  // Pieces of the tokens that were asked for, and as many states as requests of any lengths have.
  static Fixed fixed_of(const Call& call, int64_t items) {
    const int64_t tokens = call.packed->split_tokens, tile = Few::kKeyTile;
    if (tokens == 0) return {};
    const int64_t split = std::clamp<int64_t>(tokens / tile, 1, kPositionLimit);
    const int64_t requests = call.packed->requests;
    const int64_t tiles = items / requests * (key_rows(call) / tile + requests);
    return {.split = static_cast<int32_t>(split),
            .states = static_cast<int32_t>(std::min<int64_t>(
                (tiles + items * Few::kStartTiles) / split + items + 1, INT32_MAX))};
  }
  static int32_t* schedule_of(const Call& call) {
    return static_cast<int32_t*>(const_cast<void*>(static_cast<const void*>(call.packed->chunks)));
  }

  // Heads that share an item's rows, where these are few.
  static int64_t unit_of(const Call& call) {
    return kSharesRows<Variant> ? call.q.size[1] / call.k.size[1] : 1;
  }
  static Launch work_of(const Call& call, const Problem<Element>& problem, const Parts& parts) {
    const int64_t unit = unit_of(call);
    const int64_t rows = std::min<int64_t>(call.q.size[2], kDecodeQueries);
    return {.all = {.problem = problem,
                    .arguments = Variant::arguments(call),
                    .order = {},
                    .unit = static_cast<int32_t>(unit),
                    .chunks = static_cast<int32_t>(FewItems::chunks(unit * rows)),
                    .parts = parts,
                    .selection = {}},
            .requests = Requests(call)};
  }

  // Without a plan nobody on the host knows requests' lengths: where few rows read many keys, the
  // GPU makes a schedule for this call alone.
  static bool makes_schedule(const Call& call) {
    const int64_t requests = call.packed->requests;
    const int64_t entry = kIsNarrow<Rows> ? 1 : sizeof(Element);
    const int64_t bytes = key_rows(call) * call.k.size[1] * (kD + kDV) * entry;
    const bool few = call.q.size[2] <= requests * kDecodeQueries;
    return few && requests > 1 && bytes >= kScheduledBytes;
  }
  // As many parts as suit requests of the average lengths. Where the average is a prompt's, those
  // of few rows are taken to have one.
  static int parts_of_few(const Call& call) {
    const int64_t requests = call.packed->requests, unit = unit_of(call);
    const int64_t mean = (call.q.size[2] + requests - 1) / requests;
    const int64_t rows = mean > kDecodeQueries ? 1 : mean;
    const int64_t busy = requests * (call.q.size[1] / unit) * FewItems::chunks(unit * rows);
    return parts_of(busy, key_rows(call) / requests / kLeastOfFew, OfFew::kAtOnce);
  }
};

}  // namespace attnlang::cuda
