"""One variant on one call: built, run, compared and timed, each with what was found out.

Maps a checked variant and a call to a `Trial`. Invariant: the results come from the compiled
kernel, their error from the reference, and each time from work that was done here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attnlang.cli.accuracy import Accuracy, compare
from attnlang.cli.console import Activity
from attnlang.cli.measure import Timing, measure
from attnlang.cli.peers import Peer, compare_speed
from attnlang.cli.places import Place
from attnlang.invent.inputs import Call
from attnlang.ir.nodes import Variant as VariantIr
from attnlang.ops.binding import progress
from attnlang.ops.specialised import const_values, given_tensors
from attnlang.ops.tiles import Tiles
from attnlang.ops.variant import Variant


@dataclass(frozen=True, slots=True)
class Build:
    """How long the kernel took to build, and to find again; `cold` is None where it was there."""

    cold: float | None
    warm: float


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """What was found out about a variant on a call."""

    build: Build
    tiles: Tiles
    results: dict[str, Tensor]  # out and, with a softmax, lse
    accuracy: Accuracy
    timing: Timing
    peers: tuple[Peer, ...]


def try_out(ir: VariantIr, call: Call, seed: int, activity: Activity, place: Place) -> Trial:
    """Build, run, compare and time. Raises CallError, SpecError and BuildError as the call does."""
    variant = Variant(ir)
    with torch.no_grad(), place.chosen():
        there = place.bring(call)
        activity.now("compiling")
        build, tiles = _build(variant, there, activity)
        activity.now("running")
        results = {name: x.cpu() for name, x in run_kernel(variant, there).items()}
        activity.now("comparing with the reference")
        accuracy = compare(ir, call, results["out"], results.get("lse"), seed)
        activity.now("measuring")
        timing = measure(place.waiting(lambda: run_kernel(variant, there, want_lse=False)))
        activity.now("measuring what it is compared with")
        peers = compare_speed(ir, call) if place.is_cpu else ()
    return Trial(build, tiles, results, accuracy, timing, peers)


def run_kernel(variant: Variant, call: Call, *, want_lse: bool = True) -> dict[str, Tensor]:
    """Run the compiled kernel once; the results are out and, wanted and with a softmax, lse."""
    # Parameters have names of their own: to a type checker they could be any keyword of the call.
    attend: Callable[..., Tensor | tuple[Tensor, ...]] = variant
    has_lse = want_lse and variant.ir.weights.softmax is not None
    keywords = {**call.options, "seed": call.seed, **call.params}
    result = attend(call.q, call.k, call.passed_v(variant.ir), return_lse=has_lse, **keywords)
    return dict(
        zip(("out", "lse"), result if isinstance(result, tuple) else (result,), strict=False)
    )


def _build(variant: Variant, call: Call, activity: Activity) -> tuple[Build, Tiles]:
    count: Callable[..., Tiles] = variant.tiles
    with _listening(activity) as heard:
        start = time.perf_counter()
        tiles = count(call.q, call.k, call.passed_v(variant.ir), **call.params)
        first = time.perf_counter() - start
    values = dict(call.params)
    specialised = variant.specialised(
        const_values(variant.ir, values), given_tensors(variant.ir, values)
    )
    v = call.passed_v(variant.ir)
    widths = specialised.widths(call.q.shape[3], None if v is None else v.shape[3])
    key = variant.kernel_key(call.q, widths.value, values)
    start = time.perf_counter()
    specialised.build_kernel(key)
    again = time.perf_counter() - start
    return Build(first, again) if heard.lines else Build(None, first), tiles


@dataclass(slots=True)
class _Heard:
    lines: list[str] = field(default_factory=list)


@contextmanager
def _listening(activity: Activity) -> Iterator[_Heard]:
    """Show what the build says, and remember that it said something: then it was no cache hit."""
    heard = _Heard()

    def hear(line: str) -> None:
        heard.lines.append(line)
        activity.now(line)

    token = progress.set(hear)
    try:
        yield heard
    finally:
        progress.reset(token)
