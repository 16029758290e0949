"""Multi-head attention: projections around one call of a variant.

Maps rows [B, Q, W] and what they look at, [B, KV, W], to [B, Q, W]; or rows of sequences one after
another, [sum Q, W] and [sum KV, W], to [sum Q, W]. Keys are made apart, so that a decoder keeps
those of the tokens behind it and makes each once.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

import attnlang
from transformer.fillers import CROSS, FILLERS, PACKED, Call, Heads, Keys, filler
from transformer.gallery import Attention, Place


@dataclass(frozen=True, slots=True)
class Ends:
    """Where sequences that lie one after another begin, and the end, [B + 1]: rows' and keys'."""

    rows: Tensor
    keys: Tensor


class MultiHeadAttention(nn.Module):
    """Attention of `heads.count` heads in a place of the model."""

    def __init__(self, place: Place, heads: Heads, attention: Attention) -> None:
        super().__init__()
        self.params = filler(place.variant, CROSS if place.crosses else FILLERS)(heads)
        self._place, self._heads, self._attention = place, heads, attention
        self.to_q, self.to_k, self.to_v, self.to_out = (
            nn.Linear(heads.width, heads.width) for _ in range(4)
        )

    @property
    def packs(self) -> bool:
        """Whether it takes sequences one after another: a variant that reads nothing of them."""
        attend = self._attention(self._place, self.training)
        return self._place.variant in PACKED and isinstance(attend, attnlang.Variant)

    def keys(self, memory: Tensor) -> Keys:
        """Return what queries look at: keys and values of a memory."""
        return Keys(memory, self._split(self.to_k(memory)), self._split(self.to_v(memory)))

    def forward(
        self, x: Tensor, keys: Keys, lengths: Tensor | Ends | None = None, start: int = 0
    ) -> Tensor:
        """Attend from x, whose first row is at position `start`, to keys that end at `lengths`.

        With `Ends` from sequences one after another to such keys.
        """
        q = self._split(self.to_q(x))
        attend = self._attention(self._place, self.training)
        if isinstance(lengths, Ends):
            assert isinstance(attend, attnlang.Variant)
            params = self.params(Call(x, keys, None, start))
            ends = (lengths.rows, lengths.keys)
            heads = attend.ragged(q, keys.k, keys.v, *ends, q_offset=start, **params)
        else:
            params = self.params(Call(x, keys, lengths, start))
            heads = attend(q, keys.k, keys.v, q_offset=start, kv_lens=lengths, **params)
            heads = heads.transpose(1, 2)
        joined: Tensor = self.to_out(heads.flatten(-2))
        return joined

    def _split(self, x: Tensor) -> Tensor:
        """[B, N, W] -> [B, H, N, W / H], [N, W] -> [N, H, W / H]; views."""
        heads = x.view(*x.shape[:-1], self._heads.count, self._heads.dim)
        return heads.transpose(1, 2) if x.dim() == 3 else heads
