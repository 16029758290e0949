"""How long do several works take, beside each other? Works taken in turn, medians and quartiles.

Maps works to `Spread`s. Whatever slows the machine for a while slows every work alike, for they
run A, B, C, A, B, C. Two clocks: the time on the wall, and the time of this process on all CPUs
divided by its threads, which another process cannot lengthen but which hides what a thread waits.
Waiting must not count as work: `prepare_process` before torch is imported.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

Work = Callable[[], object]


class Clock(StrEnum):
    """Which time counts."""

    CPU = "cpu"  # of the process, divided by the threads: arithmetic
    WALL = "wall"  # what bounds memory's bandwidth


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds: the median, the quartiles, and of how many runs."""

    median: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True, slots=True)
class Timing:
    """One work on both clocks."""

    cpu: Spread
    wall: Spread

    def on(self, clock: Clock) -> Spread:
        """Return the spread on a clock."""
        return self.cpu if clock is Clock.CPU else self.wall


def prepare_process() -> None:
    """Let OpenMP's threads sleep where they wait; works only before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def interleave(
    works: Mapping[str, Work], threads: int, seconds: float, min_rounds: int = 3
) -> dict[str, Timing]:
    """Run all works in turn, after one round that does not count, until the seconds are over."""
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for work in works.values():
        work()
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < min_rounds or time.perf_counter() < end:
        for name, work in works.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            cpu = time.process_time() - cpu
            samples[name].append((cpu / threads, time.perf_counter() - wall))
        rounds += 1
    return {
        name: Timing(spread([cpu for cpu, _ in found]), spread([wall for _, wall in found]))
        for name, found in samples.items()
    }


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles of one value or more."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high, len(values))
