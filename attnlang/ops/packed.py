"""Packed calls: from rows of all requests one after another to the packed op.

Maps the arguments of `Variant.ragged` to `attnlang::<name>_packed`. An eager call checks them and
builds the kernel; a traced one arranges them, and the op's fake implementation builds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from attnlang.invent.shape import ParamValue
from attnlang.ir.nodes import ScalarParam
from attnlang.jit.units import Target
from attnlang.ops import arguments as check
from attnlang.ops import packed_arguments as packed
from attnlang.ops.errors import CallError
from attnlang.ops.specialised import const_values, given_tensors
from attnlang.ops.targets import check_dtype
from attnlang.ops.training import wants_gradient
from attnlang.ops.transforms import refuse_tangents

if TYPE_CHECKING:
    from attnlang.ops.variant import Variant

Offset = int | Tensor | None


@dataclass(frozen=True, slots=True)
class Ragged:
    """The arguments of one ragged call; `values` has every parameter."""

    q: Tensor
    k: Tensor
    v: Tensor | None
    q_indptr: Tensor
    kv_indptr: Tensor
    values: dict[str, ParamValue]
    scale: float | Tensor | None
    q_offset: Offset
    kv_offset: int | Tensor
    seed: int | None


def split_arguments(
    args: tuple[ParamValue, ...], params: dict[str, ParamValue], *, v: bool
) -> tuple[Tensor | None, Tensor, Tensor, tuple[ParamValue, ...]]:
    """Tell v (where the spec takes one) and the offsets from the parameters, which are left."""
    found: dict[str, ParamValue] = {}
    for name in (*(("v",) if v else ()), "q_indptr", "kv_indptr"):
        if name not in params and not args:
            raise CallError(name, "a tensor", "nothing")
        if name in params:
            found[name] = params.pop(name)
        else:
            found[name], args = args[0], args[1:]
    if not v and params.pop("v", None) is not None:
        raise CallError("v", "nothing: the spec makes v of k", "a tensor")
    # What they are is checked later, for a traced call by the op's fake implementation.
    passed = (found.get("v"), found["q_indptr"], found["kv_indptr"])
    return *cast("tuple[Tensor | None, Tensor, Tensor]", passed), args


def attend(
    variant: Variant, call: Ragged, *, return_lse: bool, return_max: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return out [sum Q, HQ, DV], lse [sum Q, HQ], max [B, HQ]; empty what is not asked for."""
    if not torch.compiler.is_compiling():
        _check(variant, call, return_lse=return_lse)
    op = variant.registered_op(call.values, "packed")
    named = variant.op_arguments(call.values, call.scale, call.q_offset, call.kv_offset, None)
    names = variant.companions
    named |= {names["q_indptr"]: call.q_indptr, names["kv_indptr"]: call.kv_indptr}
    if return_lse:
        named["return_lse"] = True
    if return_max:
        named["return_max"] = True
    named |= variant.seed_argument(call.seed, call.q)
    vectors = (call.q, call.k) if call.v is None else (call.q, call.k, call.v)
    results: tuple[Tensor, Tensor, Tensor] = op(*vectors, **named)
    return results


def _check(variant: Variant, call: Ragged, *, return_lse: bool) -> None:
    """Check a ragged call's arguments and build its kernel where that is missing."""
    ir, values = variant.ir, call.values
    check.check_lse(ir, return_lse)
    check.check_seed(call.seed)
    if not isinstance(call.q_indptr, Tensor):
        packed.check_indptr("q_indptr", call.q_indptr, 0, "q")
    requests = max(call.q_indptr.numel() - 1, 0)
    shape = packed.check_packed_qkv(call.q, call.k, call.v, requests)
    vectors = {"q": call.q, "k": call.k, "v": call.v}
    if wants_gradient({**vectors, **values, "scale": call.scale}):
        raise CallError(
            "q",
            "tensors that need no gradient, in a ragged call",
            "one with requires_grad=True",
            help="call it under torch.no_grad()",
        )
    own = {"scale": call.scale, "q_offset": call.q_offset, "kv_offset": call.kv_offset}
    own |= {"q_indptr": call.q_indptr, "kv_indptr": call.kv_indptr}
    check.check_places(call.q, {**vectors, **values, **own})
    refuse_tangents({**vectors, **values, **own})
    runs = check_dtype(call.q)
    if runs.target is not Target.CPU:
        found = "the emulator" if runs.emulated else f"one on {call.q.device}"
        raise CallError("q", "a CPU tensor, in a ragged call", found)
    q_lens = packed.check_indptr("q_indptr", call.q_indptr, shape.q, "q")
    kv_lens = packed.check_indptr("kv_indptr", call.kv_indptr, shape.kv, "k")
    if len(kv_lens) != len(q_lens):
        expected = f"q_indptr's {len(q_lens) + 1} offsets"
        raise CallError("kv_indptr", expected, f"{len(kv_lens) + 1}")
    for param in ir.params:
        if isinstance(param, ScalarParam):
            check.check_scalar(param, values[param.name])
    specialised = variant.specialised(const_values(ir, values), given_tensors(ir, values))
    dv = variant.value_dim(specialised, shape.d, call.v, values)
    sizes = shape.sizes() | {"DV": dv}
    longest = {"Q": max(q_lens, default=0), "KV": max(kv_lens, default=0)}
    packed.check_packed_tensors(ir, values, sizes, longest)
    for each in packed.each_sizes(ir, sizes, q_lens, kv_lens):
        variant.check_requires(values, each)
    check.check_scale(ir, call.scale)
    check.check_per_request("q_offset", call.q_offset, requests)
    check.check_per_request("kv_offset", call.kv_offset, requests)
    key = variant.kernel_key(call.q, dv, values, packed=True)
    specialised.op.ensure(key, call.q.device)
