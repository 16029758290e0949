"""How fast is this machine? Three probes of torch, bounded to a fraction of a second each.

Maps nothing to `Machine`. Invariant: measured once a process; the best of some runs, for whatever
else the machine does only slows them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

import torch

from attnlang.explain.explanation import Machine

_SECONDS = 0.2  # for each probe, its warm-up not counted
_SIDE = 512
_CACHED = 1 << 12  # floats that a first-level cache holds
_STREAMED = 1 << 24  # floats that no cache holds


@lru_cache(maxsize=1)
def this_machine() -> Machine:
    """Measure multiply-adds and exponentials on one thread, times all, and reading on all."""
    threads = torch.get_num_threads()
    with torch.no_grad():
        many = torch.ones(_STREAMED)
        bandwidth = 4 * _STREAMED / _best(lambda: many.sum())
        torch.set_num_threads(1)
        try:
            flops, functions = _arithmetic()
        finally:
            torch.set_num_threads(threads)
    return Machine(threads * flops, threads * functions, bandwidth, threads)


def _arithmetic() -> tuple[float, float]:
    matrix, product = torch.ones(_SIDE, _SIDE), torch.empty(_SIDE, _SIDE)
    few, result = torch.ones(_CACHED), torch.empty(_CACHED)
    flops = 2 * _SIDE**3 / _best(lambda: torch.mm(matrix, matrix, out=product))
    return flops, _CACHED / _best(lambda: torch.exp2(few, out=result))


def _best(work: Callable[[], object]) -> float:
    work()
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while True:
        start = time.perf_counter()
        work()
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return best
