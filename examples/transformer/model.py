"""The encoder-decoder of section 3 of the paper, with normalisation after each sublayer.

Maps sources [B, S] to what a decoder needs of them, a `State`, and targets [B, T] with a state to
logits [B, T, V] and the state behind them. Training decodes all tokens of a target at once, search
one after the other: it is the same function. What is learnt from may also be `Rows` of tokens
without padding, mapped to logits [sum T, V].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transformer.attention import Ends, MultiHeadAttention
from transformer.batches import Rows
from transformer.fillers import Heads, Keys
from transformer.gallery import Attention, Place, compiled


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a model, and the variants that it attends with."""

    vocabulary: int
    width: int = 128
    heads: int = 4
    inner: int = 512
    layers: int = 2
    dropout: float = 0.1
    longest: int = 128
    attention: str = "full"  # of the encoder and the decoder to themselves
    cross: str = "full"  # of the decoder to the encoder

    def of_heads(self) -> Heads:
        """Return the size of an attention layer."""
        return Heads(self.width, self.heads, self.longest)


def sinusoids(length: int, width: int) -> Tensor:
    """Return the positions' encodings [length, width]: section 3.5 of the paper."""
    angles = torch.arange(length)[:, None] * 1e4 ** (-torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


class Residual(nn.Module):
    """What is around each sublayer: LayerNorm(x + dropout(y))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(shape.width), nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Add a sublayer's result y to its input x."""
        normed: Tensor = self.norm(x + self.dropout(y))
        return normed


class FeedForward(nn.Sequential):
    """Two linear maps of each position, with a rectifier between them."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(
            nn.Linear(shape.width, shape.inner), nn.ReLU(), nn.Linear(shape.inner, shape.width)
        )


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, shape: Shape, attention: Attention) -> None:
        super().__init__()
        place = Place(shape.attention, shape.dropout)
        self.attention = MultiHeadAttention(place, shape.of_heads(), attention)
        self.feed = FeedForward(shape)
        self.residuals = nn.ModuleList(Residual(shape) for _ in range(2))

    def forward(self, x: Tensor, lengths: Tensor | Ends) -> Tensor:
        """Map the positions x of sources with such lengths."""
        attended, fed = self.residuals
        x = attended(x, self.attention(x, self.attention.keys(x), lengths))
        x = fed(x, self.feed(x))
        return x


@dataclass(frozen=True, slots=True)
class Past:
    """What a decoder layer keeps: its own keys, none at first, and those of the source."""

    own: Keys | None
    source: Keys

    def of(self, rows: Tensor) -> Past:
        """Return that of some sequences of the batch."""
        return Past(None if self.own is None else self.own.of(rows), self.source.of(rows))


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the source, then feed-forward."""

    def __init__(self, shape: Shape, attention: Attention) -> None:
        super().__init__()
        own = Place(shape.attention, shape.dropout, causal=True)
        source = Place(shape.cross, shape.dropout, crosses=True)
        self.attention = MultiHeadAttention(own, shape.of_heads(), attention)
        self.cross = MultiHeadAttention(source, shape.of_heads(), attention)
        self.feed = FeedForward(shape)
        self.residuals = nn.ModuleList(Residual(shape) for _ in range(3))

    def forward(
        self, x: Tensor, past: Past, lengths: Tensor | Ends, start: int, ends: Ends | None = None
    ) -> tuple[Tensor, Past]:
        """Map the positions x from `start` on; `lengths` are the sources', `ends` are x's own."""
        attended, crossed, fed = self.residuals
        new = self.attention.keys(x)
        own = new if past.own is None else past.own.then(new)
        x = attended(x, self.attention(x, own, ends, start))
        x = crossed(x, self.cross(x, past.source, lengths, start))
        return fed(x, self.feed(x)), Past(own, past.source)


@dataclass(frozen=True, slots=True)
class State:
    """What a decoder knows: the layers' pasts, the sources' lengths, and where it stands."""

    layers: tuple[Past, ...]
    lengths: Tensor
    position: int = 0  # of the next token

    def of(self, rows: Tensor) -> State:
        """Return the state of some sequences of the batch, in their order; they may repeat."""
        return State(tuple(p.of(rows) for p in self.layers), self.lengths[rows], self.position)


class Transformer(nn.Module):
    """Encoder and decoder; the embeddings of both and the last linear map are one matrix."""

    positions: Tensor

    def __init__(self, shape: Shape, attention: Attention = compiled) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.register_buffer("positions", sinusoids(shape.longest, shape.width), persistent=False)
        self.dropout = nn.Dropout(shape.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(shape, attention) for _ in range(shape.layers))
        self.decoder = nn.ModuleList(DecoderLayer(shape, attention) for _ in range(shape.layers))
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and "params" not in name:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.embedding.weight, std=shape.width**-0.5)

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Return the logits [B, T, V] of what follows each token of the targets."""
        return self.advance(target, self.read(source, lengths))[0]

    @property
    def packs(self) -> bool:
        """Whether it learns from rows without padding: all of its attention takes them."""
        return all(m.packs for m in self.modules() if isinstance(m, MultiHeadAttention))

    def learn(self, source: Rows, target: Rows) -> Tensor:
        """Return the logits [sum T, V] of what follows each token of the targets."""
        x, y = (self._embed(rows.tokens, rows.places) for rows in (source, target))
        for layer in self.encoder:
            x = layer(x, Ends(source.ends, source.ends))
        for decoder in self._decoder():
            past, across = Past(None, decoder.cross.keys(x)), Ends(target.ends, source.ends)
            y, _ = decoder(y, past, across, 0, Ends(target.ends, target.ends))
        return F.linear(y, self.embedding.weight)

    def read(self, source: Tensor, lengths: Tensor) -> State:
        """Encode sources [B, S] that end at `lengths` [B]."""
        x = self._embed(source, slice(source.shape[1]))
        for layer in self.encoder:
            x = layer(x, lengths)
        return State(tuple(Past(None, d.cross.keys(x)) for d in self._decoder()), lengths)

    def advance(self, target: Tensor, state: State) -> tuple[Tensor, State]:
        """Read further tokens [B, T] of the targets; return their logits and the state behind."""
        start, pasts = state.position, list[Past]()
        x = self._embed(target, slice(start, start + target.shape[1]))
        for layer, past in zip(self._decoder(), state.layers, strict=True):
            x, past = layer(x, past, state.lengths, start)
            pasts.append(past)
        logits = F.linear(x, self.embedding.weight)
        return logits, State(tuple(pasts), state.lengths, start + target.shape[1])

    def _embed(self, tokens: Tensor, places: Tensor | slice) -> Tensor:
        x = self.embedding(tokens) * math.sqrt(self.shape.width)
        embedded: Tensor = self.dropout(x + self.positions[places])
        return embedded

    def _decoder(self) -> Sequence[DecoderLayer]:
        return [layer for layer in self.decoder if isinstance(layer, DecoderLayer)]
