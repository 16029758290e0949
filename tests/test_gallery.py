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
    "longer_q": Sizes(1, 4, 2, 90, 33, 16, 16),
    "decode": Sizes(2, 8, 2, 1, 203, 64, 64),
}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}

# Each variant runs one of these: prompts, one query, grouped heads, lengths that differ and both
# precisions are in each. Its place in the gallery says which, and which of the four is not slow.
PLANS = (
    (("odd", "f32"), ("grouped", "bf16"), ("cross", "f16"), ("decode", "f32")),
    (("grouped", "f32"), ("longer_q", "bf16"), ("decode", "f16"), ("cross", "f32")),
    (("decode", "bf16"), ("odd", "f16"), ("longer_q", "f32"), ("grouped", "f16")),
)


def test_every_example_is_tested() -> None:
    names = {p.stem for p in EXAMPLES.glob("*.attn")}
    assert names == set(PARAMS)


def _quick(place: int) -> tuple[str, str]:
    """Return the run of the plan of a variant that is not slow."""
    plan = PLANS[place % len(PLANS)]
    return plan[place // len(PLANS) % len(plan)]


RUNS = [
    pytest.param(
        name, *run, marks=[] if run == _quick(place) else pytest.mark.slow,
        id="-".join((name, *run)),
    )
    for place, name in enumerate(sorted(PARAMS))
    for run in PLANS[place % len(PLANS)]
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "dtype"), RUNS)
def test_variant_agrees_with_the_reference(name: str, shape: str, dtype: str) -> None:
    sizes = fit(name, SHAPES[shape])
    variant = attnlang.load(EXAMPLES / f"{name}.attn")
    g = torch.Generator().manual_seed(zlib.crc32(f"{name}-{shape}".encode()))
    q, k, v = make_qkv(sizes, DTYPES[dtype], g)
    given = v if "v" in variant.signature.parameters else None
    assert_accurate(variant, q, k, given, **PARAMS[name](sizes, g))
