"""What there is to learn: pairs of texts, some of them kept to choose by, and others to test."""

from __future__ import annotations

import random
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import NamedTuple


class Pair(NamedTuple):
    """A text and what it becomes."""

    source: str
    target: str


DEVELOPMENT = 600  # pairs that plans may be chosen by

One = Callable[[random.Random], tuple[Pair, bool]]  # draws a pair, and whether it is held out


@dataclass(frozen=True, slots=True)
class Pairs:
    """No source is in two of them."""

    train: tuple[Pair, ...]
    development: tuple[Pair, ...]  # of those held out, what plans were chosen by
    test: tuple[Pair, ...]


def draw_pairs(train: int, asked: int, seed: int, one: One) -> Pairs:
    """Draw different pairs to learn from, and of those held out so many to choose by and to test.

    What is asked in the test does not depend on how many there are to choose by.
    """
    known = draw(DEVELOPMENT if asked else 0, f"{seed} True", one, kept=True)
    without = {pair.source for pair in known}
    return Pairs(
        draw(train, f"{seed} False", one, kept=False),
        known[:asked],
        draw(asked, f"{seed} test", one, kept=True, without=without),
    )


def draw(
    count: int, seed: str, one: One, *, kept: bool, without: Container[str] = ()
) -> tuple[Pair, ...]:
    """Draw different pairs from `one`, of which those count that it holds out, or the others."""
    rng = random.Random(seed)
    drawn: dict[str, Pair] = {}
    while len(drawn) < count:
        pair, held_out = one(rng)
        if held_out == kept and pair.source not in without:
            drawn.setdefault(pair.source, pair)
    return tuple(drawn.values())
