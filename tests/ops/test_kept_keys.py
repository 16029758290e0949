"""Tiles of which rows keep scattered keys: what a strip leaves out, and what it must not.

Masks with holes all over a tile, keys hidden from every row that hold NaN beside keys that count,
and masks that read the score, which cannot be asked before it is there; on every kind of lanes.
"""

from __future__ import annotations

import pytest
import torch
from support import Sizes, assert_accurate, make_qkv

import attnlang

HOLES = "(7 * kv_idx + q_idx // 21) % 11 < 2 and kv_idx % 5 != 3"
WEIGHTS = {"softmax": "softmax(score)", "sigmoid": "sigmoid(score)"}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
SHAPES = [Sizes(1, 2, 1, 77, 131, 24, 24), Sizes(2, 1, 1, 129, 63, 24, 24)]


@pytest.mark.parametrize("isa", ["native", "x86-64-v3", "portable"])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_scattered_keys(isa, weights, monkeypatch) -> None:
    monkeypatch.setenv("ATTNLANG_CPU", isa)
    variant = attnlang.loads(f"attention a: mask = {HOLES} weights = {WEIGHTS[weights]}")
    for sizes in SHAPES:
        for dtype in DTYPES.values() if isa == "native" else [torch.float32]:
            q, k, v = make_qkv(sizes, dtype, torch.Generator().manual_seed(sizes.kv))
            k[:, :, 3::5] = v[:, :, 3::5] = float("nan")
            assert_accurate(variant, q, k, v)


@pytest.mark.parametrize(
    "body",
    [
        "score = score - 0.5 * dot(k, k)",
        "score = score - 0.5 * dot(k, k) mask = kv_idx <= q_idx",
        "weights = relu(score) * dot(k, k)",
        "score = score + dot(k, w[h_kv, d])",
    ],
)
def test_scores_that_read_a_column_by_its_vector(body) -> None:
    variant = attnlang.loads(f"attention a(w: float[HKV, D]): {body}")
    for sizes in [Sizes(1, 2, 1, 77, 150, 24, 24), Sizes(2, 1, 1, 129, 63, 24, 24)]:
        for dtype in DTYPES.values():
            g = torch.Generator().manual_seed(sizes.kv)
            q, k, v = make_qkv(sizes, dtype, g)
            w = torch.randn(sizes.hkv, sizes.d, generator=g)
            assert_accurate(variant, q, k, v, w=w)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_that_read_the_score(weights, dtype) -> None:
    """Small integers, whose dot products are exact: no rounding decides what is kept."""
    text = f"attention a: score = score * 0.5 mask = score > 0.25 weights = {WEIGHTS[weights]}"
    variant = attnlang.loads(text)
    for sizes in SHAPES:
        g = torch.Generator().manual_seed(sizes.q)
        q, k, v = make_qkv(sizes, DTYPES[dtype], g)
        q, k = (torch.randint(-1, 2, x.shape, generator=g).to(x.dtype) for x in (q, k))
        assert_accurate(variant, q, k, v, scale=0.25)
