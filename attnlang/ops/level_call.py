"""One packed call of a plan: from its tables and a layer's pools to the states of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnlang.invent.shape import ParamValue
from attnlang.ir.nodes import Param, Size, TensorParam
from attnlang.ir.nodes import Variant as Ir
from attnlang.ops.levels import LevelTables
from attnlang.ops.parts import Paged
from attnlang.ops.schedules import Schedules
from attnlang.ops.specialised import const_values, given_tensors
from attnlang.plan.packing import packed_rows

if TYPE_CHECKING:
    from attnlang.ops.variant import Variant


@dataclass(frozen=True, slots=True, eq=False)
class Pools:
    """Where a layer's keys and values of one part lie: pages [pages, page, HKV, D], or rows."""

    k: Tensor
    v: Tensor | None
    k_scale: float | Tensor | None = None
    v_scale: float | Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CallFacts:
    """What every level of a run has in common."""

    scale: float | Tensor | None
    seed: int | None
    return_lse: bool
    return_max: bool
    wide_out: bool
    schedules: Schedules
    lasts: bool  # whether the next step's tables will lie where this one's do
    plain: bool  # whether all it has are plain tensors and numbers; else it keeps no schedule


def call_level(
    variant: Variant,
    tables: LevelTables,
    part: int,
    pools: Pools,
    q: Tensor,
    values: Mapping[str, ParamValue | Paged],
    facts: CallFacts,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return out [sum Q, HQ, DV], lse [sum Q, HQ], max [B, HQ]; None what is not asked for."""
    ir, names = variant.ir, variant.companions
    own = _own(ir, values, tables)
    kv_offset = 0 if tables.kv_offset is None else tables.kv_offset
    offsets = (tables.q_offset, kv_offset, tables.kv_lens)
    named = variant.op_arguments(own, facts.scale, *offsets)
    given = {
        "q_indptr": tables.q_indptr,
        "kv_indptr": tables.kv_indptr,
        "page_indptr": tables.page_indptr,
        "page_indices": tables.page_indices,
        "k_scale": _scale(pools.k_scale, q),
        "v_scale": _scale(pools.v_scale, q),
        "part": part or None,
        "wide_out": facts.wide_out or None,
    }
    named |= {names[name]: x for name, x in given.items() if x is not None}
    flags = {"return_lse": facts.return_lse, "return_max": facts.return_max}
    named |= {name: True for name, wanted in flags.items() if wanted}
    named |= variant.seed_argument(facts.seed, q)
    specialised = variant.specialised(const_values(ir, own), given_tensors(ir, own))
    width = specialised.widths(q.shape[2], None if pools.v is None else pools.v.shape[-1]).value
    kernel = variant.kernel_key(q, width, own, packed=True)
    specialised.op.ensure(kernel, q.device)
    op = variant.registered_op(own, "packed")
    vectors = (q, pools.k) if pools.v is None else (q, pools.k, pools.v)
    schedules, scale = facts.schedules, facts.scale
    work = {"workers": schedules.workers, "split_tokens": schedules.split_tokens}
    planned = named | {names[n]: x for n, x in work.items()}

    def make() -> Tensor:  # may be kept by `schedules`, and does not hold them in turn
        # Once more: a tensor that was completed is a copy, and not what it is a copy of by now.
        now = variant.op_arguments(_own(ir, values, tables), scale, *offsets)
        planner = variant.registered_op(own, "schedule")
        made: Tensor = planner(*vectors, **(planned | now))
        return made

    key: tuple[object, ...] | None = None
    if facts.plain:
        places = tuple((x.shape, x.stride(), x.dtype) for x in vectors[1:])
        key = (part, op, kernel, q.shape, *places)
    schedule = {names["schedule"]: schedules.find(key, width, make, lasts=facts.lasts)}
    out, lse, largest = op(*vectors, **named, **schedule)
    return out, lse if facts.return_lse else None, largest if facts.return_max else None


def _own(
    ir: Ir, values: Mapping[str, ParamValue | Paged], tables: LevelTables
) -> dict[str, ParamValue]:
    """Return a variant's parameters as a packed call of these tables takes them."""
    requests = tables.q_indptr.shape[0] - 1
    own: dict[str, ParamValue] = {}
    for param in ir.params:
        value = values[param.name]
        value = value.tensor if isinstance(value, Paged) else value
        own[param.name] = _for_requests(param, value, requests)
    return own


def request_axes(param: Param) -> list[int]:
    """Return the axes `B` of what a packed call passes for a parameter."""
    if not isinstance(param, TensorParam) or packed_rows(param).folds:
        return []
    return [i for i, dim in enumerate(param.dims) if isinstance(dim, Size) and dim.name == "B"]


def _for_requests(param: Param, value: ParamValue, requests: int) -> ParamValue:
    """Return a tensor over `B` with an entry for each request of the tables.

    Those of a GPU have the maximum of requests, the tensor as many or only the step's; those of a
    CPU the step's, the tensor as many or the maximum.
    """
    if not isinstance(value, Tensor):
        return value
    for axis in request_axes(param):
        if value.shape[axis] > requests:
            value = value.narrow(axis, 0, requests)
        elif value.shape[axis] < requests:
            more = list(value.shape)
            more[axis] = requests - value.shape[axis]
            value = torch.cat([value, value.new_zeros(more)], dim=axis)
    return value


def _scale(scale: float | Tensor | None, q: Tensor) -> Tensor | None:
    """Return a scale as the op takes it, beside q."""
    if scale is None:
        return None
    if isinstance(scale, Tensor):
        return scale.to(q.device, torch.float32)
    return q.new_full((), float(scale), dtype=torch.float32)
