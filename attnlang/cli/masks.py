"""A mask element by element, for where it must be written out: SDPA's dense mask, small pictures.

From a variant, a call and some of its rows to bools, broadcast over the batch and heads that the
mask does not read. Kernels never do this; here it is bounded, and done a block of rows at a time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attnlang.cli.inputs import Call
from attnlang.cli.static import static_value
from attnlang.ir.nodes import (
    Coord,
    CoordName,
    Given,
    Scalar,
    Size,
    Variant,
)
from attnlang.ir.traverse import walk
from attnlang.symbolic.evaluate import Leaf, evaluate

Array = npt.NDArray[np.int64]

_BLOCK_ELEMENTS = 1 << 22


def dense_mask(variant: Variant, call: Call, max_elements: int) -> Tensor | None:
    """Return the mask [B or 1, HQ or 1, Q, KV], or None when it has more elements than allowed."""
    s = call.shape
    b, h = _extent(variant, call)
    if b * h * s.q * s.kv > max_elements:
        return None
    mask = torch.empty((b, h, s.q, s.kv), dtype=torch.bool)
    step = max(1, _BLOCK_ELEMENTS // max(1, b * h * s.kv))
    for start in range(0, s.q, step):
        rows = np.arange(start, min(start + step, s.q))
        mask[:, :, start : start + step] = torch.from_numpy(mask_block(variant, call, rows))
    return mask


def mask_block(variant: Variant, call: Call, rows: Array) -> npt.NDArray[np.bool_]:
    """Return the mask of some rows, [B or 1, HQ or 1, R, KV]."""
    s = call.shape
    b, h = _extent(variant, call)
    batch = np.arange(b).reshape(b, 1, 1, 1)
    head = np.arange(h).reshape(1, h, 1, 1)
    columns = np.arange(s.kv)
    row = rows.reshape(1, 1, -1, 1)
    column = columns.reshape(1, 1, 1, -1)
    coordinates = {
        CoordName.B: batch,
        CoordName.H: head,
        CoordName.H_KV: head // max(1, s.hq // s.hkv),
        CoordName.Q_ROW: row,
        CoordName.KV_COL: column,
        CoordName.Q_IDX: row + (s.kv - s.q),
        CoordName.KV_IDX: column,
        CoordName.PART: np.zeros((), np.int64),
    }
    sizes = _sizes(variant, call)

    def leaf(expr: Leaf) -> object:
        match expr:
            case Coord(name):
                return coordinates[name]
            case Size(name):
                return sizes[name]
            case Scalar(name):
                return call.params[name]
            case Given(name):
                return call.params[name] is not None
        raise ValueError(f"a mask that reads {type(expr).__name__} is known to kernels alone")

    def read(name: str, indices: tuple[Array, ...]) -> object:
        tensor = call.params[name]
        assert isinstance(tensor, Tensor), "a guard keeps absent tensors from being read"
        values = tensor.numpy()
        clamped = (np.clip(i, 0, n - 1) for i, n in zip(indices, values.shape, strict=True))
        return values[tuple(clamped)]

    found = evaluate(variant.mask, leaf, read)
    return np.broadcast_to(found, (b, h, len(rows), s.kv)).copy()


def _extent(variant: Variant, call: Call) -> tuple[int, int]:
    """Return over how many requests and heads the mask differs."""
    names = {e.name for e in walk(variant.mask) if isinstance(e, Coord)}
    by_head = names & {CoordName.H, CoordName.H_KV}
    return (
        call.shape.b if CoordName.B in names else 1,
        call.shape.hq if by_head else 1,
    )


def _sizes(variant: Variant, call: Call) -> dict[str, int]:
    sizes = call.shape.sizes()
    for bound in variant.sizes:
        tensor = call.params[bound.tensor]
        if isinstance(tensor, Tensor):
            offset = static_value(bound.offset, sizes)
            sizes[bound.name] = (tensor.shape[bound.axis] - int(offset)) // bound.factor
    return sizes
