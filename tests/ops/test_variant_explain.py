"""`Variant.explain`: lengths and parameters in, an explanation or a CallError out."""

from pathlib import Path

import pytest
import torch

import attnlang
from attnlang.explain.explanation import Machine

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(autouse=True)
def _machine(monkeypatch):
    machine = Machine(flops=1e11, functions=1e9, bandwidth=1e10, threads=1)
    monkeypatch.setattr("attnlang.ops.explained.this_machine", lambda: machine)


def test_numbers_are_taken():
    e = attnlang.load(EXAMPLES / "gemma2_local.attn").explain(
        q_len=256, kv_len=512, cap=30.0, window_size=torch.tensor(64)
    )
    assert e.title == "gemma2_local(cap = 30, window_size = 64)"
    assert (e.shape.q, e.shape.kv) == (256, 512)
    assert e.tiles.all == 4 * 8
    assert "<math" in e.to_html()


def test_tensors_are_taken():
    """Two documents of two tiles each: blocks on the diagonal, seen causally."""
    doc = (torch.arange(256) >= 128).long()[None]
    e = attnlang.load(EXAMPLES / "document.attn").explain(256, 256, doc=doc)
    assert (e.tiles.full.tiles, e.tiles.partial.tiles, e.tiles.empty.tiles) == (2, 4, 10)
    slopes = torch.rand(6)
    assert attnlang.load(EXAMPLES / "alibi.attn").explain(64, 64, slopes=slopes).shape.hq == 6


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("gemma2_local", {"capp": 1.0}, "a similar name exists: `cap`"),
        ("gemma2_local", {"cap": "x"}, "`cap`"),
        ("gemma2_local", {"cap": -1.0}, "cap must be positive"),
        ("gemma2_local", {"q_len": 0}, "`q_len`: expected a length"),
        ("gemma2_local", {"kv_len": 1 << 30}, "`kv_len`: expected a length"),
        ("gemma2_local", {"kv_len": 1.5}, "`kv_len`: expected an int"),
        ("document", {"doc": torch.zeros(1, 100, dtype=torch.int64)}, "[B = 1, KV = 64]"),
        ("document", {"doc": torch.zeros(1, 64)}, "`doc`: expected a int tensor"),
        ("document", {"doc": None}, "`doc`"),
    ],
)
def test_wrong_arguments(name, params, message):
    variant = attnlang.load(EXAMPLES / f"{name}.attn")
    with pytest.raises(attnlang.CallError) as raised:
        variant.explain(**{"q_len": 64, "kv_len": 64, **params})
    assert message in str(raised.value)
