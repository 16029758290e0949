"""The gallery's calls of GPU kernels, on a GPU or in the emulator: shapes off every tile boundary.

Calls of one variant, dtype and head dimension share a kernel, so `check` makes several of each.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace

import torch
from support import EXAMPLES, PARAMS, Sizes, assert_accurate, fit, make_qkv

import attnlang

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16}

# Few rows and keys, for an emulated one costs a millisecond; the lengths of two requests differ.
SMALL: Mapping[str, Sizes] = {
    "grouped": Sizes(2, 4, 2, 77, 150, 64, 64),
    "decode": Sizes(2, 8, 2, 3, 203, 64, 64),
    "longer_q": Sizes(1, 2, 1, 90, 33, 64, 64),
}
LARGE: Mapping[str, Sizes] = {
    "grouped": Sizes(2, 6, 2, 333, 517, 64, 64),
    "square": Sizes(1, 4, 4, 777, 777, 64, 64),
    "decode": Sizes(3, 8, 2, 1, 1999, 64, 64),
    "few": Sizes(2, 8, 4, 5, 700, 64, 64),
    "longer_q": Sizes(1, 4, 2, 300, 130, 64, 64),
    "one": Sizes(1, 2, 2, 1, 1, 64, 64),
}
# More than 64 tiles of keys, so that ranges in closed form are found; masks that leave few of them.
LONG = Sizes(1, 2, 1, 150, 9300, 64, 64)
LONG_MASKS = ("chunked", "dilated_window", "longformer", "sliding_window", "streaming_llm")


def check(
    name: str, sizes: Sizes, dtype: str, device: str, *, dim: int, layout: str = "bhsd"
) -> None:
    """Compare one call with the reference; with two requests their lengths differ."""
    sizes = fit(name, replace(sizes, d=dim, dv=dim))
    variant = attnlang.load(EXAMPLES / f"{name}.attn")
    g = torch.Generator().manual_seed(zlib.crc32(f"{name}-{sizes}-{dtype}".encode()))
    q, k, v = make_qkv(sizes, DTYPES[dtype], g, layout=layout)
    call = PARAMS[name](sizes, g)
    if sizes.b == 2 and sizes.q != sizes.kv and "kv_lens" not in call:
        lens = torch.tensor([sizes.kv, max(sizes.q, sizes.kv - 37)])
        past = (torch.arange(sizes.kv) >= lens[:, None])[:, None, :, None]
        k, v = (x.masked_fill(past, torch.nan) for x in (k, v))
        call["kv_lens"] = lens
    given = v if "v" in variant.signature.parameters else None
    assert_accurate(variant, q, k, given, device=device, **call)
