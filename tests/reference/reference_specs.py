"""What the reference's tests share: variants from text, and random calls."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from attnlang.compiler import check_source
from attnlang.ir.nodes import Variant
from attnlang.reference import reference
from attnlang.sources import Source


@cache
def spec(text: str) -> Variant:
    """Return the only variant of a file."""
    result = check_source(Source("<test>", text))
    result.raise_errors()
    (variant,) = result.variants
    return variant


def body(*statements: str, header: str = "t") -> Variant:
    """Return the variant of a header and its statements."""
    return spec(f"attention {header}:\n" + "\n".join(f"    {s}" for s in statements) + "\n")


def draw(
    b: int = 2,
    hq: int = 4,
    hkv: int = 2,
    q: int = 5,
    kv: int = 7,
    d: int = 8,
    dv: int = 6,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    grad: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw q, k, v."""
    g = torch.Generator().manual_seed(seed)
    shapes = ((b, hq, q, d), (b, hkv, kv, d), (b, hkv, kv, dv))
    tensors = (torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for s in shapes)
    x, y, z = (t.requires_grad_(grad) for t in tensors)
    return x, y, z


def out(variant: Variant, q: Tensor, k: Tensor, v: Tensor | None, **call: object) -> Tensor:
    """Return `out` alone; keywords that `reference` doesn't know are parameters."""
    result = run(variant, q, k, v, **call)
    assert isinstance(result, Tensor)
    return result


_KEYWORDS = reference.__kwdefaults__.keys()


def run(
    variant: Variant, q: Tensor, k: Tensor, v: Tensor | None, **call: object
) -> Tensor | tuple[Tensor, ...]:
    """Call the reference; keywords that it doesn't know are parameters."""
    params = {name: value for name, value in call.items() if name not in _KEYWORDS}
    rest = {name: value for name, value in call.items() if name in _KEYWORDS}
    return reference(variant, q, k, v, params=params, **rest)


def raw_scores(q: Tensor, k: Tensor) -> Tensor:
    """Return q k^T / sqrt(D), grouped heads repeated."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    return q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5


def by_hand(
    scores: Tensor, mask: Tensor, v: Tensor, sink: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax attention from dense scores and a mask without empty rows: out and lse."""
    v = v.repeat_interleave(scores.shape[1] // v.shape[1], dim=1)
    scores = scores.masked_fill(~mask, -torch.inf)
    lse = scores.logsumexp(-1)
    denominator = lse if sink is None else torch.logaddexp(lse, sink)
    return torch.exp(scores - denominator.unsqueeze(-1)) @ v, lse


def positions(q: int, kv: int, q_offset: int | None = None) -> tuple[Tensor, Tensor]:
    """Return q_idx [Q, 1] and kv_idx [1, KV]."""
    start = kv - q if q_offset is None else q_offset
    return torch.arange(q).unsqueeze(1) + start, torch.arange(kv).unsqueeze(0)
