"""Random specs: kernels against the float64 reference, tile verdicts against the dense mask.

Each seed is one spec and one kernel, called with several shapes. A seed that has failed once stays
in `QUICK`, or its cause has a test of its own beside the module that was wrong.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fuzz_specs import Call, Spec, make_calls, make_spec
from support import assert_accurate, make_qkv
from torch import Tensor

import attnlang
from attnlang.ir.nodes import ScalarParam
from attnlang.symbolic.masks import MaskEnv, brute_force

QUICK = range(6)
SLOW = range(6, 18)
CALLS = 4


@pytest.mark.parametrize("seed", [*QUICK, *(pytest.param(s, marks=pytest.mark.slow) for s in SLOW)])
def test_random_spec(seed: int) -> None:
    check_seed(seed)


def check_seed(seed: int) -> None:
    """Compile the spec of a seed, and compare its calls with the reference and the dense mask."""
    spec = make_spec(seed)
    generator = torch.Generator().manual_seed(seed)
    variant = attnlang.loads(spec.text)
    for call in make_calls(spec, CALLS, generator):
        q, k, v = make_qkv(call.sizes, _dtype(seed), generator)
        try:
            assert_accurate(variant, q, k, v, **call.params, **call.options)
            if not spec.mask_reads_score:
                _check_tiles(variant, q, k, v, call)
        except Exception as error:
            error.add_note(_describe(seed, spec, call))
            raise


def _dtype(seed: int) -> torch.dtype:
    """float32, whose bar is the tightest, but for a few."""
    return {7: torch.bfloat16, 15: torch.float16}.get(seed % 16, torch.float32)


def _describe(seed: int, spec: Spec, call: Call) -> str:
    plain = {n: p for n, p in call.params.items() if not isinstance(p, Tensor)}
    return f"seed {seed}\n{spec.text}\n{call.sizes}\n{plain} {call.options}"


def _check_tiles(variant: attnlang.Variant, q: Tensor, k: Tensor, v: Tensor, call: Call) -> None:
    """A tile counted as full or empty is one; what is unknown may be either."""
    tiles = variant.tiles(q, k, v, **call.params, **call.options)
    full = empty = total = 0
    for mask in _masks(variant, call):
        rows, columns = tiles.query_tile, tiles.key_tile
        for i in range(0, call.sizes.q, rows):
            for j in range(0, call.sizes.kv, columns):
                tile = mask[i : i + rows, j : j + columns]
                full += tile.size > 0 and bool(tile.all())
                empty += not tile.any()
                total += 1
    assert tiles.total == total
    assert tiles.full <= full, f"{tiles.full} tiles counted full, {full} are"
    assert tiles.empty <= empty, f"{tiles.empty} tiles counted empty, {empty} are"


def _masks(variant: attnlang.Variant, call: Call) -> list[np.ndarray]:
    """The dense mask of each request and head, of the columns that exist."""
    s = call.sizes
    defaults = {p.name: p.default for p in variant.ir.params if isinstance(p, ScalarParam)}
    tensors = {n: p.double().numpy() if p.is_floating_point() else p.numpy()
               for n, p in call.params.items() if isinstance(p, Tensor)}  # fmt: skip
    scalars = {**defaults, **{n: p for n, p in call.params.items() if n in defaults}}
    sizes = {"B": s.b, "HQ": s.hq, "HKV": s.hkv, "D": s.d, "DV": s.dv, "R": 4}
    masks = []
    for b in range(s.b):
        lengths = call.options.get("kv_lens")
        kv_len = s.kv if lengths is None else int(lengths[b])
        kv_offset = call.options.get("kv_offset", 0)
        q_offset = call.options.get("q_offset", kv_offset + kv_len - s.q)
        for h in range(s.hq):
            env = MaskEnv(b, h, h // (s.hq // s.hkv), s.q, kv_len, q_offset, kv_offset,
                          sizes, scalars, tensors)  # fmt: skip
            masks.append(brute_force(variant.ir.mask, env))
    return masks
