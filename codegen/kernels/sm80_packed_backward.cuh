// The gradients of packed calls with mma.sync: the blocks of dense ones, of many requests at once.
//
// What a request makes of the call (tensors that begin at its rows, its parameters) is worked out
// once by a kernel that runs first, and lies in the workspace. Every block after it finds its
// request, and works as it would of a call of that request alone, number and batch aside.
#pragma once

#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/host/call.h"
#include "attnlang/host/gradients.h"
#include "kernels/cuda_attention.cuh"
#include "kernels/cuda_gradient_rows.cuh"
#include "kernels/cuda_gradient_sums.cuh"
#include "kernels/cuda_packed_lines.cuh"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_requests.cuh"
#include "kernels/cuda_transforms.cuh"
#include "kernels/sm80_backward_sides.cuh"
#include "kernels/sm80_backward_work.cuh"

namespace attnlang::cuda {

template <class Variant, class Element>
struct RequestGradients {
  RequestRows rows;
  typename Variant::Params params;
  RowPass<Variant, Element> pass;
  BackwardWork<Variant, Element> work;
};

template <class Variant, class Element>
struct PackedGradients {
  Requests requests;
  RequestGradients<Variant, Element>* each;
};

// Where a tensor's gradient has rows of each request, those of one.
template <int kRank>
ATTNLANG_DEVICE void take_rows(SumView<kRank>& sums, int axis, const RowSpan& rows) {
  if (!sums.wanted()) return;
  const int64_t begin = least<int64_t>(rows.begin, sums.size[axis]);
  sums.result += begin * sums.stride[axis];
  if (sums.exact != nullptr) sums.exact += begin * sums.stride[axis] * kExactWords;
  sums.size[axis] = least<int64_t>(rows.count, sums.size[axis] - begin);
}

// The blocks of rows of a request, numbered as its tiles are.
ATTNLANG_DEVICE RowSpan anchored(const RequestRows& rows) {
  const RowSpan& own = rows.queries;
  return {.begin = (own.begin / kAnchorRows + rows.b) * kAnchorRows, .count = own.count};
}

template <class Variant, class Element>
ATTNLANG_DEVICE void take_request(RowPass<Variant, Element>& pass, const RequestRows& rows) {
  const RowSpan blocks = anchored(rows);
  Variant::request_rows(pass.arguments, rows);
  Variant::request_sums(pass.sums, rows);
  take_rows<Variant>(pass.problem, rows);
  pass.out.take(rows.queries.begin);
  pass.out_grad.take(rows.queries.begin);
  for (Scalars* each : {&pass.lse, &pass.lse_grad}) {
    if (each->data != nullptr) each->data += rows.queries.begin * each->stride[2];
    each->stride[0] = 0;
  }
  pass.terms.take(blocks.begin);
  take_rows(pass.grads, rows.queries);
  take_rows(pass.rests, blocks);
}

template <class Variant, class Element>
ATTNLANG_DEVICE void take_request(BackwardWork<Variant, Element>& work, const RequestRows& rows) {
  const RowSpan blocks = anchored(rows);
  Variant::request_rows(work.arguments, rows);
  Variant::request_sums(work.sums, rows);
  take_rows<Variant>(work.problem, rows);
  work.terms.take(blocks.begin);
  take_rows(work.out_grad, rows.queries);
  take_rows(work.rests, blocks);
  take_rows(work.q, rows.queries);
  take_rows(work.k, rows.keys);
  take_rows(work.v, rows.keys);
}

// A thread a request.
template <class Variant, class Element>
__global__ void __launch_bounds__(kWarp)
    part_requests_kernel(const __grid_constant__ PackedGradients<Variant, Element> packed,
                         const __grid_constant__ RowPass<Variant, Element> pass,
                         const __grid_constant__ BackwardWork<Variant, Element> work) {
  const int b = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (b >= packed.requests.count()) return;
  auto& own = packed.each[b];
  own.rows = rows_of<Variant>(packed.requests, work.arguments, b);
  own.pass = pass;
  own.work = work;
  take_request(own.pass, own.rows);
  take_request(own.work, own.rows);
  own.params = Variant::params(own.work.arguments);
}

// A warp a row of the blocks of a head.
template <class Variant, class Element, int kDV>
__global__ void __launch_bounds__(kRowWarps* kWarp)
    packed_row_terms_kernel(const __grid_constant__ PackedGradients<Variant, Element> packed,
                            int blocks) {
  constexpr int kEach = kAnchorRows / kRowWarps;
  const int number = static_cast<int>(blockIdx.x) / kEach;
  const int h = number / blocks;
  const auto place = packed.requests.query_tile(number % blocks, kAnchorRows);
  if (place.b < 0) return;
  const auto& own = packed.each[place.b];
  if (place.row >= own.rows.queries.count) return;
  const int row = static_cast<int>(blockIdx.x) % kEach * kRowWarps + warp_index();
  find_row_terms<Variant, Element, kDV>(own.pass, place.b, h, place.row + row);
}

// Blocks are numbered by tiles and heads, in the order of dense calls. Of queries, launches that
// follow each other have a head each: `heads` of them from `first` on.
template <class Kernel, class Variant, class Element>
__global__ void __launch_bounds__(Kernel::kThreads, 1)
    sm80_packed_backward_kernel(const __grid_constant__ PackedGradients<Variant, Element> packed,
                                int tiles, int first, int heads) {
  const int index = static_cast<int>(blockIdx.x), tile = index / heads;
  const auto place = Kernel::kOfKeys ? packed.requests.key_tile(tile, Kernel::kRows)
                                     : packed.requests.query_tile(tiles - 1 - tile, Kernel::kRows);
  if (place.b < 0) return;
  const auto& own = packed.each[place.b];
  if (place.row >= (Kernel::kOfKeys ? own.rows.keys : own.rows.queries).count) return;
  Kernel::run(own.work, own.params,
              {.b = place.b, .head = first + index % heads, .row0 = place.row});
}

// As Sm80Sides, for packed calls.
template <class Variant, class Element, int kD, int kDV, class Tiles>
class Sm80PackedSides {
  using Sides = Sm80Sides<Variant, Element, kD, kDV, Tiles>;
  using Sums = GradientSums<Variant>;
  using Packed = PackedGradients<Variant, Element>;
  using Own = RequestGradients<Variant, Element>;

 public:
  static constexpr bool kPacked = true;
  using Pass = RowPass<Variant, Element>;
  using Work = BackwardWork<Variant, Element>;

  static const char* run(const Call& call, const Gradients& gradients, Workspace& workspace,
                         const Pass* pass, const Work* work, bool sums) {
    const int64_t requests = call.packed->requests;
    Packed packed{.requests = Requests(call),
                  .each = static_cast<Own*>(workspace.take(requests * int64_t{sizeof(Own)}))};
    if (work == nullptr) return nullptr;
    const char* wrong = clear(call, gradients);
    if (wrong == nullptr) wrong = start_packed_lines<Variant>(call, pass->problem);
    if (wrong != nullptr || requests == 0 || call.k.size[1] == 0) return wrong;
    const dim3 grid(static_cast<unsigned>((requests + kWarp - 1) / kWarp));
    wrong = launch(part_requests_kernel<Variant, Element>, grid, kWarp, 0, call.stream, packed,
                   *pass, *work);
    if (wrong == nullptr) wrong = find_terms(call, packed, pass->terms);
    if (wrong != nullptr) return wrong;
    if constexpr (Variant::Partials::kOfElements) {
      if (sums) return run<true>(call, gradients, packed);
    }
    return run<false>(call, gradients, packed);
  }

 private:
  // Rows that no request has get zeros too.
  static const char* clear(const Call& call, const Gradients& gradients) {
    const char* wrong = nullptr;
    for (const Tensor* t : {&gradients.q, &gradients.k, &gradients.v}) {
      const int64_t bytes = t->size[1] * t->size[2] * t->size[3] * int64_t{sizeof(Element)};
      if (wrong == nullptr && bytes > 0) {
        wrong = fill_bytes(t->data, 0, static_cast<size_t>(bytes), call.stream);
      }
    }
    return wrong;
  }

  static const char* find_terms(const Call& call, const Packed& packed, const RowTerms& terms) {
    const int64_t rows = call.q.size[1] * terms.head;
    if (rows == 0) return nullptr;
    return launch(packed_row_terms_kernel<Variant, Element, kDV>,
                  dim3(static_cast<unsigned>(rows / kRowWarps)), kRowWarps * kWarp, 0, call.stream,
                  packed, static_cast<int>(terms.head / kAnchorRows));
  }

  template <bool kSums>
  static const char* run(const Call& call, const Gradients& gradients, const Packed& packed) {
    using Queries = typename Sides::template Kernel<Side::queries, kSums>;
    using Keys = typename Sides::template Kernel<Side::keys, kSums>;
    const auto heads = static_cast<int>(call.q.size[1]);
    const int each = kSums && Sums::apart(gradients, false) ? 1 : heads;
    const char* wrong = nullptr;
    for (int h = 0; h < heads && wrong == nullptr; h += each) {
      wrong = start<Queries>(call, packed, packed.requests.query_tiles(Queries::kRows), h, each);
    }
    if (wrong != nullptr) return wrong;
    return start<Keys>(call, packed, packed.requests.key_tiles(Keys::kRows), 0,
                       static_cast<int>(call.k.size[1]));
  }

  template <class Kernel>
  static const char* start(const Call& call, const Packed& packed, int64_t tiles, int first,
                           int heads) {
    if (tiles * heads == 0) return nullptr;
    return launch(sm80_packed_backward_kernel<Kernel, Variant, Element>,
                  dim3(static_cast<unsigned>(tiles * heads)), Kernel::kThreads,
                  Kernel::kSharedBytes, call.stream, packed, static_cast<int>(tiles), first, heads);
  }
};

}  // namespace attnlang::cuda
