"""The gallery's gradients on the CPU, against float64 autograd of the reference.

Of q, k, v and of every float parameter: odd shapes, grouped heads, lengths that differ.
"""

from __future__ import annotations

import pytest
import torch
from gallery_gradients import check
from gradient_errors import RecordProperty, note
from support import PARAMS, Sizes

SHAPES = {
    "odd": Sizes(2, 2, 2, 77, 77, 40, 40),
    "grouped": Sizes(1, 6, 2, 131, 131, 64, 64),
    "cross": Sizes(2, 2, 1, 19, 150, 32, 48),
    "longer_q": Sizes(1, 4, 2, 90, 33, 16, 16),
}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
# Every variant in float32, every third in bfloat16 too: a run builds two kernels of its own.
PLANS = (
    (("odd", "f32"), ("grouped", "bf16")),
    (("cross", "f32"),),
    (("grouped", "f32"),),
    (("odd", "f32"), ("cross", "bf16")),
    (("longer_q", "f32"),),
    (("cross", "f32"),),
)
# What the default run differentiates: a mask, a bias with gradients, a cap, a sink, a factor,
# weights without softmax, transforms with an out expression.
QUICK = ("alibi", "gemma2_local", "relative_table", "sink", "retention", "qk_norm")

RUNS = [
    pytest.param(
        name, *run, marks=[] if name in QUICK and not at else pytest.mark.slow,
        id="-".join((name, *run)),
    )
    for place, name in enumerate(sorted(PARAMS))
    for at, run in enumerate(PLANS[place % len(PLANS)])
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "dtype"), RUNS)
def test_gradients_agree_with_the_reference(
    name: str, shape: str, dtype: str, record_property: RecordProperty
) -> None:
    note(record_property, name, f"cpu {dtype}", check(name, SHAPES[shape], DTYPES[dtype]))
