"""How long does it take? The median of a few runs after a warm-up, in about a second or two."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

_ENOUGH_SECONDS = 2.0
_MIN_RUNS, _MAX_RUNS = 3, 50


@dataclass(frozen=True, slots=True)
class Timing:
    """The median of some runs."""

    seconds: float
    runs: int


def measure(work: Callable[[], object]) -> Timing:
    """Run `work` once to warm up, then at least three times and until two seconds are over."""
    work()
    times: list[float] = []
    while len(times) < _MIN_RUNS or (sum(times) < _ENOUGH_SECONDS and len(times) < _MAX_RUNS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return Timing(statistics.median(times), len(times))


def duration(seconds: float) -> str:
    """Write a duration with three digits and the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale or unit == "us":
            return f"{seconds / scale:.3g} {unit}" if seconds < 1000 * scale else f"{seconds:.0f} s"
    raise AssertionError("the last unit takes every duration")
