"""Checking a run of a plan: from what one layer passed to what its packed calls take.

Reads shapes, dtypes and devices; the lengths are those of the plan. Raises CallError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from attnlang.invent.shape import ParamValue
from attnlang.ir.nodes import Param, ScalarParam, TensorParam, Variant
from attnlang.ops import arguments as check
from attnlang.ops import packed_arguments as packed
from attnlang.ops.errors import CallError
from attnlang.ops.frozen import Value
from attnlang.ops.level_call import Pools, request_axes
from attnlang.ops.paged_kv import FP8_DTYPES
from attnlang.ops.parts import Paged
from attnlang.ops.specialised import const_values, given_tensors
from attnlang.ops.targets import check_dtype
from attnlang.ops.training import refuse_gradient
from attnlang.plan.packing import packed_rows

if TYPE_CHECKING:
    from attnlang.ops.variant import Variant as CallableVariant


@dataclass(frozen=True, slots=True)
class Lengths:
    """The rows and keys of a plan's requests; None where tables on a GPU have them."""

    requests: int
    q: tuple[int, ...] | None
    kv: tuple[int, ...] | None
    most: int  # requests that kernels are told of; tensors over B may have as many entries
    pages: tuple[int, int] | None  # [pages, page] of the one cache; None: ragged, or several parts
    parts: int


def check_run(
    variant: CallableVariant,
    lengths: Lengths,
    q: Tensor,
    pools: tuple[Pools, ...],
    values: Mapping[str, Value],
    scale: float | Tensor | None,
) -> None:
    """Check the vectors and parameters of one run."""
    ir = variant.ir
    plain: dict[str, ParamValue] = {}
    for name, value in values.items():
        plain[name] = value.tensor if isinstance(value, Paged) else value
    for own in pools:
        stored = {"k": own.k, "v": own.v, "k_scale": own.k_scale, "v_scale": own.v_scale}
        refuse_gradient({"q": q, **stored, "scale": scale, **plain}, "a planned call")
        _check_pool(q, own)
        check.check_places(q, {"k": own.k, "v": own.v, "scale": scale, **plain})
    check.check_scale(ir, scale)
    check_dtype(q)
    for param in ir.params:
        if isinstance(param, ScalarParam):
            check.check_scalar(param, plain[param.name])
    specialised = variant.specialised(const_values(ir, plain), given_tensors(ir, plain))
    k, v = pools[0].k, pools[0].v
    dv = variant.value_dim(specialised, q.shape[2], None if v is None else v, plain)
    sizes = {
        "B": lengths.requests, "HQ": q.shape[1], "HKV": k.shape[-2], "Q": q.shape[0],
        "KV": k.shape[0] if lengths.kv is None else sum(lengths.kv), "D": q.shape[2], "DV": dv,
    }  # fmt: skip
    longest = {"Q": max(lengths.q or (), default=0), "KV": max(lengths.kv or (), default=0)}
    dense = {
        p.name: None if isinstance(values[p.name], Paged) else _of_step(p, plain[p.name], lengths)
        for p in ir.params
    }
    _check_paged(ir, values, lengths, sizes)
    packed.check_packed_tensors(_without(ir, values), dense, sizes, longest)
    for each in packed.each_sizes(ir, sizes, lengths.q, lengths.kv):
        variant.check_requires(plain, each)


def _of_step(param: Param, value: ParamValue, lengths: Lengths) -> ParamValue:
    """Return a tensor over `B` without the entries of requests that are not there."""
    if not isinstance(value, Tensor):
        return value
    for axis in request_axes(param):
        if axis < value.dim() and value.shape[axis] == lengths.most:
            value = value.narrow(axis, 0, lengths.requests)
    return value


def _without(ir: Variant, values: Mapping[str, Value]) -> Variant:
    """Return the variant without the parameters that lie in pages: they were checked."""
    paged = {n for n, x in values.items() if isinstance(x, Paged)}
    params = tuple(p for p in ir.params if p.name not in paged)
    return replace(ir, params=params, sizes=tuple(s for s in ir.sizes if s.tensor not in paged))


def _check_pool(q: Tensor, own: Pools) -> None:
    k, v = own.k, own.v
    check.check_dense({"k": k, "v": v})
    for name, x in (("k", k), ("v", v)):
        if x is None:
            continue
        fp8 = x.dtype in FP8_DTYPES and x.dim() == 4
        if x.dtype != q.dtype and not fp8:
            expected = f"the dtype of q, {q.dtype}".replace("torch.", "")
            raise CallError(name, expected, str(x.dtype).removeprefix("torch."))
    if k.shape[-1] != q.shape[2]:
        raise CallError("k", f"q's head dim D = {q.shape[2]}", f"shape {list(k.shape)}")
    if q.shape[1] % k.shape[-2]:
        raise CallError("q", f"a multiple of k's {k.shape[-2]} heads", f"{q.shape[1]} heads")


def _check_paged(
    ir: Variant, values: Mapping[str, Value], lengths: Lengths, sizes: Mapping[str, int]
) -> None:
    """Check the tensors over `KV`, which lie in the cache's pages or follow a ragged k."""
    for param in ir.params:
        value = values[param.name]
        if not isinstance(param, TensorParam):
            if isinstance(value, Paged):
                raise CallError(param.name, check.describe_param(param), "a Paged")
            continue
        rows = packed_rows(param)
        of_keys = rows.folds and rows.size == "KV"
        if not isinstance(value, Paged):
            if of_keys and isinstance(value, Tensor):
                for wrong, where in (
                    (lengths.parts > 1, "in a plan of several parts"),
                    (lengths.kv is None and lengths.pages is not None, "beside tables on a GPU"),
                ):
                    if wrong:
                        expected = f"a Paged tensor, or nothing over KV, {where}"
                        raise CallError(param.name, expected, "a tensor")
            continue
        if not of_keys or lengths.pages is None:
            expected = "a Paged only for a tensor with B and KV, and one cache"
            raise CallError(param.name, expected, "a Paged")
        tensor = value.tensor
        rest = [
            check.size_value(d, sizes, {})
            for i, d in enumerate(param.dims)
            if i not in (rows.batch_axis, rows.row_axis)
        ]
        wanted = [*lengths.pages, *rest]
        check.check_tensor(param, tensor)
        if list(tensor.shape) != wanted:
            raise CallError(param.name, f"a Paged of shape {wanted}", f"shape {list(tensor.shape)}")
