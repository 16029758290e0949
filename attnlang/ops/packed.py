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
from attnlang.ops import arguments as check
from attnlang.ops import packed_arguments as packed
from attnlang.ops.autocast import without_autocast
from attnlang.ops.errors import CallError
from attnlang.ops.handles import variant_of
from attnlang.ops.packed_requests import Requests
from attnlang.ops.recorded import refuse_lse
from attnlang.ops.routes import Route, make_route
from attnlang.ops.specialised import const_values, given_tensors
from attnlang.ops.targets import check_dtype
from attnlang.ops.training import (
    TrainingCall,
    wants_gradient,
)
from attnlang.ops.transforms import refuse_func, refuse_tangents

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
    for name, x in (("q_indptr", call.q_indptr), ("kv_indptr", call.kv_indptr)):
        if not isinstance(x, Tensor):
            refuse_indptr(name, type(x).__name__)
    recorded = wants_gradient(
        {"q": call.q, "k": call.k, "v": call.v, "scale": call.scale, **call.values}
    )
    if recorded and torch.compiler.is_dynamo_compiling():
        from attnlang.ops.traced_record import traced_packed

        refuse_lse(variant._handle, return_lse)
        refuse_traced(variant._handle)
        return traced_packed(variant._handle, call, return_max=return_max)
    if recorded and torch.compiler.is_compiling():
        refuse_lse(variant._handle, return_lse)
        refuse_traced(variant._handle)
        return record_traced(variant, call, return_max=return_max)
    if not torch.compiler.is_compiling():
        check.check_lse(variant.ir, return_lse)
        requests = _check(variant, call, recorded=recorded, raw=not recorded or return_max)
        if recorded:
            return _record(variant, call, requests, return_max=return_max)
    seed = variant.seed_argument(call.seed, call.q)
    return _run(variant, call, seed, return_lse=return_lse, return_max=return_max)


def record_traced(
    variant: Variant, call: Ragged, *, return_max: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Record a call whose offsets have no values yet; torch cannot take its requests apart."""
    return _record(variant, call, _requests(call, (), ()), return_max=return_max)


def refuse_traced(handle: str) -> None:
    """Refuse in a graph what torch transforms request by request; runs as Python in a trace."""
    if not variant_of(handle).training.plain:
        raise CallError(
            "q",
            "tensors that need no gradient, in a compiled ragged call of a spec with transforms",
            "one with requires_grad=True",
            help="call it outside the graph, under torch.compiler.disable",
        )


def refuse_indptr(name: str, found: str) -> None:
    """Refuse offsets that are no tensor; runs as Python in a trace."""
    raise CallError(name, packed.INDPTR, found)


# See `resolve`.
refuse_traced._dynamo_marked_constant = True  # type: ignore[attr-defined]
refuse_indptr._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_like_others(variant: Variant, call: Ragged) -> bool:
    """Whether a call that passed its checks answers for all with the same facts.

    The values of its offsets are looked at by the op where it can: on the CPU. On a GPU nobody
    looks at those that lie there. A `require` on lengths reads them in each call.
    """
    on_gpu = call.q.is_cuda
    if call.q_indptr.is_cuda is not on_gpu or call.kv_indptr.is_cuda is not on_gpu:
        return False
    return on_gpu or variant.lengths_are_free


def route(
    variant: Variant,
    call: Ragged,
    by_place: int,
    params: dict[str, ParamValue],
    *,
    return_lse: bool,
    return_max: bool,
) -> Route:
    """Return how calls like one are answered."""
    moving = {
        "scale": call.scale, "q_offset": call.q_offset, "kv_offset": call.kv_offset,
        "q_indptr": call.q_indptr, "kv_indptr": call.kv_indptr, "seed": call.seed,
    }  # fmt: skip
    seed: dict[str, object] = {} if call.seed is None else {"seed": call.seed}
    named = _named(variant, call, return_lse=return_lse, return_max=return_max) | seed
    op = variant.registered_op(call.values, "packed")
    return make_route(variant, op, named, call.values, by_place, params, moving)


def attend_again(
    variant: Variant,
    known: Route,
    vectors: tuple[Tensor, Tensor, Tensor | None],
    args: tuple[ParamValue, ...],
    params: dict[str, ParamValue],
    moving: tuple[object, ...],
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Attend like before, without checks; None where the op refuses the values of offsets."""
    q, k, v = vectors
    call = known.arguments(args, params, moving)
    if moving[-1] is None:
        call |= variant.seed_argument(None, q)
    try:
        results: tuple[Tensor, Tensor, Tensor] = known.op(
            *((q, k) if v is None else (q, k, v)), **call
        )
    except RuntimeError:
        if q.is_cuda:
            raise
        return None  # the checks say it better
    return results


def _named(
    variant: Variant, call: Ragged, *, return_lse: bool, return_max: bool
) -> dict[str, object]:
    """Return the op's arguments after the vectors, without a seed."""
    named = variant.op_arguments(call.values, call.scale, call.q_offset, call.kv_offset, None)
    names = variant.companions
    # Kernels read the offsets where q is.
    indptr = {"q_indptr": call.q_indptr, "kv_indptr": call.kv_indptr}
    named |= {names[name]: x.to(call.q.device) for name, x in indptr.items()}
    if return_lse:
        named["return_lse"] = True
    if return_max:
        named["return_max"] = True
    return named


def _run(
    variant: Variant,
    call: Ragged,
    seed: dict[str, object],
    *,
    return_lse: bool,
    return_max: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    op = variant.registered_op(call.values, "packed")
    named = _named(variant, call, return_lse=return_lse, return_max=return_max) | seed
    vectors = (call.q, call.k) if call.v is None else (call.q, call.k, call.v)
    results: tuple[Tensor, Tensor, Tensor] = op(*vectors, **named)
    return results


def _record(
    variant: Variant, call: Ragged, requests: Requests, *, return_max: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend so that autograd can go back; the largest score has no gradient."""
    refuse_func()
    ir, values, q = variant.ir, call.values, call.q
    seed = variant.seed_argument(call.seed, q)
    if requests.count == 0 and not variant.training.plain:  # nothing that torch could transform
        with torch.no_grad():
            softmax = ir.weights.softmax is not None
            nothing = _run(variant, call, seed, return_lse=softmax, return_max=return_max)
        inputs = (q, call.k, call.v, call.scale, *values.values())
        zero = sum(0 * x.sum() for x in inputs if isinstance(x, Tensor) and x.requires_grad)
        return nothing[0] + zero, *nothing[1:]
    consts, given = const_values(ir, values), given_tensors(ir, values)
    dv = variant.value_dim(variant.specialised(consts, given), q.shape[2], call.v, values)
    recorded = TrainingCall(
        q, call.k, call.v, values, consts, given, dv, call.scale, call.q_offset, call.kv_offset,
        None, requests=requests,
    )  # fmt: skip
    with without_autocast(q.device.type):
        out, lse = variant.training.attend(recorded, variant.op_arguments, seed)
        largest = q.new_empty(0)
        if return_max:
            with torch.no_grad():
                largest = _run(variant, call, seed, return_lse=False, return_max=True)[2]
    return out, q.new_empty(0) if lse is None else lse, largest


def _check(variant: Variant, call: Ragged, *, recorded: bool, raw: bool) -> Requests:
    """Check a ragged call's arguments; build the kernel that autograd knows nothing of if `raw`."""
    ir, values = variant.ir, call.values
    check.check_seed(call.seed)
    requests = max(call.q_indptr.numel() - 1, 0)
    shape = packed.check_packed_qkv(call.q, call.k, call.v, requests)
    vectors = {"q": call.q, "k": call.k, "v": call.v}
    own = {"scale": call.scale, "q_offset": call.q_offset, "kv_offset": call.kv_offset}
    check.check_places(call.q, {**vectors, **values, **own})
    refuse_tangents({**vectors, **values, **own})
    check_dtype(call.q)
    q_ends, kv_ends = call.q_indptr, call.kv_indptr
    if recorded and not variant.training.plain:  # torch transforms request by request
        q_ends, kv_ends = (x.cpu() for x in (q_ends, kv_ends))
    q_lens = packed.check_indptr("q_indptr", q_ends, shape.q, "q", beside=call.q)
    kv_lens = packed.check_indptr("kv_indptr", kv_ends, shape.kv, "k", beside=call.q)
    if call.kv_indptr.numel() != call.q_indptr.numel():
        expected = f"q_indptr's {call.q_indptr.numel()} offsets"
        raise CallError("kv_indptr", expected, f"{call.kv_indptr.numel()}")
    for param in ir.params:
        if isinstance(param, ScalarParam):
            check.check_scalar(param, values[param.name])
    specialised = variant.specialised(const_values(ir, values), given_tensors(ir, values))
    dv = variant.value_dim(specialised, shape.d, call.v, values)
    sizes = shape.sizes() | {"DV": dv}
    # Of offsets in a GPU's memory nothing is known: its kernels keep to the rows that are there.
    longest = {"Q": max(q_lens or (), default=0), "KV": max(kv_lens or (), default=0)}
    packed.check_packed_tensors(ir, values, sizes, longest)
    for each in packed.each_sizes(ir, sizes, q_lens, kv_lens):
        variant.check_requires(values, each)
    check.check_scale(ir, call.scale)
    check.check_per_request("q_offset", call.q_offset, requests)
    check.check_per_request("kv_offset", call.kv_offset, requests)
    if raw or requests == 0:
        key = variant.kernel_key(call.q, dv, values, packed=True)
        specialised.op.ensure(key, call.q.device)
    return _requests(call, tuple(q_lens or ()), tuple(kv_lens or ()))


def _requests(call: Ragged, q_lens: tuple[int, ...], kv_lens: tuple[int, ...]) -> Requests:
    """Return the requests of a call, their offsets where its kernels read them."""
    device = call.q.device
    return Requests(call.q_indptr.to(device), call.kv_indptr.to(device), q_lens, kv_lens)
