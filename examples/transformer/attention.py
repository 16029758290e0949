"""Multi-head attention: projections around one call of a variant.

Maps rows [B, Q, W] and what they look at, [B, KV, W], to [B, Q, W]. Keys are made apart, so that a
decoder keeps those of the tokens behind it and makes each once.
"""

from __future__ import annotations

from torch import Tensor, nn

from transformer.fillers import CROSS, FILLERS, Call, Heads, Keys, filler
from transformer.gallery import Attention, Place


class MultiHeadAttention(nn.Module):
    """Attention of `heads.count` heads in a place of the model."""

    def __init__(self, place: Place, heads: Heads, attention: Attention) -> None:
        super().__init__()
        self.params = filler(place.variant, CROSS if place.crosses else FILLERS)(heads)
        self._place, self._heads, self._attention = place, heads, attention
        self.to_q, self.to_k, self.to_v, self.to_out = (
            nn.Linear(heads.width, heads.width) for _ in range(4)
        )

    def keys(self, memory: Tensor) -> Keys:
        """Return what queries look at: keys and values of a memory [B, KV, W]."""
        return Keys(memory, self._split(self.to_k(memory)), self._split(self.to_v(memory)))

    def forward(
        self, x: Tensor, keys: Keys, lengths: Tensor | None = None, start: int = 0
    ) -> Tensor:
        """Attend from x, whose first row is at position `start`, to keys that end at `lengths`."""
        q = self._split(self.to_q(x))
        params = self.params(Call(x, keys, lengths, start))
        attend = self._attention(self._place, self.training)
        heads = attend(q, keys.k, keys.v, q_offset=start, kv_lens=lengths, **params)
        joined: Tensor = self.to_out(heads.transpose(1, 2).flatten(2))
        return joined

    def _split(self, x: Tensor) -> Tensor:
        """[B, N, W] -> [B, H, N, W / H], a view."""
        return x.view(*x.shape[:2], self._heads.count, self._heads.dim).transpose(1, 2)
