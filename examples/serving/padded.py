"""The cache of torch's `scaled_dot_product_attention`: padded rows, and a mask of who has a key."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from serving.caches import Share, SlotCache


class PaddedCache(SlotCache):
    """Rows of the longest sequence's length. Heads that share a key are rows of one call."""

    def begin(self, step: Sequence[Share]) -> None:
        """Make the masks of the single tokens and of each run of several."""
        super().begin(step)
        group = self.shape.heads // self.shape.kv_heads
        self._causal = {
            share.sequence: (
                torch.arange(share.end) <= torch.arange(share.begin, share.end).unsqueeze(1)
            ).repeat(group, 1)
            for share in step
            if share.count > 1
        }
        ends = [share.end for share in step if share.count == 1]
        self._longest = max(ends, default=0)
        seen = torch.arange(self._longest) < self.lens.unsqueeze(1)
        self._seen = seen[:, None, None]

    def run_of_tokens(self, layer: int, q: Tensor, share: Share) -> Tensor:
        """Attend under a causal mask."""
        end, grouped = share.end, self._grouped(q)
        rows = grouped.permute(1, 2, 0, 3).flatten(1, 2).unsqueeze(0)
        k, v = (x[layer, share.sequence, None, :, :end] for x in (self.k, self.v))
        mask = self._causal[share.sequence]
        out = scaled_dot_product_attention(rows, k, v, attn_mask=mask)
        each = out.view(self.shape.kv_heads, -1, share.count, self.shape.head_dim)
        return each.permute(2, 0, 1, 3).reshape(q.shape)

    def single_tokens(self, layer: int, q: Tensor) -> Tensor:
        """Attend to as many keys as the longest has."""
        rows = self._grouped(q)
        k, v = (x[layer, :, :, : self._longest] for x in (self.k, self.v))
        return scaled_dot_product_attention(rows, k, v, attn_mask=self._seen).flatten(1, 2)

    def _grouped(self, q: Tensor) -> Tensor:
        """Return [n, HKV, G, D]."""
        return q.view(q.shape[0], self.shape.kv_heads, -1, self.shape.head_dim)
