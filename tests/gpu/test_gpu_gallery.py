"""The gallery on a GPU, against the float64 reference: odd shapes, grouped heads, decode, lengths.

Each test builds one kernel, so pytest-xdist builds them side by side.
"""

from __future__ import annotations

import pytest
import torch
from gallery_cuda import LARGE, LONG, LONG_MASKS, check
from support import PARAMS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

_OWN_DIMS = ("mla_prefill", "mla_absorbed")
_RUNS = [
    pytest.param(name, dim, dtype, id=f"{name}-{dim}-{dtype}")
    for name in sorted(PARAMS)
    for dim, dtype in ((64, "bf16"), (128, "f16"), (128, "bf16"))
    if name not in _OWN_DIMS or dim == 128
]


@pytest.mark.parametrize(("name", "dim", "dtype"), _RUNS)
def test_variant_agrees_with_the_reference(name: str, dim: int, dtype: str) -> None:
    for number, sizes in enumerate(LARGE.values()):
        layout = ("bhsd", "bshd", "gap")[number % 3]
        check(name, sizes, dtype, "cuda", dim=dim, layout=layout)


@pytest.mark.parametrize("dim", [16, 48, 80, 96, 160, 192, 256, 512])
@pytest.mark.parametrize("name", ["causal", "gemma2_local", "full"])
def test_every_head_dim_is_taken(name: str, dim: int) -> None:
    for sizes in LARGE.values():
        check(name, sizes, "bf16", "cuda", dim=dim)


@pytest.mark.parametrize("name", LONG_MASKS)
def test_ranges_of_long_calls(name: str) -> None:
    for dim in (64, 128):
        check(name, LONG, "bf16", "cuda", dim=dim)
