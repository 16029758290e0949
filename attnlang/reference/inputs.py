"""What one call passed, made uniform: every value of the evaluator comes from here.

From the arguments of `reference` to `Inputs`: per-request integers as int64 [B], parameters by
name with their defaults, the sizes bound by tensors. Raises ValueError naming the tensor whose
shape does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attnlang.ir.nodes import Kind, ScalarParam, TensorParam, Variant, VectorName

Value = Tensor | float | int | bool | None


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """A call; q, k, v and the scale are in the compute dtype already."""

    variant: Variant
    q: Tensor  # [B, HQ, Q, D]
    k: Tensor  # [B, HKV, KV, D]
    v: Tensor | None  # [B, HKV, KV, DV]; None: made from k
    scale: Tensor  # 0-d
    q_offset: Tensor  # int64 [B]
    kv_offset: Tensor
    kv_lens: Tensor | None
    scalars: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor | None]
    sizes: dict[str, int]  # of the tensors that were passed; `KV` is the longest request's
    widths: Mapping[VectorName, int]
    seed: int
    first: int  # the number of the request that q, k and v begin with
    alone: Mapping[str, int]  # tensors with that request's rows only, and the axis of `B`, 1 long
    dtype: torch.dtype  # of all float arithmetic
    rounded: (
        torch.dtype | None
    )  # what kernels round q', k', v' and the weights to; None: no rounding

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return self.q.device

    @property
    def differentiable(self) -> bool:
        """Whether some gradient may be asked for."""
        given = (self.q, self.k, self.v, self.scale, *self.scalars.values(), *self.tensors.values())
        return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)

    def constant(self, value: float | bool, kind: Kind) -> Tensor:
        """Return a 0-d value."""
        return _number(value, self.torch_dtype(kind), self.device)

    def scalar(self, name: str, kind: Kind) -> Tensor:
        """Return the value of a 0-d parameter."""
        return self.cast(self.scalars[name], kind)

    def cast(self, value: Tensor, kind: Kind) -> Tensor:
        """Convert to the evaluator's dtype of a kind; a float to an int truncates."""
        return value.to(self.torch_dtype(kind))

    def torch_dtype(self, kind: Kind) -> torch.dtype:
        """Return the dtype in which values of a kind are held."""
        return {Kind.BOOL: torch.bool, Kind.INT: torch.int64, Kind.FLOAT: self.dtype}[kind]


def per_request(value: int | Tensor, name: str, batch: int, device: torch.device) -> Tensor:
    """Return an int or int[B] as int64 [B]."""
    if not isinstance(value, Tensor):
        return torch.full((batch,), value, dtype=torch.int64, device=device)
    if value.shape not in ((), (batch,)):
        raise ValueError(
            f"`{name}` must be an int or int[{batch}], found shape {list(value.shape)}"
        )
    return value.to(device=device, dtype=torch.int64).expand(batch)


def check_shapes(q: Tensor, k: Tensor, v: Tensor | None) -> dict[str, int]:
    """Return the sizes of q [B, HQ, Q, D], k [B, HKV, KV, D] and v [B, HKV, KV, DV]."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor is not None and tensor.ndim != 4:
            raise ValueError(f"`{name}` must have 4 axes, found shape {list(tensor.shape)}")
    (b, hq, rows, d), (_, hkv, columns, _) = q.shape, k.shape
    if k.shape[0] != b or k.shape[3] != d:
        raise ValueError(f"`k` must be [{b}, HKV, KV, {d}], found shape {list(k.shape)}")
    if hq and (hkv == 0 or hq % hkv):
        raise ValueError(f"`k` has {hkv} heads, which do not divide q's {hq}")
    if v is not None and v.shape[:3] != k.shape[:3]:
        raise ValueError(f"`v` must be [{b}, {hkv}, {columns}, DV], found shape {list(v.shape)}")
    sizes = {"B": b, "HQ": hq, "HKV": hkv, "Q": rows, "KV": columns, "D": d}
    return sizes if v is None else sizes | {"DV": v.shape[3]}


def bind_params(
    variant: Variant, params: Mapping[str, Value], device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """Return the 0-d parameters and the tensors of a call, defaults filled in."""
    unknown = params.keys() - {p.name for p in variant.params}
    if unknown:
        raise ValueError(f"`{variant.name}` has no parameter `{min(unknown)}`")
    scalars: dict[str, Tensor] = {}
    tensors: dict[str, Tensor | None] = {}
    for param in variant.params:
        match param:
            case ScalarParam():
                scalars[param.name] = _scalar(param, params.get(param.name, param.default), device)
            case TensorParam():
                tensors[param.name] = _tensor(param, params.get(param.name), device)
    return scalars, tensors


def _scalar(param: ScalarParam, value: Value, device: torch.device) -> Tensor:
    if value is None:
        raise ValueError(f"`{param.name}` was not passed and has no default")
    if isinstance(value, Tensor):
        if value.ndim:
            raise ValueError(f"`{param.name}` must be 0-d, found shape {list(value.shape)}")
        return value.to(device)
    dtype = torch.float64 if param.kind is Kind.FLOAT else torch.int64
    return _number(value, dtype, device)


def _tensor(param: TensorParam, value: Value, device: torch.device) -> Tensor | None:
    if value is None:
        if not param.optional:
            raise ValueError(f"`{param.name}` was not passed and is not optional")
        return None
    if not isinstance(value, Tensor) or value.ndim != len(param.dims):
        found = list(value.shape) if isinstance(value, Tensor) else value
        raise ValueError(f"`{param.name}` must have {len(param.dims)} axes, found {found}")
    return value.to(device)


def default_scale(scale: float | Tensor | None, d: int, dtype: torch.dtype, like: Tensor) -> Tensor:
    """Return the call's scale, by default `1 / sqrt(D)`."""
    if isinstance(scale, Tensor):
        return scale.to(device=like.device, dtype=dtype)
    value = 1.0 / math.sqrt(max(d, 1)) if scale is None else scale
    return _number(value, dtype, like.device)


def _number(value: float | bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a 0-d tensor: one whose value a graph's compiler knows, but that a capture may make.

    A CUDA graph that is being captured brings nothing from the host; what is filled there has no
    value that tracing could read, as it does for sizes.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return torch.full((), value, dtype=dtype, device=device)
    return torch.tensor(value, dtype=dtype, device=device)
