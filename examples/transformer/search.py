"""Beam search: the targets that a model thinks likely.

Maps sources to the best target of each. A beam is a row of the batch: source b has the rows
[b * width, (b + 1) * width). What decoder layers keep of the tokens behind moves with the beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transformer.batches import sources
from transformer.model import State, Transformer
from transformer.vocabulary import BEGIN, END, PAD, Vocabulary


@dataclass(frozen=True, slots=True)
class Beams:
    """The search at one step: `tokens` [B, K, T] and the sums of their logarithms [B, K]."""

    tokens: Tensor
    scores: Tensor
    ended: Tensor  # bool [B, K]: an end was chosen, and PAD since


def normalised(beams: Beams, alpha: float) -> Tensor:
    """Return scores by length [B, K], so that long targets may win: Wu et al. 2016, equation 14."""
    lengths = (beams.tokens != PAD).sum(2) - 1  # without BEGIN
    return beams.scores / ((5 + lengths) / 6) ** alpha


@torch.no_grad()
def search(
    model: Transformer, source: Tensor, lengths: Tensor, *, width: int = 4, alpha: float = 0.6
) -> list[list[int]]:
    """Return the best target of each source [B, S], without BEGIN and END."""
    model.eval()
    count, longest = source.shape[0], model.shape.longest
    state = model.read(source, lengths).of(torch.arange(count).repeat_interleave(width))
    # At first all beams are alike: the first one alone may go on.
    beams = Beams(
        torch.full((count, width, 1), BEGIN),
        torch.tensor([0.0] + [-torch.inf] * (width - 1)).repeat(count, 1),
        torch.zeros(count, width, dtype=torch.bool),
    )
    while not beams.ended.all() and beams.tokens.shape[2] < longest:
        beams, state = _further(model, beams, state)
    best = normalised(beams, alpha).argmax(1)
    chosen = beams.tokens[torch.arange(count), best]
    return [[n for n in row if n > END] for row in chosen.tolist()]


def _further(model: Transformer, beams: Beams, state: State) -> tuple[Beams, State]:
    """Extend the beams by a token each, and keep the best of each source."""
    count, width, _ = beams.tokens.shape
    logits, state = model.advance(beams.tokens[:, :, -1].reshape(-1, 1), state)
    likely = logits[:, -1].log_softmax(1).view(count, width, -1)
    likely[:, :, [PAD, BEGIN]] = -torch.inf
    only_pad = torch.full_like(likely[0, 0], -torch.inf)
    only_pad[PAD] = 0.0
    likely = torch.where(beams.ended[:, :, None], only_pad, likely)
    scores, places = (beams.scores[:, :, None] + likely).flatten(1).topk(width)
    origin, token = places // likely.shape[2], places % likely.shape[2]
    ended = beams.ended.gather(1, origin) | (token == END)
    before = beams.tokens.gather(1, origin[:, :, None].expand(-1, -1, beams.tokens.shape[2]))
    rows = (torch.arange(count)[:, None] * width + origin).flatten()
    return Beams(torch.cat([before, token[:, :, None]], 2), scores, ended), state.of(rows)


def translate(
    model: Transformer, vocabulary: Vocabulary, texts: Sequence[str], *, batch: int = 128
) -> list[str]:
    """Return what the model makes of texts, in their order; like lengths are searched together."""
    encoded = [vocabulary.encode(text) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
    found: dict[int, str] = {}
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        targets = search(model, *sources([encoded[i] for i in rows]))
        found |= {i: vocabulary.decode(t) for i, t in zip(rows, targets, strict=True)}
    return [found[i] for i in range(len(texts))]
