"""`attnlang/host/lines.h`: ranges against numpy, and how many values are read for them."""

from __future__ import annotations

import ctypes
import threading

import numpy as np
import pytest
from cpu_harness import build

_SOURCE = r"""
#include "attnlang/host/lines.h"
using namespace attnlang;
template <class T, Summary k> struct Held { Lines<T, k> lines; const T* values; const bool* counts;
  std::atomic<int64_t> reads{0};
  void read(int64_t index, LineBlock<T>& block) {
    reads += kLineBlock;
    block.counts = 0;
    for (int64_t i = 0; i < kLineBlock; ++i) {
      const int64_t at = clamp_index(index * kLineBlock + i, lines.length());
      block.value[i] = values[at];
      block.counts |= uint64_t{counts[at]} << i;
    } } };
#define LINES(name, T, k) \
  using H_##name = Held<T, Summary::k>; \
  extern "C" void* make_##name(const T* v, const bool* c, int64_t n) { \
    auto* h = new H_##name; h->lines = Lines<T, Summary::k>(1, 1, n); h->values = v; \
    h->counts = c; return h; } \
  extern "C" int64_t reads_##name(H_##name* h) { return h->reads; } \
  extern "C" void free_##name(H_##name* h) { delete h; } \
  static auto facts_##name(H_##name* h, int64_t a, int64_t b) { \
    return h->lines.over(0, 0, {a, b}, \
        [h](int64_t i, LineBlock<T>& block) { h->read(i, block); }); } \
  extern "C" void over_##name(H_##name* h, int64_t a, int64_t b, double* out) { \
    const auto f = facts_##name(h, a, b); \
    out[0] = double(f.lo); out[1] = double(f.hi); out[2] = f.nan; out[3] = f.none(); }
LINES(ints, int32_t, extremes)
LINES(longs, int64_t, values)
LINES(floats, float, extremes)
LINES(bools, bool, extremes)
LINES(words, int64_t, bits)
extern "C" int meet(H_longs* a, H_longs* b, const int64_t* at) {
  return sets_meet(facts_longs(a, at[0], at[1]), facts_longs(b, at[2], at[3])); }
extern "C" int bit_of(H_words* h, int64_t a, int64_t b, int64_t m, int64_t n) {
  return static_cast<int>(bit(facts_words(h, a, b), Interval{m, n})); }
extern "C" int small_set(const int64_t* in, int n, int64_t x) {
  SmallSet set; for (int i = 0; i < n; ++i) set.add(in[i]); return set.contains(x); }
"""
EMPTY, FULL, UNKNOWN = range(3)


@pytest.fixture(scope="module")
def lib() -> ctypes.CDLL:
    return build(_SOURCE)


class Held:
    """Lines over arrays that stay alive."""

    def __init__(self, lib, name: str, values: np.ndarray, counts: np.ndarray) -> None:
        self.lib, self.name, self.arrays = lib, name, (values, counts)
        make = getattr(lib, f"make_{name}")
        make.restype = ctypes.c_void_p
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in self.arrays]
        self.at = ctypes.c_void_p(make(*pointers, ctypes.c_int64(len(values))))

    def over(self, first: int, last: int) -> list[float]:
        out = (ctypes.c_double * 4)()
        function = getattr(self.lib, f"over_{self.name}")
        function(self.at, ctypes.c_int64(first), ctypes.c_int64(last), out)
        return list(out)

    @property
    def reads(self) -> int:
        function = getattr(self.lib, f"reads_{self.name}")
        function.restype = ctypes.c_int64
        return function(self.at)

    def __del__(self) -> None:
        getattr(self.lib, f"free_{self.name}")(self.at)


def _ranges(rng: np.random.Generator, n: int, count: int) -> list[tuple[int, int]]:
    found = [(0, n - 1), (0, 0), (n - 1, n - 1), (-5, n + 5)]
    for _ in range(count):
        first = int(rng.integers(0, n))
        found.append((first, first + int((n - first) ** rng.uniform(0, 1))))
    return [*found, *((k, k + 63) for k in range(0, n, 640))]


@pytest.mark.parametrize("n", [1, 63, 64, 65, 4096, 4097, 9999])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.004])
@pytest.mark.parametrize("name", ["ints", "longs", "floats", "bools"])
def test_ranges_hold_the_extremes_of_what_counts(lib, name: str, n: int, share: float) -> None:
    rng = np.random.default_rng(n)
    dtype = {"ints": np.int32, "longs": np.int64, "floats": np.float32, "bools": np.bool_}[name]
    values = (rng.integers(-1000, 1000, n) * (rng.random(n) < 0.7)).astype(dtype)
    if name == "floats":
        values[rng.random(n) < 0.001] = np.nan
    counts = rng.random(n) < share
    held = Held(lib, name, values, counts)
    for first, last in _ranges(rng, n, 60):
        place = slice(max(first, 0), min(last, n - 1) + 1)
        inside = values[place][counts[place]]
        low, high, nan, none = held.over(first, last)
        numbers = inside[inside == inside].astype(np.float64)
        assert none == (inside.size == 0)
        assert nan == (numbers.size < inside.size)
        if numbers.size:
            assert (low, high) == (numbers.min(), numbers.max())


def test_many_ranges_read_the_values_once(lib) -> None:
    n, q_tiles = 1_000_000, 64  # 4096 queries, a million keys
    doc = (np.arange(n) // 700).astype(np.int64)
    held = Held(lib, "longs", doc, np.ones(n, np.bool_))
    for _ in range(q_tiles):
        for step in (n, 4096 * 64, 4096 * 8, 4096):
            for first in range(0, n, step):
                held.over(first, first + step - 1)
    for first in range(0, n, 64):
        held.over(first, first + 63)
    # Each value once, and the last block, which is no whole one, where it is the end.
    assert n <= held.reads <= n + 64
    before = held.reads
    held.over(100, n - 100)  # two ends of a block
    assert held.reads - before <= 2 * 64


def test_only_the_chunks_that_are_asked_for_are_read(lib) -> None:
    n = 1_000_000
    held = Held(lib, "ints", np.zeros(n, np.int32), np.ones(n, np.bool_))
    held.over(500_032, 500_095)
    assert held.reads <= 4096


def test_threads_find_the_same(lib) -> None:
    n = 200_000
    values = np.random.default_rng(0).integers(-(2**60), 2**60, n)
    for _ in range(5):
        held = Held(lib, "longs", values, np.ones(n, np.bool_))
        found: list[list[float]] = []

        def look(h: Held = held, out: list[list[float]] = found) -> None:
            out.append(h.over(64, n - 65))

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        inside = values[64:-64].astype(np.float64)
        assert found == [[inside.min(), inside.max(), 0, 0]] * 4


def test_disjoint_sets_of_unsorted_ids_do_not_meet(lib) -> None:
    rng = np.random.default_rng(1)
    n = 8192
    ids = rng.permutation(n // 64).repeat(64)
    held = Held(lib, "longs", ids, np.ones(n, np.bool_))
    missed = 0
    for _ in range(500):
        a, b = (int(x) * 64 for x in rng.integers(0, n // 64, 2))
        at = (ctypes.c_int64 * 4)(a, a + 63, b, b + 63)
        met = lib.meet(held.at, held.at, at)
        assert met or a != b
        missed += bool(met) and a != b
    assert missed < 10  # a place of 256 in common


def test_bits_of_words(lib) -> None:
    rng = np.random.default_rng(2)
    words = rng.integers(0, 2**20, 200) & ~np.int64(0b1000) | np.int64(0b100)
    held = Held(lib, "words", words, np.ones(200, np.bool_))
    for first, last, m, n in [(0, 199, 2, 2), (0, 199, 3, 3), (0, 199, 2, 3), (3, 90, 20, 70),
                              (0, 199, -5, 1), (7, 7, 0, 19)]:  # fmt: skip
        shifts = np.clip(np.arange(m, n + 1), 0, 63)
        bits = words[first : last + 1, None] >> shifts & 1
        wanted = FULL if bits.all() else EMPTY if not bits.any() else UNKNOWN
        at = [ctypes.c_int64(x) for x in (first, last, m, n)]
        assert lib.bit_of(held.at, *at) == wanted


def test_a_small_set_holds_what_was_added(lib) -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        values = rng.integers(-100, 100, 64)
        pointer = ctypes.c_void_p(values.ctypes.data)
        for x in range(-120, 120):
            assert lib.small_set(pointer, 64, ctypes.c_int64(x)) == (x in values)
