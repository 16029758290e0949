"""From pairs of texts to batches, padded or one sequence after the other.

Invariant: a batch is a function of the seed and the step alone, so a run that resumes at a step
reads what it would have read.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from transformer.pairs import Pair
from transformer.vocabulary import BEGIN, END, PAD, Vocabulary

_POOL = 16  # batches whose pairs are sorted by length together

Encoded = tuple[list[int], list[int]]


@dataclass(frozen=True, slots=True)
class Rows:
    """The tokens of sequences one after another, their places in these, and `ends` [B + 1]."""

    tokens: Tensor
    places: Tensor
    ends: Tensor

    @staticmethod
    def of(padded: Tensor, there: Tensor) -> Rows:
        """Return the tokens of padded sequences [B, N] that are there."""
        places = torch.arange(padded.shape[1]).expand_as(padded)
        ends = F.pad(there.sum(1).cumsum(0), (1, 0))
        return Rows(padded[there], places[there], ends)


@dataclass(frozen=True, slots=True)
class Batch:
    """Sources [B, S] with their lengths [B]; targets [B, T] as they are read and as foretold."""

    source: Tensor
    lengths: Tensor
    target: Tensor  # begins with BEGIN
    foretold: Tensor  # ends with END: the target one place further

    def rows(self) -> tuple[Rows, Rows]:
        """Return sources and targets without padding."""
        there = torch.arange(self.source.shape[1]) < self.lengths[:, None]
        return Rows.of(self.source, there), Rows.of(self.target, self.foretold != PAD)

    @property
    def tokens(self) -> int:
        """The tokens that are no padding."""
        return int(self.lengths.sum()) + int((self.foretold != PAD).sum())


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return rows as one tensor, filled up with PAD at their ends."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *(PAD,) * (width - len(row))] for row in rows])


def sources(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return the sources of a batch and their lengths, ends included."""
    ended = [[*row, END] for row in rows]
    return padded(ended), torch.tensor([len(row) for row in ended])


class Batches:
    """The batches of a training run: epochs in ever new orders, each of pairs of like lengths."""

    def __init__(self, pairs: Sequence[Pair], vocabulary: Vocabulary, size: int, seed: int) -> None:
        self._pairs = [(vocabulary.encode(s), vocabulary.encode(t)) for s, t in pairs]
        self._size, self._seed = min(size, len(pairs)), seed
        self._epoch, self._order = -1, list[list[int]]()

    def __getitem__(self, step: int) -> Batch:
        epoch, place = divmod(step, len(self._pairs) // self._size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(epoch)
        chosen = [self._pairs[i] for i in self._order[place]]
        source, lengths = sources([s for s, _ in chosen])
        return Batch(
            source,
            lengths,
            padded([[BEGIN, *t] for _, t in chosen]),
            padded([[*t, END] for _, t in chosen]),
        )

    def _shuffled(self, epoch: int) -> list[list[int]]:
        """Return an epoch's batches, full ones alone: numbers of pairs."""
        rng = random.Random(f"{self._seed} {epoch}")
        order = rng.sample(range(len(self._pairs)), len(self._pairs))
        pool = _POOL * self._size
        sizes = {i: (len(s), len(t)) for i, (s, t) in enumerate(self._pairs)}
        order = [
            i
            for start in range(0, len(order), pool)
            for i in sorted(order[start : start + pool], key=sizes.__getitem__)
        ]
        count = len(order) // self._size
        batches = [order[i * self._size : (i + 1) * self._size] for i in range(count)]
        rng.shuffle(batches)
        return batches
