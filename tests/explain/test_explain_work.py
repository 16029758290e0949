"""Operations and bytes against counts by hand."""

import pytest
from explain_specs import MACHINE, check, explained

HQ, HKV, D = 16, 4, 64


def test_full_attention_by_hand():
    w = explained(check("attention a\n:"), 128, 256).work
    elements = HQ * 128 * 256
    assert w.product_flops == elements * (2 * D + 2 * D)
    assert w.functions == elements  # exp2
    assert w.operations == elements * (3 + 1)  # the softmax's, and the scale
    q_and_out, k_and_v, lse = HQ * 128 * 2 * D, HKV * 256 * 2 * D, HQ * 128
    assert w.bytes == 4 * (q_and_out + k_and_v + lse)
    assert w.tile_flops == 64 * 64 * 4 * D
    assert w.intensity == pytest.approx(w.flops / w.bytes)


def test_causal_attention_by_hand():
    """Two by two tiles: one full, two in part, one empty."""
    w = explained(check("attention a:\n mask = causal\n"), 128, 128).work
    visited, partial = HQ * 3 * 64 * 64, HQ * 2 * 64 * 64
    assert w.product_flops == visited * 4 * D
    assert w.functions == visited
    assert w.operations == visited * (3 + 1) + partial * 1  # the comparison, where it is asked


def test_functions_of_the_score_count():
    plain = explained(check("attention a:\n weights = sigmoid(score)\n"), 64, 64).work
    assert plain.functions == HQ * 64 * 64
    capped = explained(check("attention a:\n score = 5.0 * tanh(score / 5.0)\n"), 64, 64).work
    assert capped.functions == 2 * HQ * 64 * 64


def test_hidden_columns_are_not_read():
    whole = explained(check("attention a\n:"), 1, 4096).work
    window = explained(check("attention a:\n mask = sliding_window(64)\n"), 1, 4096).work
    assert whole.bytes - window.bytes == 4 * HKV * 2 * D * (4096 - 64)


def test_tensors_count():
    plain = explained(check("attention a\n:"), 64, 64).work.bytes
    text = "attention a(t: float[HQ, Q, KV]):\n score = score + t[h, q_row, kv_col]\n"
    assert explained(check(text), 64, 64).work.bytes - plain == 4 * HQ * 64 * 64


def test_the_roofline():
    e = explained(check("attention a\n:"), 1024, 1024)
    r = e.roofline
    assert r.products == e.work.product_flops / MACHINE.flops
    assert r.memory == e.work.bytes / MACHINE.bandwidth
    assert r.seconds == max(r.compute, r.memory) == r.compute
    assert r.bound == "matrix products"
    decode = explained(check("attention a\n:"), 1, 1 << 16).roofline
    assert decode.bound == "memory"
    assert decode.seconds == decode.memory
