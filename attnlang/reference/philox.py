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
_BLOCK = 1 << 15  # elements at a time: the words stay in the cache


def _multiply(word: Tensor, constant: int) -> tuple[Tensor, Tensor]:
    """Return the high and low words of the 64-bit product; the int64 product has the same bits."""
    product = word * constant
    return (product >> 32) & _MASK, product & _MASK


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
    key = (seed & _MASK, (seed >> 32) & _MASK)
    counter = torch.broadcast_tensors(kv_idx, q_idx, h, b)  # type: ignore[no-untyped-call]
    uniform = torch.empty(counter[0].shape, dtype=torch.float32, device=p.device)
    flat = [c.reshape(-1) for c in counter]
    for start in range(0, uniform.numel(), _BLOCK):
        c0, c1, c2, c3 = (c[start : start + _BLOCK] for c in flat)
        word = philox((c0, c1, c2, c3), key)[0]
        uniform.view(-1)[start : start + _BLOCK] = (word >> 8).to(torch.float32) * 2.0**-24
    return uniform >= p.detach().to(torch.float32)
