"""What an expression reads: coordinates, sizes, tensors, what the stage provides."""

from __future__ import annotations

from functools import reduce
from typing import assert_never

import torch
from torch import Tensor

from attnlang.ir.nodes import CoordName, Kind, Load, VectorName
from attnlang.reference.domain import Axis
from attnlang.reference.faults import OutOfRange
from attnlang.reference.scope import Scope, lifted


def coordinate(name: CoordName, scope: Scope) -> Tensor:
    """Return a coordinate of each element."""
    inputs, coords = scope.inputs, scope.domain.coords
    match name:
        case CoordName.B:
            return coords[Axis.B]
        case CoordName.H:
            return coords[Axis.H]
        case CoordName.H_KV:
            return coords[Axis.H_KV]
        case CoordName.Q_ROW:
            return scope.provided.rows[coords[Axis.Q]]
        case CoordName.KV_COL:
            return coords[Axis.KV]
        case CoordName.Q_IDX:
            return scope.provided.rows[coords[Axis.Q]] + inputs.q_offset[coords[Axis.B]]
        case CoordName.KV_IDX:
            return coords[Axis.KV] + inputs.kv_offset[coords[Axis.B]]
        case CoordName.PART:
            return inputs.constant(0, Kind.INT)
        case CoordName.D:
            return torch.arange(scope.width, device=inputs.device)
        case _:
            assert_never(name)


def size(name: str, scope: Scope) -> Tensor:
    """Return a size; `KV` is each request's own."""
    inputs = scope.inputs
    if name == "KV" and inputs.kv_lens is not None and scope.domain.coords:
        return inputs.kv_lens[scope.domain.coords[Axis.B]]
    if name not in inputs.sizes:
        raise ValueError(f"the size `{name}` is not known: no tensor was passed that binds it")
    return inputs.constant(inputs.sizes[name], Kind.INT)


def load(expr: Load, scope: Scope) -> Tensor:
    """Return the entries of a tensor at clamped indices; raise where one had to be clamped.

    Where it has the rows of one request alone, every request's stand there.
    """
    inputs, vector = scope.inputs, expr.type.vector
    tensor = inputs.tensors.get(expr.tensor)
    if tensor is None:
        raise ValueError(f"`{expr.tensor}` is read but was not passed")
    spots = []
    for axis, index in enumerate(expr.indices):
        value = lifted(index, scope.memo[id(index)], vector)
        alone = inputs.alone.get(expr.tensor) == axis
        extent = inputs.sizes["B"] if alone else tensor.shape[axis]
        outside = (value < 0) | (value >= extent)
        if scope.fails(outside, vector=vector):
            _raise_outside(expr.tensor, axis, extent, value, outside, scope)
        spots.append(torch.zeros_like(value) if alone else value.clamp(0, max(extent - 1, 0)))
    if tensor.numel() == 0:  # a read that nothing selects
        nothing = torch.zeros_like(reduce(torch.add, spots))
        return inputs.cast(nothing, expr.type.kind)
    return inputs.cast(tensor[tuple(spots)], expr.type.kind)


def _raise_outside(
    tensor: str, axis: int, extent: int, index: Tensor, outside: Tensor, scope: Scope
) -> None:
    if scope.lanes is not None and index.ndim:
        outside = outside & scope.lanes
        index = index + torch.zeros_like(outside, dtype=torch.int64)
    value = int(index[outside].flatten()[0])
    raise OutOfRange(f"`{tensor}` is read at {value} on axis {axis}, whose extent is {extent}")


def dot_qk(scope: Scope) -> Tensor:
    """Return `dot(q', k')`."""
    return scope.domain.take(provided(scope.provided.qk, "dot(q, k)"))


def vector(name: VectorName, scope: Scope) -> Tensor:
    """Return q, k, v or acc of each element."""
    head = Axis.H if name in (VectorName.Q, VectorName.ACC) else Axis.H_KV
    value = provided(scope.provided.vectors.get(name), name)
    return scope.domain.take(value, head=head, vector=True)


def provided(value: Tensor | None, name: str) -> Tensor:
    """Return a value of this stage; a verified variant reads no other."""
    if value is None:
        raise ValueError(f"`{name}` has no value here")
    return value
