"""A call that autograd records: checked, then attended by the pair of training ops.

Maps the arguments of `Variant.__call__` to its results. A traced graph calls it with fake tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnlang.invent.shape import ParamValue
from attnlang.ops import arguments as check
from attnlang.ops.autocast import without_autocast
from attnlang.ops.handles import variant_of
from attnlang.ops.specialised import const_values, given_tensors
from attnlang.ops.training import TrainingCall
from attnlang.ops.transforms import refuse_func

if TYPE_CHECKING:
    from attnlang.ops.variant import Variant

Offset = int | Tensor | None


def record(
    variant: Variant,
    values: Mapping[str, ParamValue],
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor | None = None,
    scale: float | Tensor | None = None,
    q_offset: Offset = None,
    kv_offset: int | Tensor = 0,
    kv_lens: Tensor | None = None,
    kv_indices: Tensor | None = None,
    kv_block: int = 1,
    seed: int | None = None,
    return_lse: bool = False,
    return_max: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """Attend so that autograd can go back; the largest score has no gradient."""
    refuse_func()
    check.check_seed(seed)
    check.check_lse(variant.ir, return_lse)
    named = {p.name: values.get(p.name) for p in variant.ir.params}
    variant.check_call(q, k, v, named, scale, q_offset, kv_offset, kv_lens, kv_indices, kv_block)
    consts, given = const_values(variant.ir, named), given_tensors(variant.ir, named)
    dv = variant.value_dim(variant.specialised(consts, given), q.shape[3], v, named)
    keywords = (scale, q_offset, kv_offset, kv_lens, kv_indices, kv_block)
    call = TrainingCall(q, k, v, named, consts, given, dv, *keywords)
    drawn = variant.seed_argument(seed, q)
    with without_autocast(q.device.type):
        out, lse = variant.training.attend(call, variant.op_arguments, drawn)
        results = [out]
        if return_lse:
            assert lse is not None
            results.append(lse)
        if return_max:
            results.append(_largest(variant, call, drawn))
    return out if len(results) == 1 else tuple(results)


def refuse_lse(handle: str, return_lse: bool) -> None:
    """Refuse an lse that is not there; runs as Python in a trace, whose errors say less."""
    check.check_lse(variant_of(handle).ir, return_lse)


refuse_lse._dynamo_marked_constant = True  # type: ignore[attr-defined]  # see `resolve`


@torch.no_grad()
def _largest(variant: Variant, call: TrainingCall, seed: dict[str, object]) -> Tensor:
    named = variant.op_arguments(
        call.values, call.scale, call.q_offset, call.kv_offset, call.kv_lens
    )
    named |= call.selection
    vectors = (call.q, call.k, call.v) if variant.takes_v else (call.q, call.k)
    op = variant.specialised(call.consts, call.given).op.overload
    largest: Tensor = op(*vectors, **named, **seed, return_max=True)[2]
    return largest
