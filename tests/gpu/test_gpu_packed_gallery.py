"""The gallery in ragged and paged calls of GPU kernels, on a GPU and in the emulator."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest
import torch
from gpu_places import ON_GPU, place_of
from paged_inputs import Pool
from ragged_inputs import WITHOUT_A_PLACE, pack
from support import EXAMPLES, PARAMS, Sizes

import attnlang
from attnlang.ir.nodes import TensorParam
from attnlang.plan.packing import packed_rows

HEADS = Sizes(1, 4, 2, 0, 0, 64, 64)
LENGTHS = ((1, 150), (40, 40), (0, 9), (19, 77), (2, 2))
# Transformed rows, and a tensor with the rows of all requests.
_QUICK = {"rope", "document"}
NAMES = [
    pytest.param(name, marks=[] if name in _QUICK else pytest.mark.slow)
    for name in sorted(PARAMS)
    if name not in WITHOUT_A_PLACE
]


@pytest.fixture(
    params=[
        "sm80",
        pytest.param("sm90", marks=pytest.mark.slow),
        pytest.param("cuda", marks=ON_GPU),
    ]
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where kernels run: emulated ones on the CPU."""
    return place_of(request.param, monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_variant_agrees_with_the_reference(name: str, device: str) -> None:
    variant = attnlang.load(EXAMPLES / f"{name}.attn")
    number = zlib.crc32(name.encode())
    dtype = (torch.bfloat16, torch.float16)[number % 2]
    call = pack(variant, LENGTHS, HEADS, dtype, torch.Generator().manual_seed(number))
    call = replace(call, device=device)
    softmax = variant.ir.weights.softmax is not None
    seed = {"seed": 1} if variant.ir.weights.dropout is not None else {}
    found = call.call(return_lse=softmax, **seed)
    out, lse = found if softmax else (found, None)
    call.check(out, lse, **seed)
    pool = Pool(call, 16, torch.Generator().manual_seed(number))
    keys = tuple(
        p.name
        for p in variant.ir.params
        if isinstance(p, TensorParam) and packed_rows(p).folds and packed_rows(p).size == "KV"
    )
    v = None if call.v is None else pool.spread(call.v, hnd=True)
    for tensors in {(), keys}:
        paged, paged_lse = pool.run(pool.spread(call.k), v, paged=tensors)
        assert torch.equal(paged, out)
        assert lse is None or torch.equal(paged_lse, lse)
