"""Every example is run and verified without the user giving inputs: the calls that are invented."""

from pathlib import Path

import pytest
import torch

import attnlang
from attnlang.cli.cases import make_case
from attnlang.cli.settings import Settings
from attnlang.cli.shapes import parse_shape
from attnlang.invent.inputs import invent, reads_fit
from attnlang.invent.masks import dense_mask
from attnlang.invent.scalars import Request, broken, fit_shape, given_tensors
from attnlang.ir.nodes import Const

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.attn"))
NONE = Settings({}, {}, {})
MOST = 1 << 22

# `run` takes the defaults: blocks of 1560 and tiles of 384 hide nothing of a short sequence, and
# dropout is neither causal nor padded.
LONG = {"block_causal", "sliding_tile"}
SEEN_BY_RUN = {"dropout"}


def is_masked(variant):
    return not isinstance(variant.mask, Const)


def mixed(mask):
    """Whether some elements are kept and others hidden, and not merely one of either."""
    return 0.005 < mask.float().mean() < 0.995


def check(variant, call):
    assert reads_fit(variant, call, torch.arange(call.shape.q))
    given = frozenset(n for n, p in call.params.items() if p is not None)
    assert not broken(variant, call.shape.sizes(), call.scalars, given)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_run_invents_a_call_that_means_something(path):
    variant = attnlang.load(path).ir
    wanted = parse_shape("1,1,1,2048,2048,64" if path.stem in LONG else "1,4,2,448,448,64")
    shape = fit_shape(variant, wanted, NONE)
    request = Request(shape, torch.float32, 0, NONE)
    call = invent(variant, request)
    check(variant, call)
    assert given_tensors(variant, request) == {
        n for n, p in call.params.items() if isinstance(p, torch.Tensor)
    }
    mask = dense_mask(variant, call, MOST)
    assert mask is not None
    assert mask.any(-1).float().mean() > 0.8, "most queries see a key"
    assert mixed(mask) == (is_masked(variant) and path.stem not in SEEN_BY_RUN)
    assert shape.q > 1, "a prompt, not a step of decoding"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_verify_invents_calls_that_differ(path):
    variant = attnlang.load(path).ir
    calls = [make_case(variant, 0, number) for number in range(8)]
    masks = []
    for call in calls:
        check(variant, call)
        if not call.options:
            masks.append(dense_mask(variant, call, MOST))
    assert len({call.shape for call in calls}) > 2
    assert all(mask is not None for mask in masks)
    assert all(mask.any() for mask in masks), "every call has a key that is seen"
    assert any(mixed(mask) for mask in masks) == is_masked(variant)
