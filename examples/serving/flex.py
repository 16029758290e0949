"""The cache of FlexAttention, compiled: its block mask is made anew in every step.

The mask itself is made uncompiled: torch 2.13's compiler makes C++ of it that does not compile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import pad

from serving.caches import Share, SlotCache
from serving.model import Shape

_BLOCK = 128


class FlexCache(SlotCache):
    """Rows of a fixed length, and runs of a fixed number of tokens: a shape is compiled once."""

    def __init__(
        self, shape: Shape, sequences: int, longest: int, dtype: torch.dtype, chunk: int
    ) -> None:
        self._length = -(-longest // _BLOCK) * _BLOCK
        super().__init__(shape, sequences, self._length, dtype)
        self._chunk = chunk
        self._attend: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=False)

    def begin(self, step: Sequence[Share]) -> None:
        """Make the masks of the step, once for all layers."""
        super().begin(step)
        self._runs = {s.sequence: self._causal(s) for s in step if s.count > 1}
        if any(s.count == 1 for s in step):
            self._single = self._present()

    def _causal(self, share: Share) -> BlockMask:
        begin = torch.tensor(share.begin)

        def causal(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return j <= begin + i

        return create_block_mask(causal, None, None, self._chunk, self._length, device="cpu")

    def _present(self) -> BlockMask:
        lens = self.lens.clone()

        def present(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return j < lens[b]

        return create_block_mask(present, self.sequences + 1, None, 1, self._length, device="cpu")

    def run_of_tokens(self, layer: int, q: Tensor, share: Share) -> Tensor:
        """Attend with rows of nothing behind the tokens, up to the fixed number."""
        rows = pad(q, (0, 0, 0, 0, 0, self._chunk - share.count)).transpose(0, 1).unsqueeze(0)
        k, v = (x[layer, share.sequence].unsqueeze(0) for x in (self.k, self.v))
        mask = self._runs[share.sequence]
        out = self._attend(rows, k, v, block_mask=mask, enable_gqa=True)
        return out[0, :, : share.count].transpose(0, 1)

    def single_tokens(self, layer: int, q: Tensor) -> Tensor:
        """Attend in one call."""
        k, v = self.k[layer], self.v[layer]
        out = self._attend(q.unsqueeze(2), k, v, block_mask=self._single, enable_gqa=True)
        return out.squeeze(2)
