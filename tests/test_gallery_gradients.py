"""The gallery's gradients on the CPU, against float64 autograd of the reference.

Of q, k, v and of every float parameter: odd shapes, grouped heads, lengths that differ.
"""

from __future__ import annotations

import zlib

import pytest
import torch
from support import EXAMPLES, PARAMS, Sizes, fit, make_qkv
from torch import Tensor

import attnlang
from attnlang.ir.nodes import Kind, ScalarParam

SHAPES = {
    "odd": Sizes(2, 2, 2, 77, 77, 40, 40),
    "grouped": Sizes(1, 6, 2, 131, 131, 64, 64),
    "cross": Sizes(2, 2, 1, 19, 150, 32, 48),
    "longer_q": Sizes(1, 4, 2, 90, 33, 16, 16),
}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
# Every variant in float32, every third in bfloat16 too: a run builds two kernels of its own.
PLANS = (
    (("odd", "f32"), ("grouped", "bf16")),
    (("cross", "f32"),),
    (("grouped", "f32"),),
    (("odd", "f32"), ("cross", "bf16")),
    (("longer_q", "f32"),),
    (("cross", "f32"),),
)
# What the default run differentiates: a mask, a bias with gradients, a cap, a sink, a factor,
# weights without softmax, transforms with an out expression.
QUICK = ("alibi", "gemma2_local", "relative_table", "sink", "retention", "qk_norm")

RUNS = [
    pytest.param(
        name, *run, marks=[] if name in QUICK and not at else pytest.mark.slow,
        id="-".join((name, *run)),
    )
    for place, name in enumerate(sorted(PARAMS))
    for at, run in enumerate(PLANS[place % len(PLANS)])
]  # fmt: skip


def leaves(variant: attnlang.Variant, params: dict[str, object]) -> dict[str, Tensor]:
    """Return the float parameters of a call as tensors, 0-d ones too."""
    found = {}
    for param in variant.ir.params:
        value = params.get(param.name, getattr(param, "default", None))
        if param.kind != Kind.FLOAT or value is None or getattr(param, "const", False):
            continue
        if isinstance(param, ScalarParam):
            value = torch.tensor(float(value))
        assert isinstance(value, Tensor)
        found[param.name] = value
    return found


def gradients(call, vectors, params, rest, grads, **how) -> dict[str, Tensor]:
    """Differentiate `call` by the vectors and the float parameters."""
    wanted = {n: t.detach().clone().requires_grad_() for n, t in (vectors | params).items()}
    given = [wanted[n] for n in vectors]
    got = call(*given, **rest, **{n: wanted[n] for n in params}, **how)
    got = got if isinstance(got, tuple) else (got,)
    found = torch.autograd.grad(
        got, list(wanted.values()), [g.to(x.dtype) for g, x in zip(grads, got, strict=True)],
        allow_unused=True,
    )  # fmt: skip
    return {
        n: torch.zeros_like(t) if g is None else g
        for (n, t), g in zip(wanted.items(), found, strict=True)
    }


@pytest.mark.parametrize(("name", "shape", "dtype"), RUNS)
def test_gradients_agree_with_the_reference(name: str, shape: str, dtype: str) -> None:
    sizes = fit(name, SHAPES[shape])
    variant = attnlang.load(EXAMPLES / f"{name}.attn")
    g = torch.Generator().manual_seed(zlib.crc32(f"{name}-{shape}".encode()))
    q, k, v = make_qkv(sizes, DTYPES[dtype], g, layout="bshd")
    vectors = {"q": q, "k": k} | ({"v": v} if "v" in variant.signature.parameters else {})
    params = PARAMS[name](sizes, g)
    if variant.ir.weights.dropout is not None:
        params["seed"] = 1
    floats = leaves(variant, params)
    rest = {n: x for n, x in params.items() if n not in floats}
    softmax = variant.ir.weights.softmax is not None
    out = variant(*vectors.values(), **params, return_lse=softmax)
    shapes = [x.shape for x in (out if softmax else (out,))]
    grads = [torch.randn(s, generator=g) for s in shapes]

    actual = gradients(variant, vectors, floats, rest, grads, return_lse=softmax)
    double = {n: t.double() for n, t in vectors.items()}
    wide = {n: t.double() for n, t in floats.items()}
    exact = gradients(variant.reference, double, wide, rest, grads, return_lse=softmax)
    fused = exact
    if dtype != "f32":
        fused = gradients(
            variant.reference, vectors, floats, rest, grads, return_lse=softmax, rounding="fused"
        )
    for at, want in exact.items():
        got = actual[at].double()
        assert not got.isnan().any(), f"NaN in the gradient of {at}"
        size = max(1.0, want.abs().max().item())
        bound = 2e-5 * size + 1.5 * (fused[at].double() - want).abs().max().item()
        if dtype != "f32" and want.numel() < 4096:  # the largest of a few errors is luck
            bound += size * torch.finfo(DTYPES[dtype]).eps / 2
        error = (got - want).abs().max().item()
        assert error <= bound, f"{at}: error {error:.3g} > {bound:.3g} (largest {size:.3g})"
