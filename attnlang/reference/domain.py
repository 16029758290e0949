"""Where an expression is evaluated: a set of elements, and the coordinates of each.

A box is the full product [B, H, Q, KV] with broadcastable coordinates, so that a value has only
the axes that it depends on. `Domain.where(mask)` cuts it down to the elements where a mask is
true: the axes of the mask collapse into one list, the others stay. Whatever is evaluated there has
not touched any other element, in the forward or in the backward: that is how guards are exact.

Invariant: a value over a domain of rank n is 0-d (alike everywhere) or of rank n with each extent
1 or the domain's; a vector has one more axis, its entries, at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor


class Axis(StrEnum):
    """A coordinate that a domain stores; all others are derived from these."""

    B = "b"
    H = "h"  # the query head; absent in a domain of keys
    H_KV = "h_kv"
    Q = "q"  # the place in the chunk of rows; absent in a domain of keys
    KV = "kv"  # the column; absent in a domain of rows


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """How a domain was cut from its parent: `dims` collapsed to the elements at `index`."""

    parent: Domain
    dims: tuple[int, ...]
    index: tuple[Tensor, ...]  # one list of positions for each of `dims`


@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """A set of elements with their coordinates."""

    shape: tuple[int, ...]
    coords: Mapping[Axis, Tensor]
    cut: Cut | None = None

    @property
    def empty(self) -> bool:
        """Whether there is no element at all."""
        return 0 in self.shape

    def where(self, mask: Tensor) -> Domain:
        """Return the elements where `mask` is true: this very domain when that is all of them."""
        if bool(mask.all()):
            return self
        rank = len(self.shape)
        mask = mask.reshape((1,) * rank) if mask.ndim == 0 else mask
        dims = tuple(i for i in range(rank) if mask.shape[i] > 1) or (rank - 1,)
        extents = tuple(self.shape[i] for i in dims)
        flat = mask.expand([n if i in dims else 1 for i, n in enumerate(self.shape)])
        index = flat.reshape(extents).nonzero(as_tuple=True)
        kept = tuple(n for i, n in enumerate(self.shape) if i not in dims)
        domain = Domain((*kept, len(index[0])), {}, Cut(self, dims, index))
        coords = {axis: domain.select(value) for axis, value in self.coords.items()}
        return Domain(domain.shape, coords, domain.cut)

    def select(self, value: Tensor, *, vector: bool = False) -> Tensor:
        """Turn a value over the parent into the value over this domain."""
        cut = self._cut()
        rank = len(cut.parent.shape)
        if value.ndim - vector == 0:
            return value
        kept = [i for i in range(rank) if i not in cut.dims]
        tail = [rank] if vector else []
        value = value.permute(*kept, *cut.dims, *tail)
        extents = value.shape[len(kept) : rank]
        if all(n == 1 for n in extents):
            return value.flatten(len(kept), rank - 1)
        spots = [
            i if n != 1 else torch.zeros_like(i) for i, n in zip(cut.index, extents, strict=True)
        ]
        return value[(slice(None),) * len(kept) + tuple(spots)]

    def spread(self, value: Tensor, fill: float | bool, *, vector: bool = False) -> Tensor:
        """Turn a value over this domain into one over the parent, `fill` at the other elements."""
        cut = self._cut()
        rank, count = len(cut.parent.shape), len(cut.index[0])
        kept = [i for i in range(rank) if i not in cut.dims]
        tail = value.shape[value.ndim - vector :]
        lead = value.shape[: len(kept)] if value.ndim - vector else (1,) * len(kept)
        extents = [cut.parent.shape[i] for i in cut.dims]
        result = value.new_full((*lead, *extents, *tail), fill)
        result[(slice(None),) * len(kept) + cut.index] = value.expand(*lead, count, *tail)
        order = [*kept, *cut.dims]
        back = [order.index(i) for i in range(rank)]
        return result.permute(*back, *([rank] if vector else []))

    def take(self, dense: Tensor, *, head: Axis = Axis.H, vector: bool = False) -> Tensor:
        """Look up `dense` [B, H, Q, KV] (each extent may be 1) at each element's coordinates."""
        extents = dense.shape[:4]
        if self.cut is None and all(n in (1, m) for n, m in zip(extents, self.shape, strict=True)):
            return dense
        axes = (Axis.B, head, Axis.Q, Axis.KV)
        spots = [self.coords[a] if n != 1 else 0 for a, n in zip(axes, extents, strict=True)]
        return dense[tuple(spots)]

    def _cut(self) -> Cut:
        if self.cut is None:
            raise AssertionError("a box was not cut from anything")
        return self.cut


POINT = Domain((), {})


def box(
    b: int, h: int, q: int, kv: int, *, group: int, device: torch.device, first: int = 0
) -> Domain:
    """Return the box of elements of `h` query heads, `group` of them to a key/value head.

    The requests are those from `first` on.
    """
    heads = torch.arange(h, device=device).reshape(1, h, 1, 1)
    coords: dict[Axis, Tensor] = {
        Axis.B: torch.arange(first, first + b, device=device).reshape(b, 1, 1, 1),
        Axis.H: heads,
        Axis.H_KV: heads // group,
        Axis.Q: torch.arange(q, device=device).reshape(1, 1, q, 1),
        Axis.KV: torch.arange(kv, device=device).reshape(1, 1, 1, kv),
    }
    return Domain((b, h, q, kv), coords)


def rows_of(domain: Domain) -> Domain:
    """Return the rows of a box: the same without the column."""
    coords: dict[Axis, Tensor] = {a: c for a, c in domain.coords.items() if a is not Axis.KV}
    return Domain((*domain.shape[:3], 1), coords)


def columns_of(domain: Domain) -> Domain:
    """Return the columns of a box, one for each query head."""
    coords: dict[Axis, Tensor] = {a: c for a, c in domain.coords.items() if a is not Axis.Q}
    b, h, _, kv = domain.shape
    return Domain((b, h, 1, kv), coords)


def keys_of(domain: Domain, heads: int) -> Domain:
    """Return the columns of a box, one for each key/value head."""
    b, _, _, kv = domain.shape
    device = domain.coords[Axis.B].device
    coords: dict[Axis, Tensor] = {
        Axis.B: domain.coords[Axis.B],
        Axis.H_KV: torch.arange(heads, device=device).reshape(1, heads, 1, 1),
        Axis.KV: domain.coords[Axis.KV],
    }
    return Domain((b, heads, 1, kv), coords)
