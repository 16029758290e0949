"""`kv_indices`: the columns that each query row may see, from block indices to a mask."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def select_columns(indices: Tensor, block: int, sizes: Mapping[str, int], rows: Tensor) -> Tensor:
    """Return which columns int[B, HKV, Q, K] selects for the query `rows`, bool [B, HQ, R, KV].

    Index i selects the columns [i * block, (i + 1) * block) that exist; -1 selects nothing.
    Raises IndexError at any other index without a column.
    """
    expected = (sizes["B"], sizes["HKV"], sizes["Q"])
    if indices.ndim != 4 or tuple(indices.shape[:3]) != expected:
        raise ValueError(
            f"`kv_indices` must be {[*expected, 'K']}, found shape {list(indices.shape)}"
        )
    if block < 1:
        raise ValueError(f"`kv_block` must be at least 1, found {block}")
    block, blocks = _blocks(block, sizes)
    chosen = indices[:, :, rows].to(device=rows.device, dtype=torch.int64)
    wrong = (chosen < -1) | (chosen >= blocks)
    if bool(wrong.any()):
        raise IndexError(f"`kv_indices` selects block {int(chosen[wrong][0])} of {blocks}")
    marks = torch.zeros(*chosen.shape[:3], blocks + 1, dtype=torch.bool, device=rows.device)
    marks.scatter_(3, torch.where(chosen < 0, blocks, chosen), True)
    columns = marks[..., :blocks].repeat_interleave(block, dim=3)[..., : sizes["KV"]]
    return columns.repeat_interleave(sizes["HQ"] // sizes["HKV"], dim=1)


def selected_by_any(indices: Tensor, block: int, sizes: Mapping[str, int]) -> Tensor:
    """Return which columns some query row selects, bool [B, HKV, KV]; wrong indices mark none."""
    block, blocks = _blocks(block, sizes)
    chosen = indices.reshape(*indices.shape[:2], -1).long()
    valid = (chosen >= 0) & (chosen < blocks)
    marks = torch.zeros(*chosen.shape[:2], blocks + 1, dtype=torch.bool, device=indices.device)
    marks.scatter_(2, torch.where(valid, chosen, blocks), True)
    return marks[..., :blocks].repeat_interleave(block, dim=2)[..., : sizes["KV"]]


def _blocks(block: int, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Return the columns of a block, where a larger one has the same, and how many there are."""
    block = min(block, max(sizes["KV"], 1))
    return block, -(-sizes["KV"] // block)
