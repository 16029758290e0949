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
    "decode": Sizes(2, 8, 2, 1, 203, 40, 40),
}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}

# Each variant runs one of these: prompts, one query, grouped heads, lengths that differ and both
# precisions are in each. Its place in the gallery says which, and which of the four a variant of
# the sample runs where the rest is slow.
# Runs of the same dtype and head dimensions share a kernel: three are built a variant.
PLANS = (
    (("odd", "f32"), ("grouped", "bf16"), ("cross", "f16"), ("decode", "f32")),
    (("grouped", "f32"), ("cross", "bf16"), ("decode", "f16"), ("odd", "f16")),
    (("decode", "bf16"), ("odd", "bf16"), ("longer_q", "f32"), ("grouped", "f16")),
)

# One of each kind: ranges, tensors by position and by value, biases, transforms, weights, outputs.
SAMPLE = (
    "bigbird", "document", "dropout", "forgetting", "gated_output", "gemma2_local", "retention",
    "rope_partial", "shared_kv", "streaming_llm", "swin_shifted", "t5_bias", "vertical_slash",
)  # fmt: skip


def test_every_example_is_tested() -> None:
    names = {p.stem for p in EXAMPLES.glob("*.attn")}
    assert names == set(PARAMS)
    quick = {tuple(r.values) for r in RUNS if not r.marks}
    assert {name for name, _, _ in quick} == set(SAMPLE)
    assert {shape for _, shape, _ in quick} == set(SHAPES)
    assert {dtype for _, _, dtype in quick} == set(DTYPES)


def _quick(name: str, place: int) -> tuple[str, str] | None:
    """Return the run of a variant's plan that is not slow: of every second one that in float32."""
    if name not in SAMPLE:
        return None
    plan, turn = PLANS[place % len(PLANS)], SAMPLE.index(name)
    single = [run for run in plan if run[1] == "f32"]
    return single[turn // 2 % len(single)] if turn % 2 else plan[turn % len(plan)]


RUNS = [
    pytest.param(
        name, *run,
        marks=[] if run == _quick(name, place) else pytest.mark.slow,
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
