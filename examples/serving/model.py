"""A decoder with random weights: RMSNorm, grouped heads with rotary positions, a gated inner layer.

It maps the new tokens of all sequences, one after another, to the hidden states of some of them;
where earlier keys lie, and who may see what, is the matter of `attend` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# (layer, q [n, HQ, D], k [n, HKV, D], v [n, HKV, D]) to [n, HQ, D]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder."""

    vocabulary: int = 1024
    layers: int = 4
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 64
    inner: int = 1024

    @property
    def width(self) -> int:
        """The width of the residual stream."""
        return self.heads * self.head_dim


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Turn the pairs (t, t + D / 2) of x [n, H, D] by positions [n]."""
    half = x.shape[-1] // 2
    turns = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = (positions.unsqueeze(1) * turns).unsqueeze(1)
    cos, sin = angles.cos().float(), angles.sin().float()
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class Layer(nn.Module):
    """Attention and the inner layer, each behind its norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        heads = shape.heads + 2 * shape.kv_heads
        self.shape = shape
        self.qkv = nn.Linear(shape.width, heads * shape.head_dim, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        self.up = nn.Linear(shape.width, 2 * shape.inner, bias=False)
        self.down = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, x: Tensor, positions: Tensor, number: int, attend: Attend) -> Tensor:
        """Map x [n, width]; `number` is the layer's."""
        heads = self.qkv(_norm(x)).view(x.shape[0], -1, self.shape.head_dim)
        sizes = [self.shape.heads, self.shape.kv_heads, self.shape.kv_heads]
        q, k, v = heads.split(sizes, dim=1)
        q, k = rotate(q, positions), rotate(k, positions)
        x = x + self.out(attend(number, q, k, v).flatten(1))
        gate, value = self.up(_norm(x)).chunk(2, dim=-1)
        x = x + self.down(F.silu(gate) * value)
        return x


class Decoder(nn.Module):
    """The whole; the embedding is the last layer, too."""

    def __init__(self, shape: Shape, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.shape = shape
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(shape.vocabulary, shape.width)
            self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.requires_grad_(False).to(dtype)

    def forward(self, tokens: Tensor, positions: Tensor, asked: Tensor, attend: Attend) -> Tensor:
        """Return the logits [m, vocabulary] behind the tokens [n] with the numbers `asked` [m]."""
        x = self.embedding(tokens)
        for number, layer in enumerate(self.layers):
            x = layer(x, positions, number, attend)
        scores = F.linear(_norm(x[asked]), self.embedding.weight)
        return scores.float() / math.sqrt(self.shape.width)


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:])
