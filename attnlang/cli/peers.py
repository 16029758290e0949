"""What a variant is compared with in speed: torch's SDPA where it can say the same, eager torch.

From the IR and a call to the peers that compute the same thing, each with a word on how far. SDPA
knows plain scores: no mask, a causal one, or a dense one, whose construction is not timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnlang.bench.eager import eager, is_plain
from attnlang.bench.sdpa import sdpa
from attnlang.cli.measure import measure
from attnlang.invent.inputs import Call
from attnlang.ir.nodes import Variant

# The scores that eager torch holds at once in the timed sample.
_MAX_EAGER_ELEMENTS = 1 << 24
_PROBE_ROWS = 8

_Attend = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Peer:
    """Something else that computes the same, timed; or, without a time, why it was not."""

    name: str
    seconds: float | None
    note: str = ""


def compare_speed(variant: Variant, call: Call) -> tuple[Peer, ...]:
    """Time the peers on a call; nothing is compared with work that is not there."""
    s = call.shape
    if not all((s.b, s.hq, s.q, s.kv)):
        return ()
    return (_sdpa(variant, call), _eager(variant, call))


def _sdpa(variant: Variant, call: Call) -> Peer:
    peer = sdpa(variant, call)
    if peer.attend is None:
        return Peer("torch SDPA", None, peer.how)
    return Peer("torch SDPA", measure(peer.attend).seconds, peer.how)


def _eager(variant: Variant, call: Call) -> Peer:
    """Time eager torch on some rows in the middle: every row costs it the same."""
    name = "eager torch"
    if not is_plain(variant) or variant.weights.dropout is not None:
        return Peer(name, None, "not written for this variant")
    s = call.shape
    count = min(s.q, max(1, _MAX_EAGER_ELEMENTS // max(1, s.b * s.hq * s.kv)))
    first = (s.q - count) // 2
    rows = torch.arange(first, first + count)
    dtype, attend = _quicker_eager(variant, call, rows[:_PROBE_ROWS])
    seconds = measure(lambda: attend(rows)).seconds * s.q / max(count, 1)
    part = "" if count == s.q else f", measured on {count} of {s.q} rows"
    return Peer(name, seconds, f"all scores in memory, in {dtype}{part}")


def _quicker_eager(variant: Variant, call: Call, rows: Tensor) -> tuple[str, _Attend]:
    """Return eager torch in the inputs' dtype or in float32: a CPU may lack 16-bit products."""
    wide = replace(call, q=call.q.float(), k=call.k.float(), v=call.v.float())
    calls = [call] if call.q.dtype == torch.float32 else [call, wide]
    found: list[tuple[float, str, _Attend]] = []
    for candidate in calls:
        attend = eager(variant, candidate)
        start = time.perf_counter()
        attend(rows)
        dtype = str(candidate.q.dtype).removeprefix("torch.")
        found.append((time.perf_counter() - start, dtype, attend))
    return min(found, key=lambda f: f[0])[1:]
