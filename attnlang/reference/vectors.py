"""Vectors over the head dimension: their widths, norms and rotations.

A vector value has its entries on the last axis. Formulas: RMSNorm (Zhang, Sennrich 2019), torch's
`normalize`, RoFormer's rotary embedding (Su et al. 2021) in both layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from attnlang.ir.nodes import (
    Coord,
    CoordName,
    Expr,
    L2Norm,
    RmsNorm,
    Rope,
    Slice,
    Vector,
    VectorName,
)
from attnlang.ir.traverse import children, walk
from attnlang.reference.domain import Domain, columns_of, rows_of

_KEY_COORDINATES = (CoordName.KV_IDX, CoordName.KV_COL)


def width(root: Expr, widths: Mapping[VectorName, int], size: Callable[[Expr], int]) -> int | None:
    """Return how many entries a vector has; None where only `d` makes it one."""
    found: dict[int, int | None] = {}
    for expr in walk(root):
        match expr:
            case Vector():
                found[id(expr)] = widths.get(expr.name)
            case Slice():
                found[id(expr)] = size(expr.stop) - size(expr.start)
            case RmsNorm() | L2Norm() | Rope():
                found[id(expr)] = found[id(expr.operand)]
            case _:
                parts = (found[id(c)] for c in children(expr) if c.type.vector)
                found[id(expr)] = next((p for p in parts if p is not None), None)
    return found[id(root)]


def side(root: Expr, box: Domain) -> Domain:
    """Return the columns of the box if `root` reads the key's side, else its rows."""
    for expr in walk(root):
        match expr:
            case Vector(name=VectorName.K | VectorName.V):
                return columns_of(box)
            case Coord() if expr.name in _KEY_COORDINATES:
                return columns_of(box)
            case _:
                pass
    return rows_of(box)


def rms_norm(x: Tensor, weight: Tensor | None, eps: Tensor) -> Tensor:
    """`x / sqrt(mean(x ** 2) + eps) [* weight]`."""
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return normed if weight is None else normed * weight


def l2_norm(x: Tensor, eps: Tensor) -> Tensor:
    """`x / max(sqrt(sum(x ** 2)), eps)`; the gradient of the norm at 0 is 0, as torch's."""
    return x / torch.maximum(torch.linalg.vector_norm(x, dim=-1, keepdim=True), eps)


def check_rope(start: int, dims: int, width: int) -> None:
    """Raise ValueError unless the `dims` entries from `start` are pairs within the vector."""
    if dims % 2 or dims < 0 or start < 0 or start + dims > width:
        raise ValueError(
            f"`rope` turns an even number of entries within a vector of {width}: "
            f"found start={start}, dims={dims}"
        )


def frequencies(base: Tensor, dims: int) -> Tensor:
    """Return `base ** (-2t / dims)` for each pair t; `base` has a last axis of 1."""
    exponents = torch.arange(dims // 2, device=base.device).to(base.dtype) * (-2.0 / max(dims, 1))
    return torch.pow(base, exponents)


def given_frequencies(freqs: Tensor, dims: int) -> Tensor:
    """Return one frequency for each pair."""
    if freqs.ndim != 1 or freqs.shape[0] < dims // 2:
        raise ValueError(
            f"`freqs` of `rope` needs {dims // 2} entries, one for each pair: "
            f"found shape {list(freqs.shape)}"
        )
    return freqs[: dims // 2]


def rope(x: Tensor, angle: Tensor, start: int, dims: int, *, interleaved: bool) -> Tensor:
    """Turn pair t of the `dims` entries from `start` by `angle[..., t]`."""
    head, part, tail = x[..., :start], x[..., start : start + dims], x[..., start + dims :]
    if interleaved:
        first, second = part[..., 0::2], part[..., 1::2]
    else:
        first, second = part[..., : dims // 2], part[..., dims // 2 :]
    cos, sin = angle.cos(), angle.sin()
    turned = (first * cos - second * sin, first * sin + second * cos)
    part = torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
    lead = part.shape[:-1]
    whole = [t.expand(*lead, t.shape[-1]) for t in (head, part, tail)]
    return torch.cat(whole, dim=-1)
