"""Ragged calls of small specs, for tests on the CPU and on a GPU."""

from __future__ import annotations

import torch
from ragged_inputs import Lengths, Packed, pack
from support import Sizes
from torch import Tensor

import attnlang

HEADS = Sizes(1, 4, 2, 0, 0, 40, 24)
LENGTHS = ((5, 40), (0, 7), (1, 0), (70, 300), (33, 33), (1, 1), (1, 517), (3, 2), (0, 0))
SPECS = {
    "plain": "attention plain:\n score = score\n",
    "causal": "attention ragged_causal:\n mask = causal\n",
    "lengths": (  # Q, KV, B and b are the request's
        "attention lengths(a: float[B, HQ]):\n"
        " score = score + a[b, h] + 0.01 * Q + 0.02 * kv_idx / (KV + B)\n"
        " mask = kv_idx <= q_idx + b\n"
    ),
    "rows": (
        "attention rows(bias: float[B, HQ, KV], gain: float[B, Q], order: int[KV]):\n"
        " score = gain[b, q_row] * score + bias[b, h, kv_col]\n"
        " mask = order[kv_col] <= q_idx\n"
    ),
    "weights": "attention weights:\n weights = sigmoid(score - 1)\n mask = causal\n",
}


def call_of(
    name: str, dtype: torch.dtype, lengths: Lengths = LENGTHS, heads: Sizes = HEADS
) -> Packed:
    """Draw a call of a spec."""
    g = torch.Generator().manual_seed(len(name))
    b, q, kv = len(lengths), max(q for q, _ in lengths), max(kv for _, kv in lengths)
    params = {
        "lengths": {"a": torch.randn(b, heads.hq, generator=g)},
        "rows": {
            "bias": torch.randn(b, heads.hq, kv, generator=g),
            "gain": torch.rand(b, q, generator=g) + 0.5,
            "order": torch.randperm(kv + 3, generator=g),
        },
    }.get(name, {})
    return pack(attnlang.loads(SPECS[name]), lengths, heads, dtype, g, params)


def results(call: Packed, **keywords: object) -> tuple[Tensor, Tensor | None]:
    """Return out and lse; None without a softmax."""
    softmax = call.variant.ir.weights.softmax is not None
    found = call.call(return_lse=softmax, **keywords)
    return found if softmax else (found, None)
