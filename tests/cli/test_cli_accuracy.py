"""The bounds: what is right passes, what is wrong fails, also where it is only a little wrong."""

import pytest
import torch

from attnlang.cli.accuracy import compare, sample_rows
from attnlang.cli.shapes import parse_shape
from attnlang.invent.inputs import invent
from attnlang.invent.scalars import Request
from attnlang.invent.settings import Settings
from attnlang.reference import reference

WINDOW = "attention w(n: int = 9):\n mask = sliding_window(n)"
SIGMOID = "attention s:\n weights = sigmoid(score)"


def made(variant, dtype=torch.float32, shape="2,4,2,50,70,16"):
    request = Request(parse_shape(shape), dtype, 0, Settings({}, {}, {}))
    call = invent(variant, request)
    has_lse = variant.weights.softmax is not None
    found = reference(
        variant, call.q, call.k, call.v, params=call.params, return_lse=has_lse, rounding="fused"
    )
    return call, *(found if has_lse else (found, None))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("text", [WINDOW, SIGMOID])
def test_the_reference_itself_is_fine(variant, text, dtype):
    spec = variant(text)
    call, out, lse = made(spec, dtype)
    accuracy = compare(spec, call, out, lse, seed=0)
    assert accuracy.fine
    assert accuracy.rows == 50


@pytest.mark.parametrize(
    ("dtype", "wrong"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05), (torch.float16, 0.01)]
)
def test_one_wrong_value_is_found(variant, dtype, wrong):
    spec = variant(WINDOW)
    call, out, lse = made(spec, dtype)
    out[1, 3, -1, 5] += wrong
    accuracy = compare(spec, call, out, lse, seed=0)
    assert not accuracy.fine
    assert accuracy.error == pytest.approx(wrong, rel=0.3)


def test_a_wrong_lse_is_found(variant):
    spec = variant(WINDOW)
    call, out, lse = made(spec)
    lse[0, 0, 0] += 1e-3
    accuracy = compare(spec, call, out, lse, seed=0)
    assert not accuracy.fine
    assert accuracy.why.startswith("lse")


def test_nan_is_never_fine(variant):
    spec = variant(WINDOW)
    call, out, lse = made(spec)
    out[0, 0, 0, 0] = torch.nan
    assert not compare(spec, call, out, lse, seed=0).fine


def test_an_empty_row_is_zero_and_minus_infinity(variant):
    spec = variant("attention hidden:\n mask = kv_idx < 0")
    call, out, lse = made(spec)
    assert (lse == -torch.inf).all()
    assert compare(spec, call, out, lse, seed=0).fine
    lse[0, 0, 0] = -1e30
    assert not compare(spec, call, out, lse, seed=0).fine


def test_large_scores_loosen_the_float32_bound_of_their_rows(variant):
    spec = variant("attention a:\n score = score * 1000")
    call, out, lse = made(spec)
    assert compare(spec, call, out, lse, seed=0).bound > 1e-4


def test_large_values_scale_the_float32_bound(variant):
    spec = variant("attention a:")
    call, out, lse = made(spec)
    small = compare(spec, call, out, lse, seed=0)
    call.v.mul_(1000)
    large = compare(spec, call, out * 1000, lse, seed=0)
    assert large.fine
    assert large.bound > 100 * small.bound


def test_long_sequences_are_sampled_with_their_ends(variant):
    spec = variant(WINDOW)
    call, out, lse = made(spec, shape="1,1,1,3000,3000,16")
    rows = sample_rows(call, 0).tolist()
    assert {0, 2999} <= set(rows)
    assert len(rows) <= 66
    assert compare(spec, call, out, lse, seed=0).fine


def test_nothing_to_compare(variant):
    spec = variant(WINDOW)
    call, out, lse = made(spec, shape="1,1,1,0,5,16")
    accuracy = compare(spec, call, out, lse, seed=0)
    assert accuracy.fine
    assert accuracy.rows == 0
