"""The gallery on the CPU, against the float64 reference: odd shapes, grouped heads, decode."""

from __future__ import annotations

import zlib

import pytest
import torch
from support import EXAMPLES, PARAMS, Sizes, assert_accurate, make_qkv

import attnlang

SHAPES = {
    "odd": Sizes(2, 2, 2, 77, 77, 40, 40),
    "grouped": Sizes(1, 6, 2, 131, 131, 64, 64),
    "cross": Sizes(2, 2, 1, 19, 150, 32, 48),
    "longer_q": Sizes(1, 2, 2, 90, 33, 16, 16),
    "decode": Sizes(2, 8, 2, 1, 203, 64, 64),
}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
QUICK = {("odd", "f32"), ("grouped", "bf16"), ("cross", "f32"), ("decode", "f32")}

# A mask over one sequence reads doc[b, q_idx]: it means self-attention, Q <= KV.
SELF_ONLY = {"document"}


def test_every_example_is_tested() -> None:
    names = {p.stem for p in EXAMPLES.glob("*.attn")}
    assert names == set(PARAMS)


@pytest.mark.parametrize("name", PARAMS)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        pytest.param(s, d, marks=[] if (s, d) in QUICK else pytest.mark.slow)
        for s in SHAPES
        for d in DTYPES
    ],
)
def test_variant_agrees_with_the_reference(name: str, shape: str, dtype: str) -> None:
    sizes = SHAPES[shape]
    if name in SELF_ONLY and sizes.q > sizes.kv:
        sizes = Sizes(sizes.b, sizes.hq, sizes.hkv, sizes.kv, sizes.kv, sizes.d, sizes.dv)
    variant = attnlang.load(EXAMPLES / f"{name}.attn")
    g = torch.Generator().manual_seed(zlib.crc32(f"{name}-{shape}".encode()))
    q, k, v = make_qkv(sizes, DTYPES[dtype], g)
    assert_accurate(variant, q, k, v, **PARAMS[name](sizes, g))
