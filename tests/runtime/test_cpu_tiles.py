"""Range sets and the tiles that a kernel visits, of `host/coverage.h` and `kernels/cpu_tiles.h`.

Sets are compared with sets of ints, visits with the elements of a made-up row, and the number of
verdicts that are asked is counted.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from cpu_harness import build

_TEXT = r"""
#include "kernels/cpu_tiles.h"
using namespace attnlang;

template <Bias kBias>
static RangeSet<kBias> make(const int64_t* pairs, int n) {
  RangeSet<kBias> set;
  for (int i = 0; i < n; ++i) set = set | RangeSet<kBias>::of(pairs[2 * i], pairs[2 * i + 1]);
  return set;
}
template <Bias kBias>
static int write(const RangeSet<kBias>& set, int64_t* out) {
  for (const Range& r : set) { *out++ = r.begin; *out++ = r.end; }
  return set.size();
}
template <Bias kBias>
static int combine(int op, const int64_t* a, int n, const int64_t* b, int m, int64_t* out) {
  const auto x = make<kBias>(a, n), y = make<kBias>(b, m);
  return write(op == 0 ? x | y : x & y, out);
}
extern "C" int combine_sets(int inner, int op, const int64_t* a, int n, const int64_t* b, int m,
                            int64_t* out) {
  return inner ? combine<Bias::inner>(op, a, n, b, m, out)
               : combine<Bias::outer>(op, a, n, b, m, out);
}

// The sets of (a and b) or not (c or d) where `given` is full, of four half-lines: each is the
// least and greatest value of its bound and whether columns are at least it. `sizes`: of the sets.
extern "C" void cover(const int64_t* lines, int given, int64_t* may, int64_t* must, int* sizes) {
  const auto line = [&](int i) {
    const Interval bound{lines[3 * i], lines[3 * i + 1]};
    return lines[3 * i + 2] != 0 ? at_least(bound) : at_most(bound);
  };
  const HalfLine a = line(0), b = line(1), c = line(2), d = line(3);
  const auto verdict_of = [&](int64_t k) {
    return guarded(Verdict(given), (a(k) & b(k)) | ~(c(k) | d(k)));
  };
  const Coverage found = covered(verdict_of, a, b, c, d);
  sizes[0] = write(found.may, may);
  sizes[1] = write(found.must, must);
}

// Visits the tiles of a row of elements by ranges; verdicts look at the elements. Returns how many
// were asked; marks[k] is 1 (full) or 2 (unknown) where column k was visited, in order.
extern "C" int64_t visit(const int8_t* kept, int64_t k0, int64_t k1, int64_t tile,
                         const int64_t* may, int n, const int64_t* must, int m, int8_t* marks) {
  int64_t asked = 0, last = k0;
  const Coverage coverage{make<Bias::outer>(may, n), make<Bias::inner>(must, m)};
  const auto verdict_of = [&](int64_t a, int64_t b) {
    ++asked;
    bool all = true, some = false;
    for (int64_t k = a; k < b; ++k) { all &= kept[k] != 0; some |= kept[k] != 0; }
    return verdict(all, !some);
  };
  cpu::visit_tiles(coverage, k0, k1, tile, verdict_of, [&](int64_t k, int count, bool masked) {
    if (k < last || k % tile != 0 || k + count > k1 || count > tile) asked = -1000000000;
    last = k + count;
    for (int64_t j = k; j < k + count; ++j) marks[j] = masked ? 2 : 1;
  });
  return asked;
}
// The keys of a window before the last `rows` of `keys`: what is asked, and the tiles visited.
extern "C" void window(int64_t keys, int64_t rows, int64_t size, int64_t tile, int64_t* out) {
  out[0] = out[1] = 0;
  for (int64_t q0 = keys - rows; q0 < keys; q0 += tile) {
    const Interval q{q0, std::min(q0 + tile, keys) - 1};
    const HalfLine last = at_most(q), first = at_least(q - (size - 1));
    const Coverage coverage =
        covered([&](int64_t column) { return last(column) & first(column); }, last, first);
    const auto verdict_of = [&](int64_t k0, int64_t k1) {
      ++out[0];
      const Interval distance = q - Interval{k0, k1 - 1};
      return (distance >= Interval::point(0)) & (distance < Interval::point(size));
    };
    cpu::cover_tiles(coverage, 0, keys, tile, verdict_of, [&](int64_t k0, int64_t k1, Verdict) {
      out[1] += (k1 - k0 + tile - 1) / tile;
    });
  }
}
"""


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    found = build(_TEXT, "-O1")
    found.visit.restype = ctypes.c_int64
    return found


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _visit(
    library: ctypes.CDLL,
    kept: np.ndarray,
    span: tuple[int, int, int],
    may: np.ndarray,
    must: np.ndarray,
    marks: np.ndarray,
) -> int:
    numbers = map(ctypes.c_int64, span)
    sets = [x for ranges in (may, must) for x in (_pointer(ranges), len(ranges))]
    return int(library.visit(_pointer(kept), *numbers, *sets, _pointer(marks)))


def _random_ranges(rng: np.random.Generator, count: int, extent: int = 60) -> np.ndarray:
    begin = rng.integers(0, extent, count)
    return np.stack([begin, begin + rng.integers(0, 9, count)], axis=1).astype(np.int64)


def _members(ranges: np.ndarray) -> set[int]:
    return {x for begin, end in ranges.tolist() for x in range(max(begin, -5), min(end, 75))}


@pytest.mark.parametrize("count", [0, 1, 3, 6, 20])
def test_sets_err_to_their_side_alone(library: ctypes.CDLL, count: int) -> None:
    rng = np.random.default_rng(count)
    exact = 0
    for _ in range(200):
        a, b = _random_ranges(rng, count), _random_ranges(rng, max(1, count // 2))
        x, y = _members(a), _members(b)
        for op, wanted in enumerate([x | y, x & y]):
            for inner in (0, 1):
                out = np.empty((9, 2), np.int64)
                n = library.combine_sets(
                    inner, op, _pointer(a), len(a), _pointer(b), len(b), _pointer(out)
                )
                assert n <= 8
                flat = out[:n].reshape(-1)
                assert (flat[1:] > flat[:-1]).all(), "sorted, disjoint, apart"
                found = _members(out[:n])
                assert found <= wanted if inner else wanted <= found
                exact += found == wanted
    assert exact == 800 or count > 3


_FAR = 2**62


def _verdict(line: tuple[int, int, int], column: int) -> int:
    """Return -1, 0 or 1: no bound of the interval, some or all of them leave the column."""
    low, high, least = line
    kept = {column >= b if least else column <= b for b in (low, high)}
    return 0 if len(kept) == 2 else 1 if kept == {True} else -1


@pytest.mark.parametrize("given", [0, 1, 2])
def test_half_lines_cover_what_their_verdicts_say(library: ctypes.CDLL, given: int) -> None:
    rng = np.random.default_rng(given)
    for _ in range(400):
        low = rng.integers(-3, 70, 4)
        lines = np.stack([low, low + rng.integers(0, 12, 4), rng.integers(0, 2, 4)], axis=1)
        lines = lines.astype(np.int64)
        if rng.random() < 0.2:  # a bound that may be anything
            lines[rng.integers(0, 4), :2] = -(2**63), 2**63 - 1
        may, must = np.zeros((9, 2), np.int64), np.zeros((9, 2), np.int64)
        sizes = np.zeros(2, np.int32)
        library.cover(_pointer(lines), given, _pointer(may), _pointer(must), _pointer(sizes))
        found = [_members(s[:n]) for s, n in zip((may, must), sizes, strict=True)]
        for column in range(-5, 75):
            a, b, c, d = (_verdict(tuple(line), column) for line in lines.tolist())
            wanted = max(min(a, b), -max(c, d)) if given == 1 else 0
            assert (column in found[0]) == (wanted >= 0)
            assert (column in found[1]) == (wanted == 1)


def test_a_line_at_the_ends_of_ints_covers_all_or_nothing(library: ctypes.CDLL) -> None:
    ends = -(2**63), 2**63 - 1
    for low, high in ((ends[0], ends[0]), (ends[1], ends[1])):
        for least in (0, 1):
            lines = np.array([[low, high, least]] * 2 + [[*ends[:1] * 2, 1]] * 2, np.int64)
            may, must = np.zeros((9, 2), np.int64), np.zeros((9, 2), np.int64)
            sizes = np.zeros(2, np.int32)
            library.cover(_pointer(lines), 1, _pointer(may), _pointer(must), _pointer(sizes))
            everything = (low == ends[0]) == bool(least)
            assert sizes.tolist() == [everything, everything]
            if everything:
                assert may[0].tolist() == must[0].tolist() == [-_FAR, _FAR]


@pytest.mark.parametrize("tile", [1, 4, 16])
def test_every_kept_column_is_visited_once(library: ctypes.CDLL, tile: int) -> None:
    rng = np.random.default_rng(tile)
    for _ in range(300):
        may = _random_ranges(rng, int(rng.integers(0, 5)), 64)
        kept = np.zeros(80, np.int8)
        for begin, end in may:
            kept[begin:end] = rng.random(end - begin) < rng.choice([0.5, 0.9, 1.0])
        runs = np.flatnonzero(np.diff(np.concatenate([[0], kept, [0]]))).reshape(-1, 2)
        must = runs[rng.random(len(runs)) < 0.7].astype(np.int64)
        k0 = int(rng.integers(0, 3)) * tile
        k1 = int(rng.integers(k0, 81))
        marks = np.zeros(80, np.int8)
        asked = _visit(library, kept, (k0, k1, tile), may, must, marks)
        assert asked >= 0, "out of order, off the tiles or past the end"
        inside = np.zeros(80, np.bool_)
        inside[k0:k1] = True
        assert not ((kept != 0) & inside & (marks == 0)).any()
        assert not ((marks == 1) & (kept == 0)).any()
        assert not ((marks != 0) & ~inside).any()


def test_a_range_that_must_be_kept_is_not_asked_about(library: ctypes.CDLL) -> None:
    kept, marks = np.ones(80, np.int8), np.zeros(80, np.int8)
    whole = np.array([[0, 80]], np.int64)
    asked = _visit(library, kept, (0, 77, 16), whole, whole, marks)
    assert asked == 0
    assert marks[:77].tolist() == [1] * 77


@pytest.mark.parametrize("rows", [64, 4096])
def test_work_follows_the_window_and_not_the_keys(library: ctypes.CDLL, rows: int) -> None:
    found = []
    for keys in (8192, 1_000_000, 1_000_000_000 // 64 * 64):
        out = np.zeros(2, np.int64)
        library.window(
            ctypes.c_int64(keys),
            ctypes.c_int64(rows),
            ctypes.c_int64(1024),
            ctypes.c_int64(64),
            _pointer(out),
        )
        asked, visited = out.tolist()
        blocks = rows // 64
        assert visited == 17 * blocks
        assert asked <= 2 * blocks, "the two ends of a window, a tile each"
        found.append((asked, visited))
    assert len(set(found)) == 1
