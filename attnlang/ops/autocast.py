"""What autocast means for a call: q, k and v are cast, as torch casts those of its own attention.

Parameters stay as they are, and so does float64, which autocast leaves alone everywhere.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def is_autocasting(device: str) -> bool:
    """Whether autocast is enabled for a type of device; torch raises for one without autocast."""
    return device in ("cpu", "cuda") and torch.is_autocast_enabled(device)


def casts(q: Tensor) -> bool:
    """Whether a call with this q is cast; as `is_autocasting`, for each call asks."""
    return torch.is_autocast_enabled("cuda" if q.is_cuda else "cpu") and not q.is_meta


def autocast(q: Tensor, k: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the vectors of a call in autocast's dtype, where it is enabled."""
    dtype = torch.get_autocast_dtype(q.device.type)
    return _cast(q, dtype), _cast(k, dtype), None if v is None else _cast(v, dtype)


def without_autocast(device: str) -> AbstractContextManager[None]:
    """Return a context in which what a call computes with torch has the dtypes that it says."""
    if not is_autocasting(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    narrow = isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64
    return x.to(dtype) if narrow else x
