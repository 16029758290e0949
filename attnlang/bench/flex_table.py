"""Variants of the gallery as a user of FlexAttention writes them: closures, by the variant's name.

The mask is said once as a `mask_mod` and the score once as a `score_mod`; positions of queries are
aligned at the bottom right, as ours are. A variant that is not here cannot be said, or nobody has
written it down. Whoever compares checks the results: a name alone promises nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from attnlang.invent.inputs import Call

# What FlexAttention passes are tensors without dimensions, and closures are traced with them.
ScoreMod = Callable[[Any, Any, Any, Any, Any], Any]
MaskMod = Callable[[Any, Any, Any, Any], Any]


@dataclass(frozen=True, slots=True)
class FlexForm:
    """A variant for FlexAttention; `batch` tells that the mask reads b."""

    score: ScoreMod | None = None
    mask: MaskMod | None = None
    batch: bool = False
    scale: float | None = None


def flex_form(name: str, call: Call) -> FlexForm | None:
    """Return a variant of the gallery on a call, or None where it is not in the table."""
    make = _FORMS.get(name)
    return None if make is None else make(call)


def _position(call: Call) -> int:
    return call.shape.kv - call.shape.q


def _causal(call: Call) -> MaskMod:
    first = _position(call)
    return lambda b, h, q, k: k <= q + first


def _window(call: Call) -> MaskMod:
    first, size = _position(call), call.scalars["window_size"]
    return lambda b, h, q, k: (k <= q + first) & (q + first - k < size)


def _soft_cap(call: Call) -> ScoreMod:
    cap = call.scalars["cap"]
    return lambda score, b, h, q, k: cap * torch.tanh(score / cap)


def _alibi(call: Call) -> ScoreMod:
    first, slopes = _position(call), _tensor(call, "slopes")
    return lambda score, b, h, q, k: score + slopes[h] * (k - q - first)


def _relative_table(call: Call) -> ScoreMod:
    first, table = _position(call), _tensor(call, "table")
    reach = table.shape[1] // 2
    return lambda score, b, h, q, k: (
        score + table[h, torch.clamp(k - q - first + reach, 0, 2 * reach)]
    )


def _document(call: Call) -> MaskMod:
    first, doc = _position(call), _tensor(call, "doc")
    return lambda b, h, q, k: (k <= q + first) & (doc[b, q + first] == doc[b, k])


def _prefix_lm(call: Call) -> MaskMod:
    first, prefix = _position(call), _tensor(call, "prefix")
    return lambda b, h, q, k: (k <= q + first) | (k < prefix[b])


def _padding(call: Call) -> MaskMod:
    length = _tensor(call, "length")
    return lambda b, h, q, k: k < length[b]


def _chunked(call: Call) -> MaskMod:
    first, size = _position(call), call.scalars["chunk_size"]
    return lambda b, h, q, k: (k <= q + first) & ((q + first) // size == k // size)


def _block_causal(call: Call) -> MaskMod:
    first, size = _position(call), call.scalars["block_size"]
    return lambda b, h, q, k: k // size <= (q + first) // size


def _both_ways(call: Call) -> MaskMod:
    first, left, right = _position(call), call.scalars["left"], call.scalars["right"]
    return lambda b, h, q, k: (q + first - k <= left) & (k - q - first <= right)


def _tensor(call: Call, name: str) -> torch.Tensor:
    value = call.params[name]
    assert isinstance(value, torch.Tensor)
    return value


_FORMS: Mapping[str, Callable[[Call], FlexForm]] = {
    "full": lambda call: FlexForm(),
    "causal": lambda call: FlexForm(mask=_causal(call)),
    "sliding_window": lambda call: FlexForm(mask=_window(call)),
    "bidirectional_window": lambda call: FlexForm(mask=_both_ways(call)),
    "soft_cap": lambda call: FlexForm(_soft_cap(call)),
    "alibi": lambda call: FlexForm(_alibi(call)),
    "relative_table": lambda call: FlexForm(_relative_table(call)),
    "document": lambda call: FlexForm(mask=_document(call), batch=True),
    "prefix_lm": lambda call: FlexForm(mask=_prefix_lm(call), batch=True),
    "padding": lambda call: FlexForm(mask=_padding(call), batch=True),
    "chunked": lambda call: FlexForm(mask=_chunked(call)),
    "block_causal": lambda call: FlexForm(mask=_block_causal(call)),
    "gemma2_local": lambda call: FlexForm(_soft_cap(call), _window(call)),
}
