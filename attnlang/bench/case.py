"""What is measured, and what was found: a case is a call and its contenders, a result their rates.

Invariant: a rate is an amount over the median time on the case's clock. A peer is credited with
the amount of the call that it also computes, so a ratio of rates to a peer is one of times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attnlang.bench.clock import Clock, Timing
from attnlang.invent.inputs import Call
from attnlang.ir.nodes import Variant

OURS = "attnlang"
SDPA, FLEX, EAGER = "sdpa", "flex", "eager"
PRODUCT, PEAK, READ = "matmul", "peak", "read"
PEERS = (SDPA, FLEX, EAGER)


@dataclass(frozen=True, slots=True)
class Target:
    """At least so many times the rate of another contender; of several, one must be met."""

    than: str
    at_least: float


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A call of a variant, measured beside peers and beside other calls of our own kernels."""

    name: str
    variant: Variant
    call: Call
    peers: frozenset[str]
    clock: Clock = Clock.CPU
    beside: Mapping[str, tuple[Variant, Call]] = field(default_factory=dict)
    targets: tuple[Target, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One contender: its times, and what it does in them."""

    timing: Timing
    amount: float  # operations or bytes
    note: str = ""


@dataclass(frozen=True, slots=True)
class FlexCost:
    """What FlexAttention takes before its first call, in seconds on the wall."""

    mask: float
    compile: float
    from_cache: bool


@dataclass(frozen=True, slots=True)
class Result:
    """A case, measured."""

    name: str
    variant: str
    dtype: str
    shape: Mapping[str, int]
    clock: Clock
    entries: Mapping[str, Entry]  # ours first
    absent: Mapping[str, str]  # a peer that was wanted, and why it is not there
    targets: tuple[Target, ...]
    visited: float  # share of all elements in visited tiles
    unmasked: float | None  # share of the elements that the mask keeps, where it was counted
    flex: FlexCost | None
    others: float | None  # share of the machine that other processes took meanwhile

    def seconds(self, name: str) -> float:
        """Return a contender's median time."""
        return self.entries[name].timing.on(self.clock).median

    def rate(self, name: str) -> float:
        """Return operations or bytes a second."""
        return self.entries[name].amount / self.seconds(name)

    def ratio(self, than: str) -> float | None:
        """Return our rate over another's, None where that one is absent."""
        return self.rate(OURS) / self.rate(than) if than in self.entries else None

    @property
    def met(self) -> bool | None:
        """Whether a target is met; None where there is none, or none that could be measured."""
        found = [(self.ratio(t.than), t.at_least) for t in self.targets]
        known = [ratio >= least for ratio, least in found if ratio is not None]
        return any(known) if known else None
