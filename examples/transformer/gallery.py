"""From a variant's name to what attention calls, in the three places of a Transformer.

A spec is text whose statements run in order, so a variant of the gallery takes a place by a
statement more: a decoder's looks at nothing ahead, and in training a share of the weights drops
out. Lengths of padded sequences are the call's `kv_lens` and need no statement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch import Tensor

import attnlang

GALLERY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Place:
    """Where attention stands: which variant, and what is added to it there."""

    variant: str
    dropout: float  # in training
    causal: bool = False
    crosses: bool = False  # from one sequence to another


Attend = Callable[..., Tensor]
Attention = Callable[[Place, bool], Attend]  # the second says whether the model is in training


@lru_cache
def compiled(place: Place, training: bool) -> Attend:
    """Return the variant of a place; it is compiled when it is called."""
    text = (GALLERY / f"{place.variant}.attn").read_text(encoding="utf-8")
    if place.causal:
        text += "    mask = mask and causal\n"
    if training and place.dropout:
        text += f"    weights = weights * dropout({place.dropout})\n"
    return attnlang.loads(text)
