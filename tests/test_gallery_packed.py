"""The gallery in ragged and paged calls, each request against the float64 reference.

Ragged ones with their gradients.
"""

from __future__ import annotations

import zlib

import pytest
import torch
from paged_inputs import Pool
from ragged_gradients import check_gradients
from ragged_inputs import WITHOUT_A_PLACE, pack
from support import EXAMPLES, PARAMS, Sizes
from test_gallery import SAMPLE

import attnlang
from attnlang.ir.nodes import TensorParam
from attnlang.plan.packing import packed_rows

HEADS = Sizes(1, 4, 2, 0, 0, 40, 40)
LENGTHS = ((1, 150), (40, 40), (0, 9), (19, 77), (2, 2))

NAMES = [
    pytest.param(name, marks=[] if name in SAMPLE[::3] else pytest.mark.slow)
    for name in sorted(PARAMS)
]


@pytest.mark.parametrize("name", NAMES)
def test_variant_agrees_with_the_reference(name: str) -> None:
    variant = attnlang.load(EXAMPLES / f"{name}.attn")
    g = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    dtype = (torch.float32, torch.bfloat16)[zlib.crc32(name.encode()) % 2]
    call = pack(variant, LENGTHS, HEADS, dtype, g)
    softmax = variant.ir.weights.softmax is not None
    seed = {"seed": 1} if variant.ir.weights.dropout is not None else {}
    if name in WITHOUT_A_PLACE:
        with pytest.raises(attnlang.CallError, match="a packed call cannot pass a tensor"):
            call.call()
        return
    found = call.call(return_lse=softmax, **seed)
    out, lse = found if softmax else (found, None)
    call.check(out, lse, **seed)
    pool = Pool(call, 16, g)
    keys = tuple(
        p.name
        for p in variant.ir.params
        if isinstance(p, TensorParam) and packed_rows(p).folds and packed_rows(p).size == "KV"
    )
    v = None if call.v is None else pool.spread(call.v, hnd=True)
    paged, paged_lse = pool.run(pool.spread(call.k), v, paged=keys)
    assert torch.equal(paged, out)
    assert lse is None or torch.equal(paged_lse, lse)


DIFFERENTIATED = ("alibi", "forgetting", "gated_output")  # by the default run


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in DIFFERENTIATED else pytest.mark.slow)
        for name in sorted(PARAMS.keys() - WITHOUT_A_PLACE)
    ],
)
def test_gradients_agree_with_the_reference(name: str) -> None:
    variant = attnlang.load(EXAMPLES / f"{name}.attn")
    g = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    dtype = (torch.float32, torch.bfloat16)[zlib.crc32(name.encode()) % 2]
    call = pack(variant, LENGTHS, HEADS, dtype, g)
    seed = {"seed": 1} if variant.ir.weights.dropout is not None else {}
    check_gradients(call, g, **seed)


def test_the_list_of_what_has_no_place_is_right() -> None:
    found = set()
    for name in PARAMS:
        ir = attnlang.load(EXAMPLES / f"{name}.attn").ir
        tensors = [p for p in ir.params if isinstance(p, TensorParam)]
        if not all(packed_rows(p).packs for p in tensors):
            found.add(name)
    assert found == WITHOUT_A_PLACE
