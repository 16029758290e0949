"""What a variant is compared with in speed computes the same; masks written out are the masks."""

import pytest
import torch

from attnlang.bench import sdpa as bench_sdpa
from attnlang.bench.eager import eager
from attnlang.cli import peers
from attnlang.cli.shapes import parse_shape
from attnlang.invent.inputs import invent
from attnlang.invent.masks import dense_mask
from attnlang.invent.scalars import Request
from attnlang.invent.settings import Settings
from attnlang.reference import reference

NONE = Settings({}, {}, {})


def call_of(variant, shape):
    return invent(variant, Request(parse_shape(shape), torch.float32, 0, NONE))


@pytest.fixture
def sdpa(monkeypatch):
    """What SDPA was called with, and what it returned."""
    calls = []
    original = bench_sdpa.scaled_dot_product_attention

    def watched(*args, **kwargs):
        out = original(*args, **kwargs)
        calls.append((kwargs, out))
        return out

    monkeypatch.setattr(bench_sdpa, "scaled_dot_product_attention", watched)
    monkeypatch.setattr("attnlang.cli.measure._ENOUGH_SECONDS", 0.0)
    return calls


@pytest.mark.parametrize(
    ("text", "shape", "how"),
    [
        ("attention a:", "1,4,2,20,30,16", set()),
        ("attention a:\n mask = causal", "2,2,2,30,30,16", {"is_causal"}),
        ("attention a:\n mask = causal", "1,2,1,10,30,16", {"attn_mask"}),
        ("attention a(n: int[B]):\n mask = kv_idx < n[b]", "3,2,2,9,11,16", {"attn_mask"}),
        (
            "attention a(doc: int[B, KV]):\n mask = causal and same_document(doc)",
            "2,2,2,30,30,16",
            {"attn_mask"},
        ),
        (
            "attention a(t: bool[HQ, KV]):\n mask = t[h, kv_col] or kv_idx == 0",
            "1,4,2,9,11,16",
            {"attn_mask"},
        ),
    ],
)
def test_sdpa_computes_the_same(variant, sdpa, text, shape, how):
    spec = variant(text)
    call = call_of(spec, shape)
    peer, eager = peers.compare_speed(spec, call)
    assert peer.seconds > 0
    assert eager.seconds > 0
    kwargs, out = sdpa[0]
    assert set(kwargs) - {"enable_gqa"} == how
    exact = reference(spec, call.q, call.k, call.v, params=call.params)
    torch.testing.assert_close(out, exact, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "attention a:\n mask = causal",
        "attention a(cap: float = 3.0):\n score = soft_cap(score, cap)\n mask = kv_idx % 3 == 0",
        "attention a(m: float[HQ]):\n scale = 0.3\n score = score + alibi(m[h])",
        "attention a(s: float[HQ]):\n weights = softmax(score, sink=s[h])",
        "attention a:\n weights = sigmoid(score - 1.0) * float(h + 1)",
        "attention a(t: float[2 * R + 1]):\n"
        " score = score + t[clamp(kv_idx - q_idx + R, 0, 2 * R)]\n"
        " mask = not (b == 1 and kv_col > 5)",
        "attention a(t: float[HQ] = none):\n score = score + t[h] if t != none else score",
    ],
)
def test_eager_torch_computes_the_same(variant, text):
    spec = variant(text)
    call = call_of(spec, "2,4,2,9,21,16")
    rows = torch.tensor([0, 4, 8])
    exact = reference(spec, call.q, call.k, call.v, params=call.params, rows=rows)
    torch.testing.assert_close(eager(spec, call)(rows), exact, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "attention a:\n score = soft_cap(score, 5.0)",
        "attention a:\n weights = sigmoid(score)",
        "attention a(s: float[HQ]):\n weights = softmax(score, sink=s[h])",
        "attention a:\n scale = 0.5",
    ],
)
def test_what_sdpa_cannot_express_is_said(variant, sdpa, text):
    spec = variant(text)
    peer, eager = peers.compare_speed(spec, call_of(spec, "1,2,2,9,11,16"))
    assert peer.seconds is None
    assert "cannot express" in peer.note
    assert eager.seconds > 0
    assert not sdpa


def test_a_dense_mask_that_is_too_large_is_not_made(variant):
    spec = variant("attention a:\n mask = causal")
    assert dense_mask(spec, call_of(spec, "1,2,2,100,100,16"), 100 * 100 - 1) is None


def test_a_dense_mask_in_blocks_is_the_same(variant, monkeypatch):
    spec = variant("attention a(n: int = 7):\n mask = sliding_window(n)")
    call = call_of(spec, "1,2,2,40,50,16")
    whole = dense_mask(spec, call, 1 << 20)
    monkeypatch.setattr("attnlang.invent.masks._BLOCK_ELEMENTS", 130)
    assert torch.equal(dense_mask(spec, call, 1 << 20), whole)
    assert whole.shape == (1, 1, 40, 50)
    distance = torch.arange(40)[:, None] + 10 - torch.arange(50)
    assert torch.equal(whole[0, 0], (distance >= 0) & (distance < 7))
