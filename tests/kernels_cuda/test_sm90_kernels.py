"""The Hopper kernels over hand-written functors, in the emulator, against a float64 oracle.

Both producers, one to three consumer warpgroups, lengths beyond twice what the rings hold, NaN in
hidden keys and beyond the ends. Each shape has a schedule of its own.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cuda_harness import Instance, Problem, check, draw

BF16, F16 = torch.bfloat16, torch.float16


def tiles(rows: int, keys: int, stages: int = 2) -> tuple[tuple[str, int], ...]:
    return (("kQueryTile", rows), ("kKeyTile", keys), ("kStages", stages))


INSTANCES = {
    instance.functor: instance
    for instance in (
        Instance("Plain", BF16, 64, 64, tiles(128, 64), "sm90"),
        Instance("Scaled<Plain>", BF16, 64, 64, tiles(64, 64), "sm90"),
        Instance("Scaled<Causal>", F16, 64, 64, tiles(192, 64), "sm90"),
        Instance("Causal", F16, 128, 32, tiles(128, 80), "sm90"),
        Instance("Window", BF16, 32, 96, tiles(64, 64, 3), "sm90"),
        Instance("Scattered", BF16, 80, 64, tiles(128, 64), "sm90"),
        Instance("Padded", BF16, 32, 32, tiles(128, 64), "sm90"),
        Instance("SoftCap", BF16, 32, 32, tiles(128, 96), "sm90"),
        Instance("Slopes", F16, 32, 32, tiles(64, 64), "sm90"),
        Instance("Sink", BF16, 32, 32, tiles(128, 64), "sm90"),
        Instance("Factor", BF16, 32, 32, tiles(128, 64), "sm90"),
        Instance("Relu", BF16, 32, 32, tiles(128, 64), "sm90"),
        Instance("Transformed", BF16, 32, 32, tiles(64, 64), "sm90"),
        Instance("ValueOfKey", BF16, 64, 32, tiles(128, 64), "sm90"),
    )
}
REAL = {"SoftCap": 3.0, "Slopes": 0.5, "Sink": 0.7}

# More queries than decoding takes. The last has more tiles than twice the stages, and more items
# than multiprocessors.
SHAPES = [
    Problem(1, 2, 1, 17, 1, kv_offset=9),
    Problem(1, 2, 1, 40, 0),
    Problem(1, 2, 1, 33, 50, q_offsets=(-7,)),
    Problem(2, 2, 1, 70, 65, lens=(13, 65), kv_offset=1000),
    Problem(3, 4, 2, 130, 333, lens=(0, 333, 200)),
]


def _problem(functor: str, shape: Problem) -> Problem:
    return replace(shape, number=41, real=REAL.get(functor, 0.0), wants_max=True)


# Each takes some ten seconds to compile: the first few in every run.
QUICK = ("Scaled<Causal>", "Padded", "Factor", "Slopes")


@pytest.mark.parametrize(
    "functor", [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow) for f in INSTANCES]
)
def test_functor_at_odd_shapes(functor: str) -> None:
    for seed, shape in enumerate(SHAPES):
        check(INSTANCES[functor], _problem(functor, shape), seed)


@pytest.mark.parametrize(
    "functor", ["Scaled<Causal>", pytest.param("Plain", marks=pytest.mark.slow)]
)
def test_few_rows(functor: str) -> None:
    for seed, shape in enumerate(
        (
            Problem(1, 4, 1, 1, 2500, lens=(2311,)),
            Problem(3, 4, 2, 3, 700, lens=(700, 0, 129)),
            Problem(1, 2, 2, 16, 127),
        )
    ):
        check(INSTANCES[functor], _problem(functor, shape), seed)


@pytest.mark.parametrize("functor", ["Scaled<Causal>", "Padded"])
def test_both_producers_give_the_same_bits(functor: str) -> None:
    shape = _problem(functor, Problem(2, 2, 1, 40, 200, lens=(200, 77)))
    copied = check(INSTANCES[functor], shape, 0).call
    gathered = check(INSTANCES[functor], replace(shape, layout="odd"), 0).call
    assert torch.equal(copied.out.view(torch.int16), gathered.out.view(torch.int16))
    assert torch.equal(copied.lse, gathered.lse)


@pytest.mark.parametrize("layout", ["heads last", "expanded"])
def test_any_strides(layout: str) -> None:
    for seed, shape in enumerate((SHAPES[3], SHAPES[4])):
        check(INSTANCES["Scaled<Causal>"], _problem("Causal", replace(shape, layout=layout)), seed)


def test_schedules_change_no_bit() -> None:
    problem = _problem("Scaled<Causal>", SHAPES[4])
    outs = []
    for schedule in range(4):
        drawn = draw(INSTANCES["Scaled<Causal>"], problem, 0)
        INSTANCES["Scaled<Causal>"].kernel().run(drawn.call, schedule)
        outs.append(drawn.call.out.view(torch.int16))
    assert all(torch.equal(outs[0], out) for out in outs)


def test_nan_scores_reach_their_rows_alone() -> None:
    drawn = draw(INSTANCES["Padded"], Problem(1, 2, 2, 33, 50, 50, wants_max=True), 0)
    drawn.q[0, 1, 0] = torch.nan
    INSTANCES["Padded"].kernel().run(drawn.call, 0)
    broken = drawn.call.out.isnan().any(3)
    assert broken[0, 1, 0]
    assert broken.sum() == 1
    assert drawn.largest is not None
    assert drawn.largest.isnan().tolist() == [[False, True]]


@pytest.mark.parametrize("scale", [-0.2, 0.0])
def test_scales_that_are_not_positive(scale: float) -> None:
    shape = replace(_problem("Causal", SHAPES[3]), scale=scale)
    check(INSTANCES["Scaled<Causal>"], shape, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "instance",
    [
        Instance("Scaled<Plain>", BF16, 128, 128, tiles(128, 176), "sm90"),
        Instance("Scaled<Causal>", BF16, 128, 128, tiles(128, 128, 3), "sm90"),
        Instance("Scaled<Causal>", F16, 64, 64, tiles(192, 128, 4), "sm90"),
        Instance("Causal", BF16, 256, 256, tiles(128, 80), "sm90"),
        Instance("Causal", BF16, 192, 128, tiles(128, 112), "sm90"),
        Instance("ValueOfKey", BF16, 576, 512, tiles(64, 64), "sm90"),
    ],
    ids=lambda i: f"{i.functor}-{i.d}-{i.dv}",
)
def test_tiles_of_every_head_dimension(instance: Instance) -> None:
    for seed in range(3):
        check(instance, Problem(1, 3, 1, 300, 900, lens=(883,)), seed)
