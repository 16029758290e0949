"""Requests that begin with the same pages: a plan's keys as parts that share what they can.

Maps page tables to parts, outermost first: what a run of neighbouring requests has in common is one
part whose rows go together. Invariant: the parts, one after the other, are each request's keys.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from attnlang.ops.plan_parts import Ints, PartKeys


def share_prefixes(keys: PartKeys) -> tuple[PartKeys, ...]:
    """Split the keys of a paged plan where neighbours begin alike; at least the last part remains.

    Only pages whose keys all lie before the request's own rows are shared, so that no causal mask
    cuts through them.
    """
    assert keys.pages is not None
    before = (keys.lens - np.diff(keys.q_starts)).clip(0) // keys.page_size
    alike = _common(keys, before)
    taken = np.zeros(keys.requests, dtype=np.int64)  # pages of each request in the parts so far
    parts: list[PartKeys] = []
    while True:
        runs, shared = _runs(alike, before, taken)
        if not shared.any():
            break
        parts.append(_level(keys, runs, shared, taken))
        taken = taken + np.repeat(shared, np.diff(runs))
    return (*parts, _rest(keys, taken))


def _common(keys: PartKeys, before: Ints) -> Ints:
    """Return how many pages each request has in common with the next, [B - 1]."""
    assert keys.pages is not None
    found = np.zeros(max(keys.requests - 1, 0), dtype=np.int64)
    for b in range(found.size):
        most = min(before[b], before[b + 1])
        first, second = keys.kv_starts[b], keys.kv_starts[b + 1]
        differ = keys.pages[first : first + most] != keys.pages[second : second + most]
        found[b] = int(differ.argmax()) if differ.any() else most
    return found


def _runs(alike: Ints, before: Ints, taken: Ints) -> tuple[Ints, Ints]:
    """Return the runs of requests that go on alike, [n + 1], and how many pages each shares."""
    requests = taken.size
    if requests == 0:
        return np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int64)
    together = (alike > taken[:-1]) & (taken[:-1] == taken[1:])
    runs = np.concatenate([[0], np.flatnonzero(~together) + 1, [requests]])
    shared = np.zeros(runs.size - 1, dtype=np.int64)
    for i, (first, last) in enumerate(itertools.pairwise(runs)):
        if last - first > 1:
            shared[i] = alike[first : last - 1].min() - taken[first]
    return runs, shared


def _level(keys: PartKeys, runs: Ints, shared: Ints, taken: Ints) -> PartKeys:
    assert keys.pages is not None
    first = runs[:-1]
    begin = keys.kv_starts[first] + taken[first]
    pages = [keys.pages[at : at + n] for at, n in zip(begin, shared, strict=True)]
    return replace(
        keys,
        q_starts=keys.q_starts[runs],
        lens=shared * keys.page_size,
        kv_starts=np.concatenate([[0], shared.cumsum()]),
        pages=np.concatenate(pages),
    )


def _rest(keys: PartKeys, taken: Ints) -> PartKeys:
    assert keys.pages is not None
    counts = np.diff(keys.kv_starts) - taken
    starts = np.concatenate([[0], counts.cumsum()])
    spots = np.arange(starts[-1]) + np.repeat(keys.kv_starts[:-1] + taken - starts[:-1], counts)
    lens = keys.lens - taken * keys.page_size
    return replace(keys, lens=lens, kv_starts=starts, pages=keys.pages[spots])
