"""Continuous batching of transformers, `generate_batch`: ragged calls over gathered keys.

Maps the packed arguments of a step to a plan, made once for all layers of a kind, and a layer's
arguments to a run of it. Requests are causal, their queries at the end of their keys; a sliding
layer gets the last keys in order, so its window counts from the end as well.

transformers has changed who updates the cache. In 5.17 and in 5.23 the attention function does,
with other arguments; in 5.24 the layer has done it before.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import local
from typing import Any

import torch
from torch import Tensor

from attnlang.integrations.transformers.forms import Asked, Form, form_of, variant
from attnlang.integrations.transformers.masks import CAUSAL
from attnlang.integrations.transformers.symbolic_mask import Expression
from attnlang.ops.errors import CallError
from attnlang.ops.serving_plan import Plan

_FULL, _SLIDING = "full_attention", "sliding_attention"


@dataclass(slots=True)
class Steps(local):
    """The plans of a thread's current step; every step passes tensors of its own."""

    tables: tuple[Tensor, ...] = ()
    plans: dict[tuple[Form, int, int | None, int], Plan] = field(default_factory=dict)


_STEPS = Steps()


def is_step(others: Mapping[str, object]) -> bool:
    """Whether a layer is called by continuous batching."""
    return "write_index" in others


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    asked: Asked,
    sliding_window: int | None,
    scaling: float | Tensor | None,
    others: Mapping[str, object],
) -> Tensor:
    """Attend for all requests; query [1, HQ, sum Q, D] -> [1, sum Q, HQ, DV]."""
    if sliding_window is None:
        sliding_window = getattr(module, "sliding_window", None)
    kinds = getattr(getattr(module, "config", None), "layer_types", None)
    layer = getattr(module, "layer_idx", None)
    if kinds is not None and layer is not None and kinds[layer] not in (_FULL, _SLIDING):
        raise CallError("layer_types", f"{_FULL} or {_SLIDING}", kinds[layer])
    cache = others.get("cache")
    named = dict(others)
    if cache is not None:
        key, value = _updated(cache, module, key, value, named)
    k, v = (x[0].transpose(0, 1) if x.dim() == 4 else x for x in (key, value))
    q_indptr, kv_indptr = _tensor(named, "cu_seq_lens_q"), _keys_of(named, sliding_window)
    q = query[0].transpose(0, 1)
    seen = CAUSAL
    if sliding_window is not None:
        text = "((kv_idx > (q_idx - n0)) and (kv_idx <= q_idx))"
        seen = Expression(text, ("n0: int",), {"n0": sliding_window})
    form, values = form_of(seen, asked, q.shape[1])
    for name in seen.values:
        del values[name]
    plan = _plan(form, seen, sliding_window, q_indptr, kv_indptr, q.shape[1])
    out = plan.run(q, (k, v), scale=scaling, **values)  # type: ignore[arg-type]
    assert isinstance(out, Tensor)
    return out.unsqueeze(0)


def _plan(
    form: Form,
    seen: Expression,
    window: int | None,
    q_indptr: Tensor,
    kv_indptr: Tensor,
    heads: int,
) -> Plan:
    """Return the plan of this step, the one of the layer before where that was of the same kind."""
    # By identity: the buffers behind these tensors are refilled, the tensors are made anew.
    if not any(x is q_indptr for x in _STEPS.tables):
        _STEPS.tables, _STEPS.plans = (q_indptr,), {}
    place = next((n for n, x in enumerate(_STEPS.tables) if x is kv_indptr), None)
    if place is None:
        place = len(_STEPS.tables)
        _STEPS.tables = (*_STEPS.tables, kv_indptr)
    which = (form, place, window, heads)
    if which not in _STEPS.plans:
        planned: dict[str, Any] = dict(seen.values)
        made = variant(form).plan(q_indptr, kv_indptr, num_q_heads=heads, **planned)
        _STEPS.plans[which] = made
    return _STEPS.plans[which]


def _updated(
    cache: object,
    module: torch.nn.Module,
    key: Tensor,
    value: Tensor,
    named: dict[str, object],
) -> tuple[Tensor, Tensor]:
    """Write new keys and values, and return those that the requests see."""
    update = getattr(cache, "update")  # noqa: B009
    call: dict[str, object] = {
        "key_states": key,
        "value_states": value,
        "layer_idx": module.layer_idx,
    }
    if "read_index" in inspect.signature(update).parameters:
        call |= {"read_index": named["read_index"], "write_index": named["write_index"]}
        key, value = update(**call)
    else:
        key, value = update(**call, kwargs=named)  # it replaces what is there by this layer's
    return key, value


def _tensor(named: Mapping[str, object], name: str) -> Tensor:
    found = named.get(name)
    if not isinstance(found, Tensor):
        raise CallError(name, "a tensor [requests + 1]", type(found).__name__)
    return found


def _keys_of(named: Mapping[str, object], window: int | None) -> Tensor:
    """Return where each request's keys begin; there is one table for each kind of layer."""
    tables = named.get("cu_seq_lens_k")
    if isinstance(tables, dict):
        kind = _FULL if window is None else _SLIDING
        tables = next(iter(tables.values())) if len(tables) == 1 else tables[kind]
    return _tensor({"cu_seq_lens_k": tables}, "cu_seq_lens_k")
