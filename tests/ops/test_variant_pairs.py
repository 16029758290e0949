"""Values of pairs that a tile looks up: tensors read along columns, functions of a distance.

Against the float64 reference, off every tile's boundary, with tensors of any strides, on each set
of instructions that this machine has.
"""

from __future__ import annotations

import pytest
import torch
from support import assert_accurate, sample
from torch import Tensor

import attnlang

SPEC = """
attention {name}(
    bias: float[HQ, Q, KV], path: int[B, Q, KV], table: float[N, HQ], far: float[HQ, 2 * R + 1],
    hide: bool[Q, KV], skewed: float[Q, KV + Q]
):
    near = far[h, clamp(kv_idx - q_idx + R, 0, 2 * R)]
    score = score + bias[h, q_row, kv_col] + table[path[b, q_row, kv_col] + 1, h] * near
    score = score + near + skewed[q_row, kv_col - q_row + Q]
    {weight}
    mask = not hide[q_row, kv_col] and (q_idx - kv_idx) % 3 != 1
"""
WEIGHTS = {
    "softmax": "",
    "weights": "weights = sigmoid(score - 2.0)",
    "factors": "weights = softmax(score) * (1.0 + 0.5 * sin(float(q_idx - kv_idx)))",
}
SHAPES = {
    "odd": (2, 3, 77, 141),
    "tail": (1, 2, 130, 65),
    "short": (1, 1, 5, 9),
    "decode": (2, 2, 1, 70),
}
# Reads whose last index is the column and whose outer ones vary along columns too.
OUTER = {
    "segments": ("seg: int[KV], t: float[Q, S, KV]", "t[q_row, seg[kv_col], kv_col]"),
    "pairs": ("u: int[Q, KV], t: float[Q, S, KV]", "t[q_row, u[q_row, kv_col], kv_col]"),
    "distances": (
        "rel: int[R], t: float[Q, S, KV]",
        "t[q_row, rel[clamp(q_idx - kv_idx + 64, 0, R - 1)], kv_col]",
    ),
}
ISAS = ("x86-64-v3", "portable")


def _parameters(b: int, heads: int, q: int, kv: int, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        "bias": torch.randn(heads, q, kv).to(dtype),
        "path": torch.randint(0, 8, (b, q, kv)),
        "table": torch.randn(9, heads).to(dtype),
        "far": torch.randn(heads, 2 * 20 + 1).to(dtype),
        "hide": torch.rand(q, kv) < 0.2,
        "skewed": torch.randn(q, kv + q).to(dtype),
    }


def _check(spec: str, shape: tuple[int, int, int, int], dtype: torch.dtype, turned: bool) -> None:
    torch.manual_seed(0)
    variant = attnlang.loads(spec)
    b, heads, q_len, kv_len = shape
    q, k, v = (torch.randn(b, heads, n, 24).to(dtype) for n in (q_len, kv_len, kv_len))
    params = _parameters(b, heads, q_len, kv_len, dtype)
    if turned:  # rows of the tensors lie columns apart
        params |= {n: x.mT.contiguous().mT for n, x in params.items() if x.shape[-2:].numel() > 99}
        params["path"] = params["path"].int()
    assert_accurate(variant, q, k, v, **params)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_pairs_are_those_of_the_reference(weight: str, shape: tuple[int, int, int, int]) -> None:
    spec = SPEC.format(name=f"pairs_{weight}", weight=WEIGHTS[weight])
    for turned in (False, True):
        _check(spec, shape, torch.float32, turned)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("weight", sample(WEIGHTS, "softmax"))
def test_pairs_in_bfloat16(weight: str, shape: tuple[int, int, int, int]) -> None:
    spec = SPEC.format(name=f"pairs_{weight}", weight=WEIGHTS[weight])
    _check(spec, shape, torch.bfloat16, turned=False)


WIDTHS = [(outer, ints) for outer in OUTER for ints in (torch.int32, torch.int64)]


@pytest.mark.parametrize("case", sample(WIDTHS, *WIDTHS[:1], *WIDTHS[3:5]), ids=str)
def test_outer_indices_may_vary_along_columns(case: tuple[str, torch.dtype]) -> None:
    outer, ints = case
    torch.manual_seed(0)
    declared, read = OUTER[outer]
    spec = f"attention outer_{outer}({declared}): score = score + {read}"
    q, k, v = (torch.randn(1, 2, n, 16) for n in (70, 90, 90))
    indices = {
        "seg": torch.randint(0, 3, (90,)),
        "u": torch.randint(0, 3, (70, 90)),
        "rel": torch.randint(0, 3, (128,)),
    }
    params = {n: x.to(ints) for n, x in indices.items() if f"{n}:" in declared}
    params["t"] = torch.randn(70, 3, 90)
    assert_accurate(attnlang.loads(spec), q, k, v, **params)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_on_fewer_instructions(monkeypatch: pytest.MonkeyPatch, weight: str, isa: str) -> None:
    monkeypatch.setenv("ATTNLANG_CPU", isa)
    name = f"pairs_{weight}_{isa.replace('-', '_')}"  # an op of its own, so kernels of its own
    for turned in (False, True):
        _check(SPEC.format(name=name, weight=WEIGHTS[weight]), SHAPES["odd"], torch.float32, turned)
