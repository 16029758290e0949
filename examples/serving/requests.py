"""What is asked of a server: prompts behind a common beginning, several samples of each.

Invariant: a load, and what is drawn for the token of a sample, follow from numbers alone, so that
every loop is asked for the same and draws the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt behind the common one, and what is wanted of it."""

    prompt: tuple[int, ...]
    new_tokens: int  # of each sample


@dataclass(frozen=True, slots=True)
class Load:
    """The requests of a run; all are there from the start."""

    common: tuple[int, ...]  # what every prompt begins with
    requests: tuple[Request, ...]
    samples: int  # of each request
    temperature: float  # 0: the likeliest token

    @property
    def longest(self) -> int:
        """The tokens of the longest sequence."""
        own = max(len(r.prompt) + r.new_tokens for r in self.requests)
        return len(self.common) + own


def random_load(
    *,
    requests: int, vocabulary: int, common: int, prompts: tuple[int, int],
    new_tokens: tuple[int, int], samples: int, temperature: float, seed: int = 0,
) -> Load:  # fmt: skip
    """Return random prompts; lengths are drawn evenly between two bounds."""
    rng = random.Random(seed)

    def text(length: int) -> tuple[int, ...]:
        return tuple(rng.choices(range(vocabulary), k=length))

    asked = (
        Request(text(rng.randint(*prompts)), rng.randint(*new_tokens)) for _ in range(requests)
    )
    return Load(text(common), tuple(asked), samples, temperature)


def choose(logits: Tensor, temperature: float, request: int, sample: int, place: int) -> int:
    """Draw a token by its logits [vocabulary], the same for the same numbers.

    The largest of logits / temperature + Gumbel noise is a sample of the softmax (Gumbel 1954).
    """
    if temperature > 0:
        rng = torch.Generator().manual_seed(((request << 8) + sample << 20) + place)
        noise = torch.rand(logits.shape[0], generator=rng).log().neg().log().neg()
        logits = logits / temperature + noise
    return int(logits.argmax())
