"""How long does it take? The median of a few runs after a warm-up, in a second or two."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

_ENOUGH_SECONDS = 2.0
_TOO_MUCH_SECONDS = 12.0
_MIN_RUNS, _MAX_RUNS = 3, 50


@dataclass(frozen=True, slots=True)
class Timing:
    """The median of some runs."""

    seconds: float
    runs: int


def measure(work: Callable[[], object]) -> Timing:
    """Run `work` once to warm up, then three times and until two seconds are over.

    Work that takes many seconds is run less often, once at least.
    """
    work()
    times: list[float] = []
    while _wants_more(len(times), sum(times)):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return Timing(statistics.median(times), len(times))


def _wants_more(runs: int, seconds: float) -> bool:
    if runs == 0:
        return True
    if runs < _MIN_RUNS:
        return seconds < _TOO_MUCH_SECONDS
    return seconds < _ENOUGH_SECONDS and runs < _MAX_RUNS


def duration(seconds: float) -> str:
    """Write a duration with three digits and the unit that suits it."""
    if seconds >= 999.5:
        return f"{seconds:.0f} s"
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * scale:  # else it would be rounded to 1000 of the next unit
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"
