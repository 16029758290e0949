"""What a variant is compared with in speed: torch's SDPA where it can say the same, eager torch.

From the IR and a call to the peers that compute the same thing, each with a word on how far. SDPA
knows plain scores: no mask, a causal one, or a dense one, whose construction is not timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attnlang.cli.eager import eager, is_plain
from attnlang.cli.measure import measure
from attnlang.invent.inputs import Call
from attnlang.invent.masks import dense_mask
from attnlang.ir.nodes import (
    CallScale,
    Compare,
    CompareOp,
    Const,
    Coord,
    CoordName,
    Expr,
    Raw,
    Variant,
)

# What a dense mask may take; SDPA itself turns it into as many floats.
_MAX_MASK_ELEMENTS = 1 << 29
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
    if not has_plain_score(variant):
        return Peer("torch SDPA", None, "cannot express this variant")
    s = call.shape
    attend = partial(scaled_dot_product_attention, call.q, call.k, call.v, enable_gqa=s.hq != s.hkv)
    if isinstance(variant.mask, Const) and variant.mask.value:
        return _timed("torch SDPA", attend, "the same mathematics")
    if is_causal(variant.mask) and s.q == s.kv:
        return _timed("torch SDPA", partial(attend, is_causal=True), "causal")
    mask = dense_mask(variant, call, _MAX_MASK_ELEMENTS)
    if mask is None:
        return Peer("torch SDPA", None, "would need a dense mask, too large here")
    note = "with a dense mask, its construction not timed"
    return _timed("torch SDPA", partial(attend, attn_mask=mask), note)


def _timed(name: str, work: Callable[[], Tensor], note: str) -> Peer:
    return Peer(name, measure(work).seconds, note)


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


def has_plain_score(variant: Variant) -> bool:
    """Whether a variant is a softmax of scaled dot products with some mask."""
    weights = variant.weights
    plain_weights = isinstance(weights.softmax, Raw) and not any(
        (weights.sink, weights.factor, weights.dropout)
    )
    return is_plain(variant) and plain_weights and isinstance(variant.scale, CallScale)


def is_causal(mask: Expr) -> bool:
    """Whether a mask is `kv_idx <= q_idx`, however it is written."""
    match mask:
        case Compare(CompareOp.LE, Coord(CoordName.KV_IDX), Coord(CoordName.Q_IDX)):
            return True
        case Compare(CompareOp.GE, Coord(CoordName.Q_IDX), Coord(CoordName.KV_IDX)):
            return True
    return False
