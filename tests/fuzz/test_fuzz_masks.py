"""Random masks: what the emitted functor keeps, and its verdict of any box, against brute force."""

from __future__ import annotations

import random

import pytest
import torch
from fuzz_specs import Spec, Writer, make_calls
from mask_units import Mask, check_masks, make_mask

QUICK = range(1)
SLOW = range(1, 7)
MASKS, CALLS = 10, 4


def _make(seed: int) -> Mask | None:
    spec = Spec(random.Random(f"mask {seed}"))
    spec.body = f"    mask = {Writer(spec).mask()}\n"
    required = {n: k for n, k in spec.params.items() if "=" not in k}
    spec.params = {**required, **spec.params}
    if spec.mask_reads_score:
        return None
    return make_mask(spec.text, make_calls(spec, CALLS, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("seed", [*QUICK, *(pytest.param(s, marks=pytest.mark.slow) for s in SLOW)])
def test_random_masks(seed: int) -> None:
    masks = [m for i in range(MASKS) if (m := _make(seed * MASKS + i)) is not None]
    assert check_masks(masks, seed) > 100, "hardly any box was judged full or empty"
