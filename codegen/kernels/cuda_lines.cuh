// What a generated `Line` says of a tile: facts of blocks of 64 values, which a small kernel writes
// into the workspace before the others run.
//
// A range is answered by the blocks that it touches: they may hold more than it, so what is known
// is never wrong, and exact where tiles are whole blocks.
#pragma once

#include <cstdint>

#include "attnlang/device/launch.cuh"
#include "attnlang/device/ptx.cuh"
#include "attnlang/host/line_facts.h"
#include "attnlang/host/target.h"
#include "kernels/cuda_problem.cuh"

namespace attnlang::cuda {

// The facts of a line, one line for each request and head (or fewer, where they are the same).
template <class T, Summary kSummary>
struct LineBlocks {
  using Facts = LineFacts<T, kSummary>;
  static constexpr int kMost = 64;  // blocks that are looked at; more of them count as anything

  Facts* facts;  // null: nothing is known
  int32_t requests, heads, blocks;
  int64_t length;

  ATTNLANG_HD Facts* row(int64_t b, int64_t h) const {
    return facts +
           (least(b, int64_t{requests} - 1) * heads + least(h, int64_t{heads} - 1)) * blocks;
  }

  ATTNLANG_DEVICE Facts over(int64_t b, int64_t h, Interval range) const {
    Facts found;
    if (length <= 0) {
      found.add(T{});
      return found;
    }
    if (facts == nullptr) return anything();
    const int first = static_cast<int>(clamp_index(range.lo, length) / kLineBlock);
    const int last = static_cast<int>(clamp_index(range.hi, length) / kLineBlock);
    if (last - first >= kMost) return anything();
    const Facts* known = row(b, h);
    for (int i = first; i <= last; ++i) found.join(known[i]);
    return found;
  }

 private:
  static ATTNLANG_DEVICE Facts anything() {
    Facts found;
    found.lo = std::numeric_limits<T>::lowest();
    found.hi = std::numeric_limits<T>::max();
    found.nan = true;
    if constexpr (kSummary != Summary::extremes) {
      for (int i = 0; i < Facts::kWords; ++i) found.set.word[i] = ~uint64_t{0};
    }
    return found;
  }
};

// Hands out the memory of lines, or counts it.
class LineMemory {
 public:
  explicit LineMemory(const void* base) : base_(static_cast<char*>(const_cast<void*>(base))) {}

  template <class T, Summary kSummary>
  void take(LineBlocks<T, kSummary>& line, int64_t requests, int64_t heads, int64_t length) {
    place(line, requests, heads, (length + kLineBlock - 1) / kLineBlock, length);
  }
  // A line over the rows of requests that lie one after another, `rows` in all: `take_line` finds
  // the blocks of one.
  template <class T, Summary kSummary>
  void take_packed(LineBlocks<T, kSummary>& line, int64_t requests, int64_t heads, int64_t rows) {
    place(line, 1, heads, rows / kLineBlock + requests, rows);
  }
  int64_t used() const { return used_; }

 private:
  template <class T, Summary kSummary>
  void place(LineBlocks<T, kSummary>& line, int64_t requests, int64_t heads, int64_t blocks,
             int64_t length) {
    line = {.facts = nullptr,
            .requests = static_cast<int32_t>(requests),
            .heads = static_cast<int32_t>(heads),
            .blocks = static_cast<int32_t>(blocks),
            .length = length};
    if (base_ != nullptr) line.facts = reinterpret_cast<LineFacts<T, kSummary>*>(base_ + used_);
    const int64_t bytes = requests * heads * blocks * int64_t{sizeof(LineFacts<T, kSummary>)};
    used_ += (bytes + 255) / 256 * 256;
  }

  char* base_;
  int64_t used_ = 0;
};

template <class Variant>
int64_t line_bytes(const Call& call) {
  LineMemory memory(nullptr);
  Variant::arguments(call, memory);
  return memory.used();
}

template <class Variant, class Element>
struct LinePass {
  Problem<Element> problem;
  typename Variant::Arguments arguments;
};

constexpr int kLineWarps = 4;

// The facts of values [64 block, 64 block + 64) of a request's line, by one warp: two values a
// lane.
template <class Line, class Facts, class Request>
ATTNLANG_DEVICE Facts sum_up(const Request& request, int64_t length, int block) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  Facts facts;
  for (int64_t i = int64_t{block} * kLineBlock + lane;
       i < length && i < (int64_t{block} + 1) * kLineBlock; i += kWarp) {
    if constexpr (requires { Line::at(request, i); }) {
      facts.add(Line::at(request, i));
    } else {
      const auto place = Line::place(request, static_cast<int32_t>(i));
      bool counts = true;
      if constexpr (requires { Line::counts(request, place); }) {
        counts = Line::counts(request, place);
      }
      if (counts) facts.add(Line::value(request, place));
    }
  }
  for (int apart = kWarp / 2; apart > 0; apart /= 2) {
    Facts other;
    other.lo = __shfl_xor_sync(~0u, facts.lo, apart);
    other.hi = __shfl_xor_sync(~0u, facts.hi, apart);
    other.nan = __shfl_xor_sync(~0u, static_cast<int>(facts.nan), apart) != 0;
    if constexpr (requires { facts.set.word[0]; }) {
      for (int i = 0; i < Facts::kWords; ++i) {
        other.set.word[i] = __shfl_xor_sync(~0u, facts.set.word[i], apart);
      }
    }
    facts.join(other);
  }
  return facts;
}

// A warp a block.
template <class Variant, class Element, class Line>
__global__ void __launch_bounds__(kLineWarps* kWarp)
    line_kernel(const __grid_constant__ LinePass<Variant, Element> pass) {
  const typename Variant::Params params = Variant::params(pass.arguments);
  const auto& line = Line::lines(params);
  using Facts = typename std::remove_cvref_t<decltype(line)>::Facts;
  const int64_t index = int64_t{blockIdx.x} * kLineWarps + warp_index();
  if (index >= int64_t{line.requests} * line.heads * line.blocks) return;
  const int block = static_cast<int>(index % line.blocks);
  const int which = static_cast<int>(index / line.blocks);
  const int b = which / line.heads, h = which % line.heads;
  const auto request = pass.problem.template request<Variant>(params, b, h, 0);
  const Facts facts = sum_up<Line, Facts>(request, line.length, block);
  if (threadIdx.x % kWarp == 0) line.row(b, h)[block] = facts;
}

// Gives the lines' facts their place in front of the workspace.
inline int take_lines(Call& call, int64_t bytes, char* error) {
  if (call.workspace_bytes < bytes) return fail(error, "the workspace is too small for the lines");
  call.lines = call.workspace;
  call.workspace = static_cast<char*>(call.workspace) + bytes;
  call.workspace_bytes -= bytes;
  return 0;
}

// Runs `run(call)` with the lines' facts in front of the workspace, which it enqueues first.
template <class Variant, class Element, class Run>
int with_lines(const Call& call, char* error, const Run& run) {
  const int64_t bytes = line_bytes<Variant>(call);
  if (bytes == 0) return run(call);
  Call inner = call;
  if (take_lines(inner, bytes, error) != 0) return -1;
  const LinePass<Variant, Element> pass{.problem = problem_of<Variant, Element>(inner),
                                        .arguments = Variant::arguments(inner)};
  const char* wrong = nullptr;
  Variant::for_lines(pass.arguments, [&]<class Line>(const auto& line) {
    const int64_t warps = int64_t{line.requests} * line.heads * line.blocks;
    if (wrong != nullptr || warps == 0) return;
    const dim3 grid(static_cast<unsigned>((warps + kLineWarps - 1) / kLineWarps));
    wrong = launch(line_kernel<Variant, Element, Line>, grid, kLineWarps * kWarp, 0, inner.stream,
                   pass);
  });
  return wrong == nullptr ? run(inner) : fail(error, "%s", wrong);
}

template <class Line, class Request>
ATTNLANG_DEVICE auto facts(const Request& r, Interval range) {
  return Line::lines(r.p).over(r.b, r.h, range);
}

// The hull of a line over rows or columns.
template <class Line, class Request>
ATTNLANG_DEVICE auto range_of(const Request& r, Interval range) {
  return facts<Line>(r, range).range();
}

// Bit n of a line of words.
template <class Line, class Request>
ATTNLANG_DEVICE Verdict bit_of(const Request& r, Interval range, Interval n) {
  return bit(facts<Line>(r, range), n);
}

// `row == column` of two lines.
template <class Rows, class Columns, class Request>
ATTNLANG_DEVICE Verdict equal(const Request& r, Interval rows, Interval columns) {
  const auto a = facts<Rows>(r, rows);
  const auto b = facts<Columns>(r, columns);
  const Verdict v = a.range() == b.range();
  return is_unknown(v) && !sets_meet(a, b) ? Verdict::empty : v;
}

// Empty where no row and column have a tuple in common; otherwise there is no objection.
template <class Rows, class Columns, class Request>
ATTNLANG_DEVICE Verdict meeting(const Request& r, Interval rows, Interval columns) {
  return verdict(sets_meet(facts<Rows>(r, rows), facts<Columns>(r, columns)));
}

}  // namespace attnlang::cuda
