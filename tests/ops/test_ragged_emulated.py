"""Ragged calls by GPU kernels in the emulator, each request against the float64 reference."""

from __future__ import annotations

import math

import pytest
import torch
from ragged_inputs import Packed, pack
from support import Sizes
from test_ragged import SPECS, call_of, results

import attnlang

HEADS = Sizes(1, 8, 2, 0, 0, 48, 32)
# Few rows and many, off every tile; none of queries, of keys, of both.
LENGTHS = (
    (5, 40),
    (0, 7),
    (1, 0),
    (150, 200),
    (33, 33),
    (1, 1),
    (16, 90),
    (17, 90),
    (3, 2),
    (0, 0),
)


@pytest.fixture(autouse=True)
def _emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNLANG_EMULATE", "sm80")


def make(name: str, dtype: torch.dtype = torch.bfloat16, lengths=LENGTHS) -> Packed:
    return call_of(name, dtype, lengths, HEADS)


@pytest.mark.parametrize(
    "name", ["rows", *(pytest.param(n, marks=pytest.mark.slow) for n in SPECS if n != "rows")]
)
def test_each_request_agrees_with_the_reference(name: str) -> None:
    call = make(name)
    call.check(*results(call))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal", "rows"])
def test_hopper_and_float16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNLANG_EMULATE", "sm90")
    call = make(name, torch.float16)
    call.check(*results(call))


def test_a_request_is_what_it_would_be_alone() -> None:
    call = make("rows")
    out, lse, top = call.call(return_lse=True, return_max=True)
    assert top.shape == (len(LENGTHS), HEADS.hq)
    for b in range(len(LENGTHS)):
        own = Packed(
            call.variant, (LENGTHS[b],),
            call.q[call.rows(b)], call.k[call.columns(b)], call.v[call.columns(b)],
            {n: t[b : b + 1] if n in ("bias", "gain") else t for n, t in call.params.items()},
        )  # fmt: skip
        got, got_lse, got_top = own.call(return_lse=True, return_max=True)
        assert torch.equal(got, out[call.rows(b)])
        assert torch.equal(got_lse, lse[call.rows(b)])
        assert torch.equal(got_top[0], top[b])


def test_nothing_of_another_request_is_read() -> None:
    call = make("rows")
    out, lse = results(call)
    for b in (3, 6):  # of many rows, of few
        got, got_lse = results(call.only(b))
        assert torch.equal(got[call.rows(b)], out[call.rows(b)])
        assert torch.equal(got_lse[call.rows(b)], lse[call.rows(b)])


def test_positions_scale_and_strides() -> None:
    call = make("causal")
    q_offset = torch.randint(0, 50, (len(LENGTHS),))
    keywords = {"q_offset": q_offset, "kv_offset": 7, "scale": 0.3}
    wide = [torch.full((x.shape[0], x.shape[1] + 1, 2 * x.shape[2]), math.nan, dtype=x.dtype)
            for x in (call.q, call.k, call.v)]  # fmt: skip
    for memory, x in zip(wide, (call.q, call.k, call.v), strict=True):
        memory[:, 1:, ::2] = x
    q, k, v = (x[:, 1:, ::2] for x in wide)
    out, lse = results(Packed(call.variant, call.lengths, q, k, v, call.params), **keywords)
    dense, dense_lse = results(call, **keywords)
    assert torch.equal(out, dense)
    assert torch.equal(lse, dense_lse)
    call.check(out, lse, **keywords)


def test_long_requests_of_few_rows_are_cut_and_merged() -> None:
    call = make("causal", lengths=((1, 2000), (2, 330), (16, 1100), (40, 700)))
    call.check(*results(call))


def test_no_request_and_no_row() -> None:
    variant = attnlang.loads(SPECS["causal"])
    for lengths in ((), ((0, 0),), ((0, 5), (0, 3))):
        call = pack(variant, lengths, HEADS, torch.bfloat16, torch.Generator(), {})
        out, lse, top = call.call(return_lse=True, return_max=True)
        assert out.shape == (0, HEADS.hq, HEADS.dv)
        assert lse.shape == (0, HEADS.hq)
        assert torch.isneginf(top).all()
        assert top.shape == (len(lengths), HEADS.hq)


def test_float32_is_refused() -> None:
    with pytest.raises(attnlang.CallError, match="bfloat16 or float16"):
        make("causal", torch.float32).call()
