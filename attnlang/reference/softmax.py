"""Softmax over the columns of each row, as kernels compute it: relative to the row's maximum.

The maximum is a constant of the formulas: no gradient passes through it. Rows without a column
have only scores of -inf, and give weights of 0, an inverse of 1 and an lse of -inf.
"""

from __future__ import annotations

import torch
from torch import Tensor


def normalise(scores: Tensor, sink: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights relative to the row's maximum, the inverse of their sum, and the lse.

    `scores` is [B, HQ, R, KV], -inf where hidden. `sink` [B, HQ, R, 1] adds `exp(sink)` to the
    denominator: `inverse = exp(max) / (sum of exp(scores) + exp(sink))`; the lse never counts it.
    A sink of +inf takes all of the weight, and no gradient.
    """
    largest = scores.new_full((*scores.shape[:-1], 1), -torch.inf)
    if scores.shape[-1]:
        largest = scores.detach().amax(-1, keepdim=True)
    empty = largest == -torch.inf
    largest = torch.where(empty, torch.zeros_like(largest), largest)
    weights = torch.exp(scores - largest)
    total = torch.where(empty, torch.ones_like(largest), weights.sum(-1, keepdim=True))
    lse = torch.where(empty, torch.full_like(largest, -torch.inf), torch.log(total) + largest)
    if sink is None:
        return weights, 1 / total, lse
    infinite = sink == torch.inf
    sink = torch.where(infinite, largest, sink)
    reference = torch.maximum(largest, sink.detach())
    share = torch.exp(largest - reference)
    inverse = share / (total * share + torch.exp(sink - reference))
    return weights, torch.where(infinite, 0.0, inverse), lse
