"""`attnlang/host/balance.h`: every unit once, the cuts where they belong, the loads even."""

from __future__ import annotations

import ctypes
import random

import numpy as np
import pytest
from cpu_harness import build
from hypothesis import given, settings
from hypothesis import strategies as st

_SOURCE = r"""
#include "attnlang/host/balance.h"
using namespace attnlang;
static std::vector<Chunk> chunks;
extern "C" int64_t run(const int32_t* costs, int64_t items, int workers, int32_t limit) {
  balance(costs, items, workers, limit, chunks);
  return static_cast<int64_t>(chunks.size());
}
extern "C" void get(int32_t* out) {
  for (size_t i = 0; i < chunks.size(); ++i) {
    const Chunk& c = chunks[i];
    const int32_t row[] = {c.item, c.first, c.count, c.worker, c.slot};
    std::copy(row, row + 5, out + 5 * i);
  }
}
"""
ITEM, FIRST, COUNT, WORKER, SLOT = range(5)


@pytest.fixture(scope="module")
def lib() -> ctypes.CDLL:
    found = build(_SOURCE)
    found.run.restype = ctypes.c_int64
    return found


def _chunks(lib: ctypes.CDLL, costs: list[int], workers: int, limit: int = 0) -> np.ndarray:
    values = np.array(costs, dtype=np.int32)
    count = lib.run(ctypes.c_void_p(values.ctypes.data), ctypes.c_int64(len(costs)), workers, limit)
    out = np.full((count, 5), -99, dtype=np.int32)
    lib.get(ctypes.c_void_p(out.ctypes.data))
    return out


def _loads(chunks: np.ndarray, workers: int) -> np.ndarray:
    return np.bincount(chunks[:, WORKER], weights=chunks[:, COUNT], minlength=workers)


def _check(chunks: np.ndarray, costs: list[int], workers: int, limit: int) -> None:
    share = limit or max(1, -(-sum(costs) // workers))
    assert chunks[:, COUNT].max(initial=0) <= share
    assert (np.diff(chunks[:, WORKER]) >= 0).all()
    assert ((chunks[:, WORKER] >= 0) & (chunks[:, WORKER] < workers)).all()
    for worker in range(workers):
        own = chunks[chunks[:, WORKER] == worker, COUNT]
        assert (np.diff(own) <= 0).all(), "longest first"
    in_order = chunks[np.lexsort((chunks[:, FIRST], chunks[:, ITEM]))]
    expected_slot = 0
    for item, cost in enumerate(costs):
        own = in_order[in_order[:, ITEM] == item]
        assert len(own) >= 1
        assert own[0, FIRST] == 0
        assert (own[1:, FIRST] == own[:-1, FIRST] + own[:-1, COUNT]).all()
        assert own[:, COUNT].sum() == cost
        if len(own) == 1:
            assert own[0, SLOT] == -1
        else:
            assert (own[:, COUNT] > 0).all()
            assert np.ptp(own[:, COUNT]) <= 1, "an item's chunks are alike"
            assert own[:, SLOT].tolist() == [expected_slot + i for i in range(len(own))]
            expected_slot += len(own)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.just(0), st.integers(0, 12), st.integers(0, 5000)), max_size=60),
    st.integers(1, 140),
    st.one_of(st.just(0), st.integers(1, 300)),
)
def test_any_costs(lib: ctypes.CDLL, costs: list[int], workers: int, limit: int) -> None:
    chunks = _chunks(lib, costs, workers, limit)
    _check(chunks, costs, workers, limit)
    assert (chunks == _chunks(lib, costs, workers, limit)).all()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=30),
    st.lists(st.integers(0, 500), max_size=30),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 64),
)
def test_a_given_limit_cuts_an_item_alike_in_any_company(
    lib: ctypes.CDLL, costs: list[int], others: list[int], workers: int, more: int, limit: int
) -> None:
    def cuts(chunks: np.ndarray, item: int) -> list[list[int]]:
        own = chunks[chunks[:, ITEM] == item][:, [FIRST, COUNT]]
        return sorted(own.tolist())

    alone = _chunks(lib, costs[:1], workers, limit)
    among = _chunks(lib, costs[:1] + others, more, limit)
    assert cuts(alone, 0) == cuts(among, 0)


def test_nobody_does_more_than_twice_the_share(lib: ctypes.CDLL) -> None:
    # Longest first ends within the mean and one chunk, and no chunk is longer than the mean.
    rng = random.Random(0)
    for _ in range(300):
        workers = rng.choice([1, 2, 7, 132])
        costs = [int(rng.paretovariate(1.1) * 10) for _ in range(rng.randint(1, 300))]
        loads = _loads(_chunks(lib, costs, workers), workers)
        assert loads.max() <= 2 * -(-sum(costs) // workers)


@pytest.mark.parametrize("items", [1, 16, 128, 136, 200, 1000])
def test_equal_items_are_even_over_any_number_of_workers(lib: ctypes.CDLL, items: int) -> None:
    loads = _loads(_chunks(lib, [128] * items, 132), 132)
    assert loads.max() <= 1.3 * loads.mean()


def test_skewed_items_are_even(lib: ctypes.CDLL) -> None:
    rng = random.Random(1)
    costs = [max(1, min(256, int(16 * rng.paretovariate(1.0)))) for _ in range(64)] * 8
    for workers in (2, 16, 132):
        loads = _loads(_chunks(lib, costs, workers), workers)
        assert loads.max() <= 1.15 * loads.mean()


def test_items_without_work_are_dealt_out_too(lib: ctypes.CDLL) -> None:
    chunks = _chunks(lib, [0] * 100, 10)
    assert np.bincount(chunks[:, WORKER], minlength=10).tolist() == [10] * 10
    assert len(_chunks(lib, [], 4)) == 0
