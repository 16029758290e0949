"""The mma.sync kernels over hand-written functors, in the emulator, against a float64 oracle.

Outputs and workspaces start as NaN, lengths lie off every tile boundary and beyond the ring of
stages, keys that do not exist or are hidden hold NaN. Each shape has a schedule of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from _pytest.mark.structures import ParameterSet
from cuda_harness import Instance, Problem, check, draw

BF16, F16 = torch.bfloat16, torch.float16
SMALL = (("kQueryTile", 64), ("kKeyTile", 32), ("kStages", 2), ("kWarps", 4), ("kBlocks", 1))
DEEP = (("kQueryTile", 64), ("kKeyTile", 16), ("kStages", 3), ("kWarps", 2), ("kBlocks", 1))
WIDE = (("kQueryTile", 16), ("kKeyTile", 16), ("kStages", 2), ("kWarps", 2), ("kBlocks", 1))

INSTANCES = {
    "Plain": Instance("Plain", BF16, 64, 64, SMALL),
    "Causal": Instance("Causal", F16, 64, 32, SMALL),
    "Window": Instance("Window", BF16, 32, 48, DEEP),
    "Scattered": Instance("Scattered", BF16, 80, 64, DEEP),
    "Padded": Instance("Padded", BF16, 32, 32, SMALL),
    "SoftCap": Instance("SoftCap", BF16, 32, 32, SMALL),
    "Slopes": Instance("Slopes", F16, 32, 32, SMALL),
    "Sink": Instance("Sink", BF16, 32, 32, SMALL),
    "Factor": Instance("Factor", BF16, 32, 32, SMALL),
    "Relu": Instance("Relu", BF16, 32, 32, DEEP),
    "Transformed": Instance("Transformed", BF16, 32, 32, SMALL),
    "ValueOfKey": Instance("ValueOfKey", BF16, 64, 32, SMALL),
}
QUICK = {"Causal", "Window", "Padded", "Factor"}  # a build each; the others are slow
REAL = {"SoftCap": 3.0, "Slopes": 0.5, "Sink": 0.7}

# The last needs more key tiles than a ring holds, twice over; the first few are decoded.
SHAPES = [
    Problem(2, 4, 2, 1, 300),
    Problem(1, 6, 2, 5, 77, kv_offset=9),
    Problem(1, 2, 1, 16, 1),
    Problem(2, 2, 2, 3, 0),
    Problem(1, 2, 1, 17, 40, q_offsets=(-7,)),
    Problem(1, 2, 2, 20, 200, q_offsets=(10,)),
    Problem(2, 2, 1, 70, 65, lens=(13, 65), kv_offset=1000),
    Problem(1, 1, 1, 33, 0),
    Problem(1, 2, 2, 130, 275),
]


def _problem(functor: str, shape: Problem) -> Problem:
    return replace(shape, number=41, real=REAL.get(functor, 0.0), wants_max=True)


def _params(functors: Iterable[str]) -> list[ParameterSet]:
    return [pytest.param(f, marks=[] if f in QUICK else pytest.mark.slow) for f in functors]


@pytest.mark.parametrize("functor", _params(INSTANCES))
def test_functor_at_odd_shapes(functor: str) -> None:
    for seed, shape in enumerate(SHAPES):
        check(INSTANCES[functor], _problem(functor, shape), seed)


@pytest.mark.parametrize("layout", ["heads last", "odd", "expanded"])
def test_any_strides(layout: str) -> None:
    for seed, shape in enumerate((SHAPES[0], SHAPES[5])):
        check(INSTANCES["Causal"], _problem("Causal", replace(shape, layout=layout)), seed)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1100), (1, 9000), (20, 1100)])
def test_keys_cut_into_parts_merge_to_the_same_bits(queries: int, keys: int) -> None:
    problem = Problem(1, 2, 1, queries, keys, number=900)
    outs = [check(INSTANCES["Window"], problem, 0).call.out]
    for seed in (1, 2):
        drawn = draw(INSTANCES["Window"], problem, 0)
        INSTANCES["Window"].kernel().run(drawn.call, seed)
        outs.append(drawn.call.out)
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("functor", _params(("Plain", "Causal", "Padded", "Relu", "Transformed")))
def test_selected_columns(functor: str) -> None:
    shape = Problem(2, 6, 2, 5, 150, lens=(150, 97), selected=40)
    check(INSTANCES[functor], _problem(functor, shape), 0)
    check(INSTANCES[functor], _problem(functor, replace(shape, selected=7, block=13)), 1)


def test_a_selection_of_nothing_is_an_empty_row() -> None:
    problem = Problem(1, 2, 1, 3, 20, selected=4)
    drawn = draw(INSTANCES["Causal"], problem, 0)
    assert drawn.selection is not None
    drawn.selection.fill_(-1)
    INSTANCES["Causal"].kernel().run(drawn.call, 0)
    assert (drawn.call.out == 0).all()
    assert (drawn.call.lse == -math.inf).all()


def test_nan_scores_reach_their_rows_alone() -> None:
    for queries in (1, 33):
        drawn = draw(INSTANCES["Causal"], Problem(1, 2, 2, queries, 50, wants_max=True), 0)
        drawn.q[0, 1, 0] = math.nan
        INSTANCES["Causal"].kernel().run(drawn.call, 0)
        broken = drawn.call.out.isnan().any(3)
        assert broken[0, 1, 0]
        assert broken.sum() == 1
        assert drawn.largest is not None
        assert drawn.largest.isnan().tolist() == [[False, True]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "instance",
    [
        Instance("Causal", BF16, 512, 512, WIDE),
        Instance("ValueOfKey", F16, 576, 512, WIDE),
        Instance("Causal", BF16, 256, 256, (("kQueryTile", 32), *WIDE[1:])),
        Instance("Causal", BF16, 192, 128, (("kQueryTile", 128), *SMALL[1:])),
        Instance("Plain", F16, 16, 16, SMALL),
    ],
    ids=lambda i: f"{i.functor}-{i.d}-{i.dv}",
)
def test_head_dimensions(instance: Instance) -> None:
    check(instance, Problem(1, 4, 2, 1, 130), 0)
    check(instance, Problem(1, 2, 1, 37, 90, lens=(83,)), 1)
