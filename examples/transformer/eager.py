"""The same attention by torch's own operators: what the compiled one is compared with.

Only `full` is written here, for the three places of the paper's model.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from transformer.gallery import Attend, Place


def eager(place: Place, training: bool) -> Attend:
    """Return scaled dot-product attention with the masks of a place."""
    if place.variant != "full":
        raise ValueError(f"`{place.variant}` is written for the compiler alone, not for torch")

    def attend(q: Tensor, k: Tensor, v: Tensor, *, q_offset: int, kv_lens: Tensor | None) -> Tensor:
        scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
        columns = torch.arange(k.shape[2])
        if place.causal:
            rows = torch.arange(q_offset, q_offset + q.shape[2])
            scores = scores.masked_fill(columns > rows[:, None], -torch.inf)
        if kv_lens is not None:
            scores = scores.masked_fill(columns >= kv_lens[:, None, None, None], -torch.inf)
        return F.dropout(scores.softmax(3), place.dropout, training) @ v

    return attend
