"""Training as in section 5 of the paper: Adam, a warm-up, label smoothing.

Maps a model and batches to the losses of the steps. Invariant: a run is determined by its plan and
its shape, and one that stopped at a checkpoint goes on as if it had not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from transformer.batches import Batch
from transformer.gallery import Attention, compiled
from transformer.model import Shape, Transformer
from transformer.vocabulary import PAD, Vocabulary


@dataclass(frozen=True, slots=True)
class Plan:
    """All that determines a run, beside the shape of its model."""

    task: str = "numbers"
    pairs: int = 12_000  # for training
    pieces: int = 160  # of the vocabulary
    steps: int = 800
    batch: int = 64  # pairs
    warmup: int = 300  # steps
    rate: float = 0.4  # the paper's, times this
    smoothing: float = 0.1
    seed: int = 0


def learning_rate(plan: Plan, width: int, step: int) -> float:
    """Return the rate of a step, counted from 0: equation 3 of the paper, times `plan.rate`."""
    count = step + 1
    rising, falling = count / math.pow(plan.warmup, 1.5), 1 / math.sqrt(count)
    return plan.rate / math.sqrt(width) * min(rising, falling)


def loss_of(model: Transformer, batch: Batch, smoothing: float) -> Tensor:
    """Return the mean cross-entropy of the tokens to foretell, a share of each spread over all."""
    if model.packs:
        logits = model.learn(*batch.rows())
        foretold = batch.foretold[batch.foretold != PAD]
    else:
        logits = model(batch.source, batch.lengths, batch.target).flatten(0, 1)
        foretold = batch.foretold.flatten()
    return F.cross_entropy(logits, foretold, ignore_index=PAD, label_smoothing=smoothing)


class Run:
    """A training run: a model, its optimizer, and the losses of the steps behind it."""

    def __init__(self, plan: Plan, model: Transformer, vocabulary: Vocabulary) -> None:
        self.plan, self.model, self.vocabulary = plan, model, vocabulary
        self.optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)
        self.losses: list[float] = []

    @property
    def step(self) -> int:
        """How many steps were made."""
        return len(self.losses)

    def advance(self, batch: Batch) -> float:
        """Make a step and return its loss, which is that before the step."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.plan, self.model.shape.width, self.step)
        self.model.train()
        self.optimizer.zero_grad()
        loss = loss_of(self.model, batch, self.plan.smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.losses.append(loss.item())
        return self.losses[-1]


def new_run(
    plan: Plan, shape: Shape, vocabulary: Vocabulary, attention: Attention = compiled
) -> Run:
    """Begin a run; torch's generator begins with it."""
    torch.manual_seed(plan.seed)
    return Run(plan, Transformer(shape, attention), vocabulary)
