"""What there is to learn: pairs of texts, some of them kept for the test."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Pair(NamedTuple):
    """A text and what it becomes."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Pairs:
    """No source of `held_out` is among those of `train`."""

    train: tuple[Pair, ...]
    held_out: tuple[Pair, ...]


def draw(
    count: int, kept: bool, seed: int, one: Callable[[random.Random], tuple[Pair, bool]]
) -> tuple[Pair, ...]:
    """Draw different pairs from `one`, of which those count that it holds out, or the others."""
    rng = random.Random(f"{seed} {kept}")
    drawn: dict[str, Pair] = {}
    while len(drawn) < count:
        pair, held_out = one(rng)
        if held_out == kept:
            drawn.setdefault(pair.source, pair)
    return tuple(drawn.values())
