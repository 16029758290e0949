"""The gallery's gradients on a GPU, against float64 autograd of the reference, and repeated.

Each test builds two kernels, so pytest-xdist builds them side by side.
"""

from __future__ import annotations

import pytest
import torch
from gallery_cuda import DTYPES
from gallery_gradients import check
from gradient_errors import RecordProperty, note
from support import EXAMPLES, PARAMS, Sizes

import attnlang

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

SHAPES = {
    "grouped": Sizes(2, 6, 2, 333, 517, 64, 64),
    "square": Sizes(1, 4, 4, 777, 777, 64, 64),
    "longer_q": Sizes(1, 4, 2, 300, 130, 64, 64),
    "one": Sizes(1, 2, 2, 1, 1, 64, 64),
}
_RUNS = [
    pytest.param(name, dim, dtype, id=f"{name}-{dim}-{dtype}")
    for place, name in enumerate(sorted(PARAMS))
    if name != "mla_absorbed"
    for dim, dtype in ((64, "bf16"), (128, ("f16", "bf16")[place % 2]))
]


def _sized(sizes: Sizes, dim: int) -> Sizes:
    return Sizes(sizes.b, sizes.hq, sizes.hkv, sizes.q, sizes.kv, dim, dim)


@pytest.mark.parametrize(("name", "dim", "dtype"), _RUNS)
def test_gradients_agree_with_the_reference(
    name: str, dim: int, dtype: str, record_property: RecordProperty
) -> None:
    for number, (shape, sizes) in enumerate(SHAPES.items()):
        layout = ("bshd", "bhsd", "gap")[number % 3]
        errors = check(
            name, _sized(sizes, dim), DTYPES[dtype],
            device="cuda", layout=layout, tails=shape == "grouped",
        )  # fmt: skip
        note(record_property, name, f"gpu {dtype}, D {dim}", errors)


@pytest.mark.parametrize("dim", [16, 48, 80, 96, 160, 192, 256])
@pytest.mark.parametrize("name", ["causal", "gemma2_local", "retention"])
def test_every_head_dim_is_taken(name: str, dim: int) -> None:
    for sizes in SHAPES.values():
        check(name, _sized(sizes, dim), torch.bfloat16, device="cuda")


@pytest.mark.parametrize("name", ["alibi", "relative_table", "forgetting"])
def test_gradients_repeat_bit_for_bit(name: str) -> None:
    variant = attnlang.load(EXAMPLES / f"{name}.attn")
    g = torch.Generator().manual_seed(0)
    sizes = Sizes(2, 8, 2, 1031, 1031, 64, 64)
    params = {n: x.cuda() if isinstance(x, torch.Tensor) else x
              for n, x in PARAMS[name](sizes, g).items()}  # fmt: skip
    leaves = [
        torch.randn(2, h, 1031, 64, generator=g).to("cuda", torch.bfloat16).requires_grad_()
        for h in (8, 2, 2)
    ]
    leaves += [x.requires_grad_() for x in params.values()
               if isinstance(x, torch.Tensor) and x.is_floating_point()]  # fmt: skip
    grad = torch.randn(2, 8, 1031, 64, generator=g).to("cuda", torch.bfloat16)
    runs = [torch.autograd.grad(variant(*leaves[:3], **params), leaves, grad) for _ in range(5)]
    for again in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(again, runs[0], strict=True))
