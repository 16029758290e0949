"""One invented value: from the role that a parameter plays to a value that can play it.

Invariant: an index is inside the extent that it indexes, a length inside the sequence, a divisor
away from zero; everything comes from the generator, so a seed gives the same call again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from attnlang.invent.roles import Role, Use
from attnlang.invent.shape import Shape
from attnlang.ir.nodes import Kind, ScalarParam, Size, TensorParam

# Of a packed sequence: so few that documents are longer than a tile at real sizes.
_MAX_SEGMENTS = 8
_WORD_BITS = 62
_SMALL_INTS = 8


def draw_tensor(
    param: TensorParam,
    use: Use,
    extents: Sequence[int],
    shape: Shape,
    index_extent: int,
    rng: Generator,
) -> Tensor:
    """Draw a tensor of a parameter's kind. `index_extent` is what an INDEX may reach."""
    match param.kind:
        case Kind.BOOL:
            return torch.rand(*extents, generator=rng) < 0.5
        case Kind.INT:
            return _ints(param, use.role, extents, shape, index_extent, rng)
        case Kind.FLOAT:
            return _floats(use.role, extents, rng)


def _ints(
    param: TensorParam,
    role: Role,
    extents: Sequence[int],
    shape: Shape,
    index_extent: int,
    rng: Generator,
) -> Tensor:
    def between(low: int, high: int) -> Tensor:
        return torch.randint(low, max(low, high) + 1, tuple(extents), generator=rng)

    match role:
        case Role.INDEX:
            return between(0, index_extent - 1)
        case Role.BITS:
            return between(0, (1 << _WORD_BITS) - 1)
        case Role.SEGMENTS:
            return _segments(param, extents, shape, rng)
        case Role.KEY_LENGTH:
            return between(min(1, shape.kv), shape.kv)
        case Role.QUERY_LENGTH:
            return between(min(1, shape.q), shape.q)
        case Role.POSITIVE:
            return between(1, _SMALL_INTS)
        case _:
            return between(0, _SMALL_INTS - 1)


def _segments(param: TensorParam, extents: Sequence[int], shape: Shape, rng: Generator) -> Tensor:
    """Sorted segment numbers along the sequence.

    Tensors over queries and over keys have their segments at the same positions, for they are
    compared with each other: the cuts come from a generator of their own, alike for all of them.
    """
    names = [d.name if isinstance(d, Size) else "" for d in param.dims]
    axis = next((i for i, n in enumerate(names) if n in ("Q", "KV")), len(extents) - 1)
    count = min(_MAX_SEGMENTS, shape.kv // 16 + 2)
    others = [n for i, n in enumerate(extents) if i != axis]
    same = torch.Generator().manual_seed(rng.initial_seed())
    cuts = torch.rand(*others, count - 1, generator=same).sort(dim=-1).values * shape.kv
    first = shape.kv - shape.q if names[axis] == "Q" else 0
    positions = torch.arange(extents[axis], dtype=torch.float32) + first
    numbers = (positions[:, None] >= cuts[..., None, :]).sum(-1)
    return numbers.movedim(-1, axis).contiguous()


def _floats(role: Role, extents: Sequence[int], rng: Generator) -> Tensor:
    def uniform() -> Tensor:
        return torch.rand(*extents, generator=rng)

    match role:
        case Role.SLOPE:
            return torch.exp2(-1 - 7 * uniform())  # as ALiBi's for 8 heads
        case Role.DECAY:
            return 1 - torch.exp2(-5 - 3 * uniform())  # as RetNet's
        case Role.POSITIVE:
            return 0.5 + uniform()
        case Role.FREQUENCIES:
            pairs = max(extents[-1], 1) if extents else 1
            return (10000.0 ** (-torch.arange(pairs) / pairs)).expand(*extents).contiguous()
        case _:
            return torch.randn(*extents, generator=rng)


def likely_scalars(param: ScalarParam, use: Use, shape: Shape) -> tuple[bool | int | float, ...]:
    """Return values for a parameter without a default, the most sensible first."""
    match param.kind, use.role:
        case Kind.BOOL, _:
            return (True, False)
        case Kind.INT, Role.KEY_LENGTH:
            return (max(1, shape.kv // 4), 1, 2, 64, 0)
        case Kind.INT, Role.QUERY_LENGTH:
            return (max(1, shape.q // 4), 1, 2, 64, 0)
        case Kind.INT, Role.POSITIVE:
            return (max(1, shape.kv // 8), 64, 16, 2, 1)
        case Kind.INT, _:
            return (1, 2, 4, 8, 16, 3, 0, 64, 128, -1)
        case Kind.FLOAT, Role.SLOPE:
            return (0.125, 1.0, 0.0, -0.125)
        case Kind.FLOAT, Role.DECAY:
            return (0.97, 0.5)
        case _:
            return (1.0, 0.5, 2.0, 0.1, 10.0, 30.0, 0.0, -1.0)


def draw_scalar(param: ScalarParam, use: Use, shape: Shape, rng: Generator) -> bool | int | float:
    """Draw a value around what the spec has by default, or that reaches into a short sequence."""

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, max(low, high) + 1, (), generator=rng))

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=rng))

    match param.kind, use.role:
        case Kind.BOOL, _:
            return bool(between(0, 1))
        case Kind.INT, Role.KEY_LENGTH | Role.QUERY_LENGTH | Role.POSITIVE:
            # Mostly a small part of the sequence: a window counted in blocks is their product.
            return between(1, between(1, shape.kv))
        case Kind.INT, _:
            return between(0, _SMALL_INTS)
    if param.default is not None and param.default != 0:
        return round(float(param.default) * math.exp2(uniform(-2, 1)), 3)
    return round(uniform(0.1, 1.0), 3)
