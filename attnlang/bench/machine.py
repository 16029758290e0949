"""On which machine, and how busy was it? What a result must name, and what makes it doubtful.

Invariant: what others took is what all CPUs worked, less what this process and its children did.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from attnlang.jit.cpu import this_cpu
from attnlang.jit.toolchain import find_compiler
from attnlang.options import options

BUSY_SHARE = 0.05  # of the machine, taken by others: then a result is doubtful
_BUSY_FIELDS = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal


@dataclass(frozen=True, slots=True)
class Machine:
    """What a result depends on beside the code."""

    cpu: str
    features: tuple[str, ...]
    cores: int
    threads: int
    torch: str
    compiler: str
    target: str


def this_machine() -> Machine:
    """Describe this machine and the settings of this process."""
    cpu = this_cpu()
    return Machine(
        cpu=cpu.name,
        features=tuple(sorted(cpu.features)),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        compiler=find_compiler().identity.partition(" [")[0],
        target=str(options().cpu),
    )


class Watch:
    """How much of the machine others took since it was made."""

    def __init__(self) -> None:
        self._start = _now()

    def others(self) -> float | None:
        """Return the share of all CPUs that others took; None where the system does not say."""
        wall, busy, own = (b - a for a, b in zip(self._start, _now(), strict=True))
        if busy == 0 or wall <= 0:
            return None
        return max(0.0, busy - own) / (wall * (os.cpu_count() or 1))


def _now() -> tuple[float, float, float]:
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    return time.monotonic(), _busy_seconds(), own


def _busy_seconds() -> float:
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    except OSError:
        return 0.0
    fields = first.split()[1:]
    ticks = sum(int(fields[i]) for i in _BUSY_FIELDS if i < len(fields))
    return ticks / os.sysconf("SC_CLK_TCK")
