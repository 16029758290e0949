"""Merging attention states: what two disjoint sets of keys give together.

Maps two states (out, lse) over the same rows to one. Invariant: an empty state (lse of -inf)
changes nothing, not a bit, whatever its out holds, and no gradient is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attnlang.ops.errors import CallError

_INF = float("inf")


def merge_states(
    out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor
) -> tuple[Tensor, Tensor]:
    """Merge two attention states over the same rows; associative, differentiable.

    Args:
        out_a: The first result, [..., H, D], of any floating dtype.
        lse_a: Its natural log-sum-exp, [..., H]; -inf marks a row that saw no key.
        out_b: The second result, over other keys.
        lse_b: Its log-sum-exp.

    Returns:
        out in out_a's dtype and lse, in float32 (float64 where an lse is), of both sets of keys.

    Raises:
        CallError: A shape, dtype or device does not fit.

    """
    _check(out_a, lse_a, out_b, lse_b)
    compute = torch.promote_types(torch.promote_types(lse_a.dtype, lse_b.dtype), torch.float32)
    a, b = lse_a.to(compute), lse_b.to(compute)
    empty_a, empty_b = a == -_INF, b == -_INF
    both = ~(empty_a | empty_b)
    # Where one is empty, nothing is computed that has a derivative of NaN.
    # A number beside `torch.where` would come from the host, which no CUDA graph can hold.
    gap = a.masked_fill(~both, 0) - b.masked_fill(~both, 0)
    lse = torch.where(empty_a, b, torch.where(empty_b, a, a - torch.nn.functional.logsigmoid(gap)))
    share, single = torch.sigmoid(gap).unsqueeze(-1), ~both.unsqueeze(-1)
    x, y = (out.to(compute).masked_fill(single, 0) for out in (out_a, out_b))
    mixed = (share * x + torch.sigmoid(-gap).unsqueeze(-1) * y).to(out_a.dtype)
    only_a = (empty_b & ~empty_a).unsqueeze(-1)
    only_b = (empty_a & ~empty_b).unsqueeze(-1)
    out = torch.where(only_a, out_a, torch.where(only_b, out_b.to(out_a.dtype), mixed))
    return out, lse


def merge_in_place(
    outs_a: Sequence[Tensor], lse_a: Tensor, outs_b: Sequence[Tensor], lse_b: Tensor
) -> Tensor:
    """Make of each first result, in float32, that of both sets of keys; return their lse.

    For results of this library's kernels, where no gradient is wanted: what a row has of no key is
    0, so fewer passes over memory do.
    """
    share = torch.sigmoid_(lse_b - lse_a).nan_to_num_(0.0)  # neither saw a key: any share will do
    rest = (1 - share).unsqueeze(-1)
    share = share.unsqueeze(-1)
    for out_a, out_b in zip(outs_a, outs_b, strict=True):
        out_a.mul_(rest).addcmul_(out_b, share)
    return torch.logaddexp(lse_a, lse_b)


def _check(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> None:
    named = {"out_a": out_a, "lse_a": lse_a, "out_b": out_b, "lse_b": lse_b}
    for name, x in named.items():
        if not isinstance(x, Tensor):
            raise CallError(name, "a tensor", type(x).__name__)
        if not x.is_floating_point():
            found = str(x.dtype).removeprefix("torch.")
            raise CallError(name, "a floating dtype", found)
        if x.device != out_a.device:
            raise CallError(name, f"a tensor on out_a's device, {out_a.device}", f"{x.device}")
    if out_a.dim() < 2:
        raise CallError("out_a", "[..., H, D]", f"shape {list(out_a.shape)}")
    if out_b.shape != out_a.shape:
        raise CallError("out_b", f"shape {list(out_a.shape)}", f"shape {list(out_b.shape)}")
    for name, lse in (("lse_a", lse_a), ("lse_b", lse_b)):
        if lse.shape != out_a.shape[:-1]:
            raise CallError(name, f"shape {list(out_a.shape[:-1])}", f"shape {list(lse.shape)}")
