"""Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

The contract of dropout, for the reference and for every kernel. The element (b, h, q_idx, kv_idx)
of a call with `seed` draws

    key     = (seed mod 2**32, seed // 2**32 mod 2**32)
    counter = (kv_idx, q_idx, h, b), each modulo 2**32 (positions may be negative)
    word    = word 0 of Philox4x32-10(counter, key)
    uniform = (word >> 8) * 2**-24, in [0, 1), exact in float32

and is kept iff uniform >= p, with p rounded to float32. Words are held in int64 tensors, in
[0, 2**32).
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def _multiply(word: Tensor, constant: int) -> tuple[Tensor, Tensor]:
    """Return the high and low words of the 64-bit product, without leaving the int64 range."""
    low, high = word & 0xFFFF, word >> 16
    first = low * constant  # < 2**48
    second = high * constant + (first >> 16)  # < 2**49
    return second >> 16, ((second << 16) | (first & 0xFFFF)) & _MASK


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four words that Philox4x32-10 makes of broadcastable counters and a key."""
    c0, c1, c2, c3 = (c & _MASK for c in counter)
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def kept(p: Tensor, seed: int, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """Return which elements dropout with probability `p` keeps."""
    word, _, _, _ = philox((kv_idx, q_idx, h, b), (seed & _MASK, (seed >> 32) & _MASK))
    uniform = (word >> 8).to(torch.float32) * 2.0**-24
    return uniform >= p.detach().to(torch.float32)
