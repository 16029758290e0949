"""One packed call of a plan: from its tables and a layer's pools to the states of its rows.

What does not depend on the layer is arranged once a step. Invariant: calls of one `LevelCall`
differ in the values of tensors, of floats that no check reads, and of the seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnlang.invent.shape import ParamValue
from attnlang.ir.nodes import Param, ScalarParam, Size, TensorParam
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
    given: frozenset[str]  # the parameters that the run was passed
    made: Made | None  # by runs like this one; None: none is like it


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
    key = (variant, part, facts.return_max)
    call = None if facts.made is None else facts.made.get(key)
    if call is None:
        call = LevelCall(variant, tables, part, pools, q, values, facts)
        if facts.made is not None:
            facts.made[key] = call
    return call.run(q, pools.k, pools.v, values, facts.scale, facts.seed, facts.schedules)


@dataclass(frozen=True, slots=True)
class _Moving:
    """An argument that each run brings, or that is completed for each: it may have changed."""

    name: str  # the parameter's
    argument: str
    axes: tuple[int, ...]  # over the requests
    frozen: Tensor | None


class LevelCall:
    """One packed call, arranged for all runs of a step that are like each other.

    Holds nothing that a run brings, and no schedules: these hold it, and the latest run's tensors,
    where one is to be made again.
    """

    def __init__(
        self,
        variant: Variant,
        tables: LevelTables,
        part: int,
        pools: Pools,
        q: Tensor,
        values: Mapping[str, ParamValue | Paged],
        facts: CallFacts,
    ) -> None:
        ir, names = variant.ir, variant.companions
        self._variant = variant
        self._work = {
            names["workers"]: facts.schedules.workers,
        }
        self._lasts, self._stays = facts.lasts, facts.made is not None
        self._return_lse, self._return_max = facts.return_lse, facts.return_max
        self._requests = tables.q_indptr.shape[0] - 1
        self._ragged = tables.kv_indptr is not None
        own = self._own(ir.params, values)
        kv_offset = 0 if tables.kv_offset is None else tables.kv_offset
        fixed = variant.op_arguments(own, facts.scale, tables.q_offset, kv_offset, tables.kv_lens)
        given = {
            "q_indptr": tables.q_indptr,
            "kv_indptr": tables.kv_indptr,
            "page_indptr": tables.page_indptr,
            "page_indices": tables.page_indices,
            "part": part or None,
            "wide_out": facts.wide_out or None,
        }
        scales = {names["k_scale"]: pools.k_scale, names["v_scale"]: pools.v_scale}
        fixed |= {names[name]: x for name, x in given.items() if x is not None}
        flags = {"return_lse": facts.return_lse, "return_max": facts.return_max}
        fixed |= {name: True for name, wanted in flags.items() if wanted}
        for name, scale in scales.items():
            if scale is not None and not isinstance(scale, Tensor):
                fixed[name] = q.new_full((), float(scale), dtype=torch.float32)
        self._scales = tuple((n, x) for n, x in scales.items() if isinstance(x, Tensor))
        self._moving = tuple(self._moves(values, facts.given))
        self._scale = names["scale"] if isinstance(facts.scale, Tensor) else None
        for argument in (self._scale, *(m.argument for m in self._moving)):
            if argument is not None:
                fixed.pop(argument, None)
        if facts.schedules.split_tokens:
            fixed[names["split_tokens"]] = facts.schedules.split_tokens
        self._fixed = fixed
        specialised = variant.specialised(const_values(ir, own), given_tensors(ir, own))
        width = specialised.widths(q.shape[2], None if pools.v is None else pools.v.shape[-1]).value
        kernel = variant.kernel_key(q, width, own, packed=True, keys=pools.k)
        specialised.op.ensure(kernel, q.device)
        self._op = variant.registered_op(own, "packed")
        self._planner = variant.registered_op(own, "schedule")
        self._width, self._schedule_name = width, names["schedule"]
        self._schedule: Tensor | None = None
        stored = (x for x in (pools.k, pools.v) if x is not None)
        places = tuple((x.shape, x.stride(), x.dtype) for x in stored)
        self._key = (part, self._op, kernel, q.shape, *places)

    def run(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor | None,
        values: Mapping[str, ParamValue | Paged],
        scale: float | Tensor | None,
        seed: int | None,
        schedules: Schedules,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Attend; `values` has at least the parameters that runs like this one are passed."""
        call = self._arguments(q, values, scale)
        schedule = self._schedule
        if schedule is None or self._lasts:  # one that lasts is made again as the latest run says
            make = partial(self._plan, q, k, v, values, scale)
            key = self._key if self._stays or self._lasts else None
            keys = k.shape[0] if self._ragged else None
            schedule = schedules.find(key, self._width, make, lasts=self._lasts, keys=keys)
            if self._stays:
                self._schedule = schedule
        call[self._schedule_name] = schedule
        if seed is not None:
            call["seed"] = seed
        else:
            call |= self._variant.seed_argument(None, q)
        out, lse, largest = self._op(q, k, **call) if v is None else self._op(q, k, v, **call)
        return out, lse if self._return_lse else None, largest if self._return_max else None

    def _plan(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor | None,
        values: Mapping[str, ParamValue | Paged],
        scale: float | Tensor | None,
    ) -> tuple[Tensor, int]:
        """Make the schedule of a run, and tell the workspace of those that follow it on a GPU."""
        call = self._arguments(q, values, scale) | self._work
        vectors = (q, k) if v is None else (q, k, v)
        made: tuple[Tensor, int] = self._planner(*vectors, **call)
        return made

    def _arguments(
        self,
        q: Tensor,
        values: Mapping[str, ParamValue | Paged],
        scale: float | Tensor | None,
    ) -> dict[str, object]:
        call = self._fixed.copy()
        for moving in self._moving:
            value = values[moving.name] if moving.frozen is None else moving.frozen
            value = value.tensor if isinstance(value, Paged) else value
            call[moving.argument] = _for_requests(moving.axes, value, self._requests)
        if self._scale is not None:
            call[self._scale] = scale
        for name, stored in self._scales:
            call[name] = stored.to(q.device, torch.float32)
        return call

    def _moves(
        self, values: Mapping[str, ParamValue | Paged], given: frozenset[str]
    ) -> Iterator[_Moving]:
        variant = self._variant
        for param in variant.ir.params:
            name, value = param.name, values[param.name]
            value = value.tensor if isinstance(value, Paged) else value
            axes = request_axes(param)
            if isinstance(value, Tensor):
                number = isinstance(param, ScalarParam)
                argument = variant.companions[name] if number else variant.names[name]
                if name in given:
                    yield _Moving(name, argument, axes, None)
                elif axes:
                    yield _Moving(name, argument, axes, value)
            elif isinstance(value, float) and name in given and not is_const(param):
                yield _Moving(name, variant.names[name], (), None)

    def _own(
        self, params: tuple[Param, ...], values: Mapping[str, ParamValue | Paged]
    ) -> dict[str, ParamValue]:
        """Return a variant's parameters as a packed call of these tables takes them."""
        own: dict[str, ParamValue] = {}
        for param in params:
            value = values[param.name]
            value = value.tensor if isinstance(value, Paged) else value
            own[param.name] = _for_requests(request_axes(param), value, self._requests)
        return own


def is_const(param: Param) -> bool:
    """Whether each value of a parameter has an op of its own."""
    return isinstance(param, ScalarParam) and param.const


def request_axes(param: Param) -> tuple[int, ...]:
    """Return the axes `B` of what a packed call passes for a parameter."""
    if not isinstance(param, TensorParam) or packed_rows(param).folds:
        return ()
    return tuple(i for i, dim in enumerate(param.dims) if isinstance(dim, Size) and dim.name == "B")


def _for_requests(axes: tuple[int, ...], value: ParamValue, requests: int) -> ParamValue:
    """Return a tensor whose `axes` are over `B` with an entry for each request of the tables.

    Those of a GPU have the maximum of requests, the tensor as many or only the step's; those of a
    CPU the step's, the tensor as many or the maximum.
    """
    if not isinstance(value, Tensor):
        return value
    for axis in axes:
        if value.shape[axis] > requests:
            value = value.narrow(axis, 0, requests)
        elif value.shape[axis] < requests:
            more = list(value.shape)
            more[axis] = requests - value.shape[axis]
            value = torch.cat([value, value.new_zeros(more)], dim=axis)
    return value


Made = dict[tuple[object, ...], LevelCall]
