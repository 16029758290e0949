"""A call as masks see it, and a mask written out where something else than a kernel needs it.

From a variant and a call to the `MaskEnv` of one request and head, and to the dense mask that
torch's SDPA takes. Kernels never build one; here it is bounded, and made a block of rows at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from attnlang.invent.inputs import Call
from attnlang.invent.static import static_value
from attnlang.ir.nodes import Coord, CoordName, Variant
from attnlang.ir.traverse import walk
from attnlang.passes.lower import lower
from attnlang.symbolic.masks import MaskEnv, brute_force

_BLOCK_ELEMENTS = 1 << 22


def mask_env(variant: Variant, call: Call, b: int, h: int) -> MaskEnv:
    """Return what the mask of one request and head reads; the call has default positions."""
    s = call.shape
    return MaskEnv(
        b=b,
        h=h,
        h_kv=h // max(1, s.hq // s.hkv),
        q_len=s.q,
        kv_len=s.kv,
        q_offset=s.kv - s.q,
        kv_offset=0,
        sizes=call_sizes(variant, call),
        scalars=call.scalars,
        tensors={n: _array(t) for n, t in call.params.items() if isinstance(t, Tensor)},
    )


def _array(tensor: Tensor) -> Any:  # noqa: ANN401
    """Return a numpy array; numpy has no bfloat16, and float32 holds all of its values."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def call_sizes(variant: Variant, call: Call) -> dict[str, int]:
    """Return every size of a call, those that tensors bind too."""
    sizes = call.shape.sizes()
    for bound in variant.sizes:
        tensor = call.params[bound.tensor]
        if isinstance(tensor, Tensor):
            offset = int(static_value(bound.offset, sizes))
            sizes[bound.name] = (tensor.shape[bound.axis] - offset) // bound.factor
        else:  # as in a call: guarded reads of a tensor that is absent have its size in their index
            sizes.setdefault(bound.name, 0)
    return sizes


def dense_mask(variant: Variant, call: Call, max_elements: int) -> Tensor | None:
    """Return the mask [B or 1, HQ or 1, Q, KV], or None when it has more elements than allowed."""
    s = call.shape
    given = frozenset(n for n, t in call.params.items() if isinstance(t, Tensor))
    known = lower(variant, consts=call.scalars, given=given).mask
    names = {e.name for e in walk(known) if isinstance(e, Coord)}
    batch = s.b if CoordName.B in names else 1
    heads = s.hq if names & {CoordName.H, CoordName.H_KV} else 1
    if batch * heads * s.q * s.kv > max_elements:
        return None
    mask = torch.empty((batch, heads, s.q, s.kv), dtype=torch.bool)
    step = max(1, _BLOCK_ELEMENTS // max(1, s.kv))
    for b in range(batch):
        for h in range(heads):
            env = mask_env(variant, call, b, h)
            for first in range(0, s.q, step):
                block = brute_force(known, _rows(env, first, min(step, s.q - first)))
                mask[b, h, first : first + step] = torch.from_numpy(block)
    return mask


@dataclass(frozen=True, slots=True)
class _Rows(MaskEnv):
    """Some rows of a call; the size Q stays that of the whole."""

    first: int = 0
    whole: int = 0

    def size(self, name: str) -> int:
        return self.whole if name == "Q" else MaskEnv.size(self, name)

    def coordinate(self, name: CoordName, rows: Any, columns: Any) -> Any:  # noqa: ANN401
        return MaskEnv.coordinate(self, name, rows + self.first, columns)


def _rows(env: MaskEnv, first: int, count: int) -> MaskEnv:
    values = {f.name: getattr(env, f.name) for f in fields(env)}
    return _Rows(**{**values, "q_len": count}, first=first, whole=env.q_len)
