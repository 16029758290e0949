"""The gallery on the CPU, against the float64 reference: odd shapes, grouped heads, decode."""

from __future__ import annotations

import zlib

import pytest
import torch
from support import EXAMPLES, PARAMS, Sizes, assert_accurate, fit, make_qkv

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

# What no kernel runs yet: transforms and `out`.
WAITING = {
    "streaming_llm", "pair_bias", "swin_v2", "qk_norm", "cosine", "rope", "rope_partial",
    "rope_alibi_cap", "retention", "gated_output", "mla_absorbed", "shared_kv",
}  # fmt: skip


def test_every_example_is_tested() -> None:
    names = {p.stem for p in EXAMPLES.glob("*.attn")}
    assert names == set(PARAMS)


@pytest.mark.parametrize("name", sorted(WAITING))
def test_what_waits_is_refused(name: str) -> None:
    variant = attnlang.load(EXAMPLES / f"{name}.attn")
    sizes = fit(name, SHAPES["cross"])
    g = torch.Generator().manual_seed(0)
    q, k, v = make_qkv(sizes, torch.float32, g)
    with pytest.raises((attnlang.SpecError, attnlang.CallError)):
        variant(q, k, v, **PARAMS[name](sizes, g))


@pytest.mark.parametrize("name", sorted(PARAMS.keys() - WAITING))
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        pytest.param(s, d, marks=[] if (s, d) in QUICK else pytest.mark.slow)
        for s in SHAPES
        for d in DTYPES
    ],
)
def test_variant_agrees_with_the_reference(name: str, shape: str, dtype: str) -> None:
    sizes = fit(name, SHAPES[shape])
    variant = attnlang.load(EXAMPLES / f"{name}.attn")
    g = torch.Generator().manual_seed(zlib.crc32(f"{name}-{shape}".encode()))
    q, k, v = make_qkv(sizes, DTYPES[dtype], g)
    assert_accurate(variant, q, k, v, **PARAMS[name](sizes, g))
