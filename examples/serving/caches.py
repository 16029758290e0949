"""What the loop asks of the place where keys and values lie, and the place of fixed slots.

A sequence has a number, from 0 to the most that run at once; the one behind the last holds the
common beginning. `fork` begins a sequence as a copy of another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from serving.model import Shape


@dataclass(frozen=True, slots=True)
class Share:
    """A sequence's share of a step: `count` tokens behind `begin` earlier ones."""

    sequence: int
    begin: int
    count: int

    @property
    def end(self) -> int:
        """The keys of the sequence after the step."""
        return self.begin + self.count


class Cache(Protocol):
    """The keys and values of all sequences and layers."""

    def fork(self, parent: int, child: int) -> None:
        """Let `child` begin with all that `parent` has."""

    def release(self, sequence: int) -> None:
        """Forget a sequence."""

    def begin(self, step: Sequence[Share]) -> None:
        """Prepare for a step, once for all layers."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the step's keys and values, and attend; rows as the shares say."""


class SlotCache(ABC):
    """A row of a big tensor for each sequence, as long as the longest may become."""

    def __init__(self, shape: Shape, sequences: int, longest: int, dtype: torch.dtype) -> None:
        size = (2, shape.layers, sequences + 1, shape.kv_heads, longest, shape.head_dim)
        self.k, self.v = torch.zeros(size, dtype=dtype)
        self.shape, self.sequences = shape, sequences
        self.lens = torch.zeros(sequences + 1, dtype=torch.int64)
        self.step: Sequence[Share] = ()

    def fork(self, parent: int, child: int) -> None:
        """Copy the rows."""
        count = int(self.lens[parent])
        for x in (self.k, self.v):
            x[:, child, :, :count] = x[:, parent, :, :count]
        self.lens[child] = count

    def release(self, sequence: int) -> None:
        """Make a sequence empty."""
        self.lens[sequence] = 0

    def begin(self, step: Sequence[Share]) -> None:
        """Note the lengths and where new tokens go."""
        self.step = step
        for share in step:
            self.lens[share.sequence] = share.end
        counts = torch.tensor([share.count for share in step])
        self._slots = torch.tensor([share.sequence for share in step]).repeat_interleave(counts)
        self._places = torch.cat([torch.arange(s.begin, s.end) for s in step])

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Single tokens go in one call for all sequences, each run of several in its own."""
        self.k[layer, self._slots, :, self._places] = k
        self.v[layer, self._slots, :, self._places] = v
        out, row, single = torch.empty_like(q), 0, []
        for share in self.step:
            if share.count == 1:
                single.append(row)
            else:
                rows = slice(row, row + share.count)
                out[rows] = self.run_of_tokens(layer, q[rows], share)
            row += share.count
        if single:
            at = torch.tensor(single)
            slots = self._slots[at]
            every = q.new_zeros(self.sequences + 1, *q.shape[1:])
            every[slots] = q[at]
            out[at] = self.single_tokens(layer, every)[slots]
        return out

    @abstractmethod
    def run_of_tokens(self, layer: int, q: Tensor, share: Share) -> Tensor:
        """Attend for q [count, HQ, D], the last tokens of one sequence."""

    @abstractmethod
    def single_tokens(self, layer: int, q: Tensor) -> Tensor:
        """Attend for q [sequences + 1, HQ, D], the last token of each; some rows mean nothing."""
