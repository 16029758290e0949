// What a generated `Line` says of a tile: its lanes' own values, read in blocks.
//
// A Line is a value of the row alone or of the column alone (`place`, `value`, and `counts` where
// a guard restricts it), or an axis of a tensor that an index of both walks along (`at`).
#pragma once

#include "attnlang/cpu/simd.h"
#include "attnlang/host/lines.h"

namespace attnlang::cpu {

// One int of several, for tuples that are compared: equal for equal ones.
[[gnu::always_inline]] inline L mix(L so_far, L next) {
  so_far *= int64_t{-7046029254386353131};
  return (so_far ^ (so_far >> 29)) + next;
}

// The values of a block of a line.
template <class Line, class Request>
[[gnu::noinline]] void read_line(const Request& r, int64_t index,
                                 LineBlock<typename Line::Value>& block) {
  const int64_t first = index * kLineBlock;
  if constexpr (requires { Line::at(r, first); }) {
    for (int64_t i = 0; i < kLineBlock; ++i) block.value[i] = Line::at(r, first + i);
  } else {
    uint64_t counts = 0;
    for (int j = 0; j < kLineBlock; j += kLanes) {
      const auto place = Line::place(r, splat_i(static_cast<int32_t>(first) + j) + iota_i());
      const auto value = Line::value(r, place);
      if constexpr (std::is_same_v<typename Line::Value, bool>) {
        for (int i = 0; i < kLanes; ++i) block.value[j + i] = value[i] != 0;
      } else {
        store(block.value + j, value);
      }
      if constexpr (requires { Line::counts(r, place); }) {
        const M passed = Line::counts(r, place);
        for (int i = 0; i < kLanes; ++i) counts |= uint64_t{passed[i] != 0} << (j + i);
      }
    }
    if constexpr (requires(const decltype(Line::place(r, I{}))& place) {
                    Line::counts(r, place);
                  }) {
      block.counts = counts;
    }
  }
}

template <class Line, class Request>
auto reader(const Request& r) {
  return [&r](int64_t index, LineBlock<typename Line::Value>& block) {
    read_line<Line>(r, index, block);
  };
}

template <class Line, class Request>
auto facts(const Request& r, Interval range) {
  return Line::lines(r.p).over(r.b, r.h, range, reader<Line>(r));
}

// The hull of a line over rows or columns.
template <class Line, class Request>
auto range_of(const Request& r, Interval range) {
  return facts<Line>(r, range).range();
}

// Bit n of a line of words.
template <class Line, class Request>
Verdict bit_of(const Request& r, Interval range, Interval n) {
  return bit(facts<Line>(r, range), n);
}

// Whether a row and a column have a value in common: by their sets, and where they are few by
// looking at each.
template <class Rows, class Columns, class Request, class A, class B>
bool may_meet(const Request& r, Interval rows, Interval columns, const A& a, const B& b) {
  if (!sets_meet(a, b)) return false;
  if (rows.hi - rows.lo >= kLookedAt || columns.hi - columns.lo >= kLookedAt) return true;
  SmallSet seen;
  bool met = false;
  Rows::lines(r.p).for_blocks(rows, reader<Rows>(r),
                              [&](const auto& block, int64_t i, int64_t end) {
                                for (; i <= end; ++i) {
                                  if (block.counts >> i & 1) seen.add(block.value[i]);
                                }
                                return true;
                              });
  Columns::lines(r.p).for_blocks(
      columns, reader<Columns>(r), [&](const auto& block, int64_t i, int64_t end) {
        for (; i <= end && !met; ++i) {
          met = (block.counts >> i & 1) != 0 && seen.contains(block.value[i]);
        }
        return !met;
      });
  return met;
}

// `row == column` of two lines.
template <class Rows, class Columns, class Request>
[[gnu::noinline]] Verdict equal(const Request& r, Interval rows, Interval columns) {
  const auto a = facts<Rows>(r, rows);
  const auto b = facts<Columns>(r, columns);
  const Verdict v = a.range() == b.range();
  return is_unknown(v) && !may_meet<Rows, Columns>(r, rows, columns, a, b) ? Verdict::empty : v;
}

// Empty where no row and column have a tuple in common; otherwise there is no objection.
template <class Rows, class Columns, class Request>
[[gnu::noinline]] Verdict meeting(const Request& r, Interval rows, Interval columns) {
  const auto a = facts<Rows>(r, rows);
  const auto b = facts<Columns>(r, columns);
  return verdict(may_meet<Rows, Columns>(r, rows, columns, a, b));
}

}  // namespace attnlang::cpu
