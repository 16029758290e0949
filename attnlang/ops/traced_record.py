"""A call with gradients in a graph of `torch.compile`: imported where one is traced, never before.

The import costs torch's whole tracer, more than a second, which a graph has paid anyway. Maps the
call to one node of the tracer's graph, into which autograd's trace then goes: transforms become
part of the compiled graph, attention a pair of ops whose fake implementations build its kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch._dynamo
from torch import Tensor

from attnlang.invent.shape import ParamValue
from attnlang.ops.handles import variant_of
from attnlang.ops.packed import Ragged, record_traced
from attnlang.ops.recorded import record


def traced_record(
    handle: str, values: Mapping[str, ParamValue], call: Mapping[str, Any]
) -> Tensor | tuple[Tensor, ...]:
    """Record a call of the variant with that handle; what is None is not passed."""
    passed: Tensor | tuple[Tensor, ...] = _record(
        handle,
        {n: x for n, x in values.items() if x is not None},
        {n: x for n, x in call.items() if x is not None},
    )
    return passed


def traced_packed(handle: str, call: Ragged, *, return_max: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Record a ragged call likewise; its results are those of `packed.attend`."""
    fields = {
        "q": call.q, "k": call.k, "v": call.v, "q_indptr": call.q_indptr,
        "kv_indptr": call.kv_indptr, "scale": call.scale, "q_offset": call.q_offset,
        "kv_offset": call.kv_offset, "seed": call.seed,
    }  # fmt: skip
    passed: tuple[Tensor, Tensor, Tensor] = _record_packed(
        handle,
        {n: x for n, x in call.values.items() if x is not None},
        {n: x for n, x in fields.items() if x is not None},
        return_max,
    )
    return passed


@torch._dynamo.nonstrict_trace
def _record_packed(
    handle: str, values: dict[str, ParamValue], call: dict[str, Any], return_max: bool
) -> tuple[Tensor, Tensor, Tensor]:
    variant = variant_of(handle)
    optional = dict.fromkeys(("v", "scale", "q_offset", "seed"))
    named = {p.name: values.get(p.name) for p in variant.ir.params}
    return record_traced(
        variant, Ragged(**{**optional, **call, "values": named}), return_max=return_max
    )


@torch._dynamo.nonstrict_trace
def _record(
    handle: str, values: dict[str, ParamValue], call: dict[str, Any]
) -> Tensor | tuple[Tensor, ...]:
    return record(variant_of(handle), values, **call)
