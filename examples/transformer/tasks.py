"""The tasks that a model can learn, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from transformer.constituency import sentences
from transformer.number_names import number_names
from transformer.pairs import Pairs
from transformer.scores import Scores, translation_scores, tree_scores
from transformer.train import Plan


@dataclass(frozen=True, slots=True)
class Task:
    """How pairs are drawn (to learn from, to ask for, seed), learnt, and how results are scored."""

    plan: Plan
    pairs: Callable[[int, int, int], Pairs]
    score: Callable[[Sequence[str], Sequence[str]], Scores]


TASKS: Mapping[str, Task] = {
    "numbers": Task(Plan("numbers"), number_names, translation_scores),
    "trees": Task(
        Plan("trees", pieces=220, steps=1240, warmup=250, rate=0.5), sentences, tree_scores
    ),
}
