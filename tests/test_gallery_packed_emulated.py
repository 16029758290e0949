"""The gallery in ragged calls of GPU kernels in the emulator, against the float64 reference."""

from __future__ import annotations

import zlib

import pytest
import torch
from ragged_inputs import pack
from support import EXAMPLES, PARAMS, Sizes
from test_gallery_packed import WITHOUT_A_PLACE

import attnlang

HEADS = Sizes(1, 4, 2, 0, 0, 64, 64)
LENGTHS = ((1, 150), (40, 40), (0, 9), (19, 77), (2, 2))
# Transformed rows, and a tensor with the rows of all requests.
_QUICK = {"rope", "document"}
NAMES = [
    pytest.param(name, marks=[] if name in _QUICK else pytest.mark.slow)
    for name in sorted(PARAMS)
    if name not in WITHOUT_A_PLACE
]


@pytest.mark.parametrize("name", NAMES)
def test_variant_agrees_with_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNLANG_EMULATE", "sm80")
    variant = attnlang.load(EXAMPLES / f"{name}.attn")
    number = zlib.crc32(name.encode())
    dtype = (torch.bfloat16, torch.float16)[number % 2]
    call = pack(variant, LENGTHS, HEADS, dtype, torch.Generator().manual_seed(number))
    softmax = variant.ir.weights.softmax is not None
    seed = {"seed": 1} if variant.ir.weights.dropout is not None else {}
    found = call.call(return_lse=softmax, **seed)
    out, lse = found if softmax else (found, None)
    call.check(out, lse, **seed)
