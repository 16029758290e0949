"""What is measured computes the same, and the machine's limits are limits."""

import warnings

import pytest
import torch
from support import EXAMPLES

from attnlang.bench import contest
from attnlang.bench.case import EAGER, FLEX, OURS, PEAK, PRODUCT, READ, SDPA, Case
from attnlang.bench.clock import Clock, interleave
from attnlang.bench.contest import WrongNumbersError, run_case
from attnlang.bench.flex import NotFusedError, _check_fused
from attnlang.bench.flex_table import _FORMS, flex_form
from attnlang.bench.rates import matrix_product, peak, reading
from attnlang.cli.files import choose
from attnlang.invent.inputs import invent
from attnlang.invent.scalars import Request
from attnlang.invent.settings import Settings
from attnlang.invent.shape import Shape
from attnlang.reference import reference


def variant_and_call(name, shape, dtype=torch.float32, **scalars):
    variant = choose(EXAMPLES / f"{name}.attn", None).variant
    return variant, invent(variant, Request(Shape(*shape), dtype, 0, Settings(scalars, {}, {})))


@pytest.mark.parametrize(
    ("dtype", "rated"), [(torch.float32, PEAK), (torch.bfloat16, PEAK), (torch.float32, PRODUCT)]
)
def test_rates_count_what_threads_do(dtype, rated):
    found = peak(dtype) if rated == PEAK else matrix_product(dtype)
    if found is None:
        pytest.skip("this CPU has no 16-bit dot products")
    timing = interleave({"it": found.work}, torch.get_num_threads(), 0.0)["it"]
    assert 1e8 < found.amount / timing.cpu.median < 1e13


def test_a_product_is_no_faster_than_registers_allow():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several may wait for each other, which takes CPU time
    top, product = peak(torch.float32), matrix_product(torch.float32)
    found = interleave({"top": top.work, "product": product.work}, 1, 0.5)
    torch.set_num_threads(threads)
    share = (product.amount / found["product"].cpu.median) / (top.amount / found["top"].cpu.median)
    assert 0.1 < share < 1.1


def test_reading_goes_through_all_bytes_and_refuses_gaps():
    x = torch.ones(1000, 64)
    assert reading((x, x)).amount == 2 * x.nbytes
    assert reading((x,)).work() == [x.nbytes]
    with pytest.raises(ValueError, match="contiguous"):
        reading((x[:, ::2],))


@pytest.mark.parametrize("name", sorted(_FORMS))
def test_closures_for_flexattention_compute_the_same(name):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    variant, call = variant_and_call(name, (2, 4, 2, 130, 200, 16, 16))
    form = flex_form(name, call)
    mask = None
    if form.mask is not None:
        mask = create_block_mask(form.mask, 2, None, 130, 200, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled
        out = flex_attention(call.q, call.k, call.v, form.score, mask, form.scale, enable_gqa=True)
    exact = reference(variant, call.q, call.k, call.v, params=call.params)
    seen = exact.abs().sum(-1) > 0  # FlexAttention gives rows without a key something else
    assert seen.any()
    torch.testing.assert_close(out[seen], exact[seen], atol=2e-5, rtol=1e-4)


def test_what_runs_unfused_is_found():
    from torch.nn.attention.flex_attention import flex_attention

    q = torch.randn(1, 1, 32, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(NotFusedError, match="softmax"):
            _check_fused(lambda: flex_attention(q, q, q))
    _check_fused(lambda: q.exp())


def test_a_case_is_measured_beside_its_peers_and_another_call():
    variant, call = variant_and_call("causal", (1, 2, 1, 128, 128, 64, 64))
    full, plain = variant_and_call("full", (1, 2, 1, 128, 128, 64, 64))
    case = Case("it", variant, call, frozenset({SDPA, EAGER}), beside={"plain": (full, plain)})
    found = run_case(case, 0.0, lambda _: None)
    assert next(iter(found.entries)) == OURS
    assert {"plain", SDPA, EAGER, PRODUCT} <= set(found.entries)
    assert found.visited == 0.75  # three of the four tiles of 64 x 64
    assert found.unmasked == (128 * 129 / 2) / 128**2
    assert found.entries[OURS].amount == 0.75 * found.entries["plain"].amount
    assert found.entries[SDPA].amount == found.entries[OURS].amount


def test_what_a_peer_cannot_say_is_absent_with_its_reason():
    variant, call = variant_and_call("sigmoid", (1, 2, 1, 64, 64, 64, 64))
    found = run_case(Case("it", variant, call, frozenset({SDPA, FLEX})), 0.0, lambda _: None)
    assert set(found.absent) == {SDPA, FLEX}
    assert "cannot express" in found.absent[SDPA]


def test_decoding_is_measured_in_bytes_beside_reading_them():
    variant, call = variant_and_call("full", (2, 4, 2, 1, 512, 64, 64), torch.bfloat16)
    found = run_case(Case("it", variant, call, frozenset(), Clock.WALL), 0.0, lambda _: None)
    assert found.entries[OURS].amount == found.entries[READ].amount == 2 * call.k.nbytes


def test_wrong_numbers_are_not_timed(monkeypatch):
    variant, call = variant_and_call("full", (1, 2, 1, 64, 64, 64, 64))
    monkeypatch.setattr(contest, "eager", lambda *_: lambda rows: torch.zeros(1, 2, 64, 64))
    with pytest.raises(WrongNumbersError, match="eager differs"):
        run_case(Case("it", variant, call, frozenset({EAGER})), 0.0, lambda _: None)
