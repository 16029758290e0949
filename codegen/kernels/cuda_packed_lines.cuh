// Facts of lines for packed calls: lines over the rows of requests, one after another, each request
// in blocks of its own; others, which all requests share, as in dense calls.
#pragma once

#include <cstdint>
#include <type_traits>

#include "attnlang/device/launch.cuh"
#include "attnlang/host/call.h"
#include "attnlang/host/target.h"
#include "kernels/cuda_lines.cuh"
#include "kernels/cuda_problem.cuh"
#include "kernels/cuda_requests.cuh"

namespace attnlang::cuda {

// Of the blocks of all requests those of one: a request's blocks are numbered as its tiles are.
template <class T, Summary kSummary>
ATTNLANG_DEVICE void take_line(LineBlocks<T, kSummary>& line, const RowSpan& rows, int b) {
  if (line.facts != nullptr) {
    line.facts += (rows.begin / kLineBlock + b) * line.heads;
  }
  line.blocks = static_cast<int32_t>((rows.count + kLineBlock - 1) / kLineBlock);
  line.length = rows.count;
}

template <class Variant, class Element>
struct PackedLinePass {
  LinePass<Variant, Element> all;
  Requests requests;
};

// A warp a block of a head.
template <class Variant, class Element, class Line>
__global__ void __launch_bounds__(kLineWarps* kWarp)
    packed_line_kernel(const __grid_constant__ PackedLinePass<Variant, Element> work) {
  const int64_t index = int64_t{blockIdx.x} * kLineWarps + warp_index();
  const auto& all = Line::lines(work.all.arguments);
  const int h = static_cast<int>(index % all.heads);
  const int number = static_cast<int>(index / all.heads);
  int b, block;
  if constexpr (requires { Line::kRows; }) {
    constexpr bool kQueries = Line::kRows == &RequestRows::queries;
    const auto place = kQueries ? work.requests.query_tile(number, kLineBlock)
                                : work.requests.key_tile(number, kLineBlock);
    if (place.b < 0) return;
    b = place.b, block = place.row / kLineBlock;
  } else {
    if (number >= all.requests * all.blocks) return;
    b = number / all.blocks, block = number % all.blocks;
  }
  const RequestRows rows = rows_of<Variant>(work.requests, work.all.arguments, b);
  auto arguments = work.all.arguments;
  auto problem = work.all.problem;
  Variant::request_rows(arguments, rows);
  take_rows<Variant>(problem, rows);
  const typename Variant::Params params = Variant::params(arguments);
  const auto& line = Line::lines(params);
  if (block >= line.blocks) return;
  using Facts = typename std::remove_cvref_t<decltype(line)>::Facts;
  const auto request = problem.template request<Variant>(params, b, h, 0);
  const Facts facts = sum_up<Line, Facts>(request, line.length, block);
  if (threadIdx.x % kWarp == 0) line.row(b, h)[block] = facts;
}

// Enqueues the summing up of a call's lines. Null, or what is wrong.
template <class Variant, class Element>
const char* start_packed_lines(const Call& call, const Problem<Element>& problem) {
  const PackedLinePass<Variant, Element> work{
      .all = {.problem = problem, .arguments = Variant::arguments(call)},
      .requests = Requests(call)};
  const char* wrong = nullptr;
  Variant::for_lines(work.all.arguments, [&]<class Line>(const auto& line) {
    int64_t blocks = int64_t{line.requests} * line.blocks;
    if constexpr (requires { Line::kRows; }) {
      constexpr bool kQueries = Line::kRows == &RequestRows::queries;
      blocks =
          kQueries ? work.requests.query_tiles(kLineBlock) : work.requests.key_tiles(kLineBlock);
    }
    const int64_t warps = blocks * line.heads;
    if (wrong != nullptr || warps == 0) return;
    const dim3 grid(static_cast<unsigned>((warps + kLineWarps - 1) / kLineWarps));
    wrong = launch(packed_line_kernel<Variant, Element, Line>, grid, kLineWarps * kWarp, 0,
                   call.stream, work);
  });
  return wrong;
}

}  // namespace attnlang::cuda
