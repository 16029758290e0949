"""`return_max`: the largest score of each (b, h)."""

from __future__ import annotations

import math

import pytest
import torch
from support import Sizes, make_qkv

import attnlang

D = 24
SOFTMAX = (
    "attention soft(slopes: float[HQ], w: int = 60): score = score + slopes[h] * (kv_idx - q_idx) "
    "mask = sliding_window(w) weights = softmax(0.5 * score, sink=3.0) * dropout(0.5)"
)
PLAIN = (
    "attention gate(slopes: float[HQ], w: int = 60): "
    "score = score + slopes[h] * (kv_idx - q_idx) mask = sliding_window(w) "
    "weights = sigmoid(3.0 * score) * dropout(0.5)"
)
SHAPES = [
    Sizes(2, 4, 2, 70, 131, D, D),
    Sizes(2, 6, 2, 1, 200, D, D),
    Sizes(3, 2, 1, 5, 67, D, D),
    Sizes(1, 2, 1, 70, 1300, D, D),  # keys in parts
    Sizes(1, 2, 1, 1, 1300, D, D),
    Sizes(2, 2, 2, 129, 9, D, D),
]


@pytest.fixture(scope="module", params=[SOFTMAX, PLAIN], ids=["softmax", "plain"])
def variant(request) -> attnlang.Variant:
    return attnlang.loads(request.param)


def check(variant: attnlang.Variant, q, k, v, **call: object) -> torch.Tensor:
    """Compare with the reference, in its order of results; return the max."""
    lse = variant.ir.weights.softmax is not None
    found = variant(q, k, v, return_lse=lse, return_max=True, seed=1, **call)
    want = variant.reference(
        q, k, v, return_lse=lse, return_max=True, seed=1, dtype=torch.float64, **call
    )
    assert [x.shape for x in found] == [x.shape for x in want]
    assert found[-1].dtype == torch.float32
    torch.testing.assert_close(found[-1].double(), want[-1], rtol=2e-6, atol=2e-5, equal_nan=True)
    alone = variant(q, k, v, return_max=True, seed=1, **call)
    assert torch.equal(alone[1].nan_to_num(7.0), found[-1].nan_to_num(7.0))
    return found[-1]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(variant, shape) -> None:
    g = torch.Generator().manual_seed(0)
    slopes = torch.rand(shape.hq, generator=g)
    q, k, v = make_qkv(shape, torch.float32, g)
    assert check(variant, q, k, v, slopes=slopes).isfinite().all()
    lens = torch.randint(0, shape.kv + 1, (shape.b,), generator=g)
    check(variant, q, k, v, slopes=slopes, kv_lens=lens, w=3, scale=-1.5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow(variant, shape, dtype) -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = make_qkv(shape, dtype, g, layout="gap")
    check(variant, q, k, v, slopes=torch.rand(shape.hq, generator=g))


@pytest.mark.parametrize("queries", [1, 70])
def test_nothing_visible(variant, queries) -> None:
    s = Sizes(2, 2, 1, queries, 90, D, D)
    q, k, v = make_qkv(s, torch.float32, torch.Generator().manual_seed(0))
    slopes = torch.zeros(2)
    top = check(variant, q, k, v, slopes=slopes, kv_lens=torch.tensor([0, 90]))
    assert torch.isneginf(top[0]).all()
    assert top[1].isfinite().all()
    for empty in ((q[:0], k[:0], v[:0]), (q, k[:, :, :0], v[:, :, :0]), (q[:, :, :0], k, v)):
        out, top = variant(*empty, slopes=slopes, return_max=True, seed=1)
        assert top.shape == out.shape[:2]
        assert torch.isneginf(top).all()


@pytest.mark.parametrize("queries", [1, 70])
def test_infinite_and_undefined_scores(variant, queries) -> None:
    """An infinity is the largest score; NaN is not passed over, but where the mask hides it."""
    s = Sizes(1, 3, 3, queries, 90, D, D)
    q, k, v = make_qkv(s, torch.float32, torch.Generator().manual_seed(0))
    q[0, 0, -1, 0], k[0, 0, 80, 0] = 1.0, math.inf
    q[0, 0, -1, 0] = 1.0
    q[0, 1, -1, 3] = math.nan
    k[0, 2, 5, 0] = math.nan
    q = q.abs() if queries == 1 else q
    call = {"slopes": torch.zeros(3), "seed": 1, "return_max": True, "w": 40}
    if queries > 1:
        q[0, 0, :-1] = 0.25
    top = variant(q, k, v, **call)[1][0]
    assert top[0] == math.inf
    assert top[1].isnan()
    assert top[2].isfinite() == (queries == 1)  # column 5 is out of the last row's window
