"""torch's SDPA where it can say what a variant says: all keys, causal, or a mask written out.

From a variant and a call to a work, and how SDPA was told the mask. The mask is made beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attnlang.bench.eager import is_plain
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


@dataclass(frozen=True, slots=True)
class Sdpa:
    """SDPA on a call, or without `attend` why it cannot be had."""

    attend: Callable[[], Tensor] | None
    how: str


def sdpa(variant: Variant, call: Call) -> Sdpa:
    """Return SDPA on a call of the variant."""
    if not has_plain_score(variant):
        return Sdpa(None, "cannot express this variant")
    s = call.shape
    attend = partial(scaled_dot_product_attention, call.q, call.k, call.v, enable_gqa=s.hq != s.hkv)
    if isinstance(variant.mask, Const) and variant.mask.value:
        return Sdpa(attend, "the same mathematics")
    if is_causal(variant.mask) and s.q == s.kv:
        return Sdpa(partial(attend, is_causal=True), "causal")
    mask = dense_mask(variant, call, _MAX_MASK_ELEMENTS)
    if mask is None:
        return Sdpa(None, "would need a dense mask, too large here")
    return Sdpa(partial(attend, attn_mask=mask), "with a dense mask, its construction not timed")


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
