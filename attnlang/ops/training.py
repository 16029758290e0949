"""A call that autograd records.

q', k', v' and the out expression are differentiated by torch, as the reference evaluates them; what
costs, attention itself, runs in kernels both ways. Maps a variant to its core: the same score, mask
and weights over vectors that are taken as they come.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attnlang.invent.shape import ParamValue
from attnlang.ir.nodes import Expr, Lse, RowSum, TensorParam, Variant, Vector, VectorName
from attnlang.ir.traverse import walk
from attnlang.jit.units import Target
from attnlang.ops.arguments import DTYPE_NAMES
from attnlang.ops.errors import CallError
from attnlang.ops.specialised import Specialised, consts_key
from attnlang.ops.targets import Runs, check_dtype
from attnlang.ops.training_core import Core, core, is_plain
from attnlang.ops.training_op import TrainingOp, positional
from attnlang.plan.kernel_key import KernelKey
from attnlang.reference.attend import (
    all_queries_and_keys,
    all_values,
    hide_columns,
    inner_products,
    outputs,
)
from attnlang.reference.entry import make_inputs
from attnlang.reference.inputs import Inputs
from attnlang.reference.selection import selected_by_any

if TYPE_CHECKING:
    from attnlang.ops.packed_requests import Requests

# What has gradients, where a call has none.
DENSE_INSTEAD = "gradients come from dense and ragged calls; without them use torch.no_grad()"
_STEP = 16  # entries of a head dim that a GPU's products take together
_WIDE, _WIDE_STEP = 256, 32  # wider ones are shared out to two warps
_ONES = 2

Arrange = Callable[..., dict[str, object]]


def wants_gradient(values: Mapping[str, object]) -> bool:
    """Whether autograd would record a call with these arguments."""
    return torch.is_grad_enabled() and any(
        isinstance(x, Tensor) and x.requires_grad for x in values.values()
    )


def refuse_gradient(values: Mapping[str, object], where: str) -> None:
    """Refuse a call that autograd would record, naming the first argument that it is for."""
    for name, value in values.items():
        if wants_gradient({name: value}):
            raise CallError(
                name,
                f"a tensor that needs no gradient, in {where}",
                "one with requires_grad=True",
                help=DENSE_INSTEAD,
            )


@dataclass(frozen=True, slots=True)
class TrainingCall:
    """The arguments of one call, checked; `value_dim` is DV."""

    q: Tensor
    k: Tensor
    v: Tensor | None
    values: dict[str, ParamValue]
    consts: tuple[tuple[str, bool | int | float], ...]
    given: frozenset[str]
    value_dim: int
    scale: float | Tensor | None
    q_offset: int | Tensor | None
    kv_offset: int | Tensor
    kv_lens: Tensor | None
    kv_indices: Tensor | None = None
    kv_block: int = 1
    requests: Requests | None = None  # of a packed call: q is [sum Q, HQ, D], k and v likewise

    @property
    def selection(self) -> dict[str, object]:
        """The op's arguments for the selected columns."""
        if self.kv_indices is None:
            return {}
        return {"kv_indices": self.kv_indices, "kv_block": self.kv_block}

    @property
    def scale_wanted(self) -> bool:
        """Whether the scale wants a gradient."""
        return isinstance(self.scale, Tensor) and self.scale.requires_grad


class Training:
    """The differentiable calls of one variant."""

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self.plain = is_plain(variant)
        self._cores: dict[object, _Core] = {}

    def attend(
        self, call: TrainingCall, arrange: Arrange, seed: Mapping[str, object]
    ) -> tuple[Tensor, Tensor | None]:
        """Return out and lse (None without a softmax).

        `arrange` names the raw op's arguments, `seed` is that of a dropout, named likewise.
        """
        variant = self._variant
        runs = _runs(call)
        inputs = () if self.plain else self._inputs(call)
        q, k, v = self._vectors(call, inputs)
        reads_sum = any(isinstance(e, RowSum) for e in walk(variant.out))
        dv = v.shape[-1]
        if reads_sum:  # the sum of the weights comes beside out, its gradient by a value of 1
            v = _with_one(v, runs)
        found = self._core(call)
        lifted = self._products(call, found.core, inputs)
        op = self._op(call, found, runs, q, v)
        scale = 1 / math.sqrt(call.q.shape[-1]) if call.scale is None else call.scale
        own = None if found.core.scale is None else scale
        named = arrange(
            call.values, scale if own is None else None, call.q_offset, call.kv_offset, call.kv_lens
        )
        named |= {**seed, **call.selection, **lifted}
        if call.requests is not None:
            named |= call.requests.arguments(op.companions)
        if own is not None:
            assert found.core.scale is not None
            named |= {found.core.scale: 0.0, op.companions[found.core.scale]: own}
        acc, lse = op.overload(*positional(op, (q, k, v), named))
        log_sum = lse if variant.weights.softmax is not None else None
        if isinstance(variant.out, Vector) and variant.out.name == VectorName.ACC:
            return acc.to(q.dtype), log_sum
        compute = acc.to(inputs[0].dtype)
        row_sum = _row_sum(compute[..., dv:], q.dtype, runs) if reads_sum else None
        compute = compute[..., :dv]
        needs_lse = any(isinstance(e, Lse) for e in walk(variant.out))
        last = log_sum.unsqueeze(-1) if needs_lse and log_sum is not None else None
        if call.requests is None:
            return outputs(inputs[0], compute, row_sum, last).to(q.dtype), log_sum
        rows = [call.requests.of_queries(x) for x in (compute, row_sum, last)]
        parts = [outputs(*each) for each in zip(inputs, *rows, strict=True)]
        return call.requests.joined(parts).to(q.dtype), log_sum

    def _op(self, call: TrainingCall, found: _Core, runs: Runs, q: Tensor, v: Tensor) -> TrainingOp:
        """Return the op for these transformed vectors, its kernels built."""
        params = (p for p in self._variant.params if isinstance(p, TensorParam))
        dtypes = [_dtype_name(call.values[p.name]) for p in params]
        dtypes += [DTYPE_NAMES[torch.float32]] * len(found.core.dots)
        # int() of a symbolic size makes it a constant of the graph: kernels are built per head dim.
        widths = int(q.shape[-1]), int(v.shape[-1])
        key = KernelKey(DTYPE_NAMES[q.dtype], *widths, tuple(dtypes), runs.target, runs.emulated)
        packed = call.requests is not None
        return TrainingOp.of(found.specialised, key, q.device, packed=packed)

    def _inputs(self, call: TrainingCall) -> tuple[Inputs, ...]:
        """Return what transforms are evaluated with, of each request of a packed call."""
        if call.requests is None:
            return (self._inputs_of(call, None),)
        each = enumerate(call.requests.calls(self._variant, call))
        return tuple(self._inputs_of(own, (b, call.requests.count)) for b, own in each)

    def _inputs_of(self, call: TrainingCall, request: tuple[int, int] | None) -> Inputs:
        """Return the inputs of a dense call, zeros in columns that nobody sees."""
        inputs = make_inputs(
            self._variant, call.q, call.k, call.v, call.values, call.scale, call.q_offset,
            call.kv_offset, call.kv_lens, 0, "fused", None, request=request,
        )  # fmt: skip
        selected = None
        if call.kv_indices is not None:
            selected = selected_by_any(call.kv_indices, call.kv_block, inputs.sizes)
        return hide_columns(inputs, self._core(call).column_mask, selected)

    def _products(
        self, call: TrainingCall, core: Core, inputs: Sequence[Inputs]
    ) -> dict[str, object]:
        """Return the products of whole vectors that the core reads, as its op takes them."""
        found: dict[str, object] = {}
        for name, dot in core.dots.items():
            parts = [inner_products(each, dot) for each in inputs]
            whole = parts[0] if call.requests is None else call.requests.joined(parts)
            found[name] = whole.contiguous()
        return found

    def _vectors(
        self, call: TrainingCall, inputs: Sequence[Inputs]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return q', k' and v'."""
        variant, q, k, v = self._variant, call.q, call.k, call.v

        def whole(parts: Sequence[Tensor]) -> Tensor:
            one = parts[0] if call.requests is None else call.requests.joined(parts)
            return one.to(call.q.dtype)

        plain = not inputs
        if not plain and not (isinstance(variant.q, Vector) and isinstance(variant.k, Vector)):
            q, k = map(whole, zip(*map(all_queries_and_keys, inputs), strict=True))
        if not plain and not (isinstance(variant.v, Vector) and variant.v.name == VectorName.V):
            v = whole([all_values(each) for each in inputs])
        assert v is not None
        return q, k, v

    def _core(self, call: TrainingCall) -> _Core:
        head, value = int(call.q.shape[-1]), int(call.value_dim)
        place = (consts_key(call.consts), call.given, head, value, call.scale_wanted)
        if place not in self._cores:
            made = Core(self._variant, {}, None)
            if not self.plain or call.scale_wanted:
                made = core(self._variant, head, value, scale=call.scale_wanted)
            consts, given = dict(call.consts), call.given | made.dots.keys()
            hidden = Specialised(self._variant, consts, call.given).lowered.column_mask
            self._cores[place] = _Core(made, Specialised(made.variant, consts, given), hidden)
        return self._cores[place]


@dataclass(frozen=True, slots=True)
class _Core:
    core: Core
    specialised: Specialised
    column_mask: Expr | None  # of the variant itself


def _with_one(v: Tensor, runs: Runs) -> Tensor:
    """Return v with a value of 1 beside it; on a GPU two of them, in a whole step of entries."""
    width = v.shape[-1]
    step = _WIDE_STEP if width + _ONES > _WIDE else _STEP
    more, ones = (1, 1) if runs.target is Target.CPU else (step - width % step, _ONES)
    beside = v.new_zeros((*v.shape[:-1], more))
    beside[..., :ones] = 1
    return torch.cat([v, beside], dim=-1)


def _row_sum(sums: Tensor, dtype: torch.dtype, runs: Runs) -> Tensor:
    """Return the sum of the weights."""
    if runs.target is Target.CPU:
        return sums
    found: Tensor = _TwoParts.apply(sums[..., :1], sums[..., 1:2], dtype)  # type: ignore[no-untyped-call]
    return found


class _TwoParts(torch.autograd.Function):
    """One of two equal sums, whose gradient reaches them as two numbers of a narrow dtype.

    A GPU's kernels round what reaches out; at the sum of a row's weights it reaches all of them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, _: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ANN401
        ctx.dtype = dtype
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # noqa: ANN401
        whole = grads[0]
        first = whole.to(ctx.dtype).to(whole.dtype)
        return first, whole - first, None


def _runs(call: TrainingCall) -> Runs:
    """Return what runs a call; refuse what has no derivative there yet, naming the argument."""
    if call.q.device.type not in ("cpu", "cuda"):
        raise CallError(
            "q", "a CPU or a CUDA tensor, in a call with gradients", f"one on {call.q.device}"
        )
    runs = check_dtype(call.q)
    if call.kv_indices is not None and runs.target is not Target.CPU:
        raise CallError("kv_indices", "nothing, in a call with gradients on a GPU", "a tensor")
    return runs


def _dtype_name(value: ParamValue) -> str:
    return DTYPE_NAMES[value.dtype] if isinstance(value, Tensor) else "none"
