"""Small runs for the tests of the Transformer: one head dimension, so that kernels are shared."""

from __future__ import annotations

from dataclasses import replace

from transformer.batches import Batches
from transformer.gallery import Attention, compiled
from transformer.model import Shape
from transformer.number_names import number_names
from transformer.train import Plan, Run, new_run
from transformer.vocabulary import Vocabulary

PLAN = Plan(pairs=400, pieces=100, steps=100, batch=16, warmup=60, rate=0.5, seed=2)
SHAPE = Shape(vocabulary=0, width=32, heads=2, inner=64, layers=1, dropout=0.0, longest=80)
PAIRS = number_names(PLAN.pairs, 0, PLAN.seed).train
VOCABULARY = Vocabulary.learn((text for pair in PAIRS for text in pair), PLAN.pieces)


def small_run(
    *,
    attention: Attention = compiled,
    variant: str = "full",
    cross: str = "full",
    dropout: float = 0.0,
    rate: float = PLAN.rate,
) -> Run:
    """Begin a run."""
    sized = replace(
        SHAPE, vocabulary=len(VOCABULARY), attention=variant, cross=cross, dropout=dropout
    )
    return new_run(replace(PLAN, rate=rate), sized, VOCABULARY, attention)


def small_batches() -> Batches:
    """Return its batches."""
    return Batches(PAIRS, VOCABULARY, PLAN.batch, PLAN.seed)
