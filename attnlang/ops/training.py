"""A call that autograd records.

q', k', v' and the out expression are differentiated by torch, as the reference evaluates them; what
costs, attention itself, runs in kernels both ways. Maps a variant to its core: the same score, mask
and weights over vectors that are taken as they come.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attnlang.invent.shape import ParamValue
from attnlang.ir.nodes import (
    Dot,
    Expr,
    Lse,
    RowSum,
    Size,
    TensorParam,
    Variant,
    Vector,
    VectorName,
)
from attnlang.ir.traverse import rewrite, walk
from attnlang.jit.units import Target
from attnlang.ops.arguments import DTYPE_NAMES
from attnlang.ops.errors import CallError
from attnlang.ops.specialised import Specialised
from attnlang.ops.targets import Runs, check_dtype
from attnlang.ops.training_op import TrainingOp, positional
from attnlang.passes.map_variant import map_variant
from attnlang.plan.plan import KernelKey
from attnlang.reference.attend import all_queries_and_keys, all_values, outputs
from attnlang.reference.entry import make_inputs
from attnlang.reference.inputs import Inputs
from attnlang.symbolic.build import const

_STEP = 16  # entries of a head dim that a GPU's products take together

Arrange = Callable[..., dict[str, object]]


def wants_gradient(values: Mapping[str, object]) -> bool:
    """Whether autograd would record a call with these arguments."""
    return torch.is_grad_enabled() and any(
        isinstance(x, Tensor) and x.requires_grad for x in values.values()
    )


def core(variant: Variant, head: int, value: int) -> Variant:
    """Return the variant over transformed vectors; D and DV stay those of the call."""
    sizes = {"D": head, "DV": value}

    def fix(expr: Expr) -> Expr:
        match expr:
            case Size(name=name) if name in sizes:
                return const(sizes[name], expr.span)
        return expr

    fixed = map_variant(variant, lambda expr: rewrite(expr, fix))
    plain = {n: Vector(n, span=variant.span) for n in VectorName}
    return replace(
        fixed,
        q=plain[VectorName.Q],
        k=plain[VectorName.K],
        v=plain[VectorName.V],
        out=plain[VectorName.ACC],
        requires=(),
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


class Training:
    """The differentiable calls of one variant."""

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self._cores: dict[object, Specialised] = {}

    def attend(
        self, call: TrainingCall, arrange: Arrange, seed: Mapping[str, object]
    ) -> tuple[Tensor, Tensor | None]:
        """Return out and lse (None without a softmax).

        `arrange` names the raw op's arguments, `seed` is that of a dropout, named likewise.
        """
        variant = self._variant
        _refuse(variant, call)
        runs = check_dtype(call.q)
        inputs = self._inputs(call)
        q, k, v = self._vectors(call, inputs)
        reads_sum = any(isinstance(e, RowSum) for e in walk(variant.out))
        dv = v.shape[3]
        if reads_sum:  # a value of 1 adds up to the sum of the weights
            v = _with_one(v, runs)
        op = self._op(call, runs, q, v, plain=inputs is None)
        scale = 1 / math.sqrt(call.q.shape[3]) if call.scale is None else call.scale
        named = arrange(call.values, scale, call.q_offset, call.kv_offset, call.kv_lens)
        named |= seed
        acc, lse = op.overload(*positional(op, (q, k, v), named))
        found = lse if variant.weights.softmax is not None else None
        if isinstance(variant.out, Vector) and variant.out.name == VectorName.ACC:
            return acc.to(q.dtype), found
        assert inputs is not None
        compute = acc.to(inputs.dtype)
        row_sum = _row_sum(compute[..., dv:], q.dtype, runs) if reads_sum else None
        compute = compute[..., :dv]
        needs_lse = any(isinstance(e, Lse) for e in walk(variant.out))
        out = outputs(inputs, compute, row_sum, found if needs_lse else None)
        return out.to(q.dtype), found

    def _op(
        self, call: TrainingCall, runs: Runs, q: Tensor, v: Tensor, *, plain: bool
    ) -> TrainingOp:
        """Return the op for these transformed vectors, its kernels built."""
        params = (p for p in self._variant.params if isinstance(p, TensorParam))
        dtypes = tuple(_dtype_name(call.values[p.name]) for p in params)
        widths = q.shape[3], v.shape[3]
        key = KernelKey(DTYPE_NAMES[q.dtype], *widths, dtypes, runs.target, runs.emulated)
        return TrainingOp.of(self._core(call, plain=plain), key, q.device)

    def _inputs(self, call: TrainingCall) -> Inputs | None:
        """Return what transforms are evaluated with; None where there is none."""
        variant = self._variant
        plain = (variant.q, VectorName.Q), (variant.k, VectorName.K), (variant.v, VectorName.V)
        vectors = (*plain, (variant.out, VectorName.ACC))
        if all(isinstance(e, Vector) and e.name == name for e, name in vectors):
            return None
        k, v = (_existing(x, call.kv_lens) for x in (call.k, call.v))
        assert k is not None
        return make_inputs(
            variant, call.q, k, v, call.values, call.scale, call.q_offset,
            call.kv_offset, call.kv_lens, 0, "fused", None,
        )  # fmt: skip

    def _vectors(self, call: TrainingCall, inputs: Inputs | None) -> tuple[Tensor, Tensor, Tensor]:
        variant, q, k, v = self._variant, call.q, call.k, call.v
        if inputs is None:
            assert v is not None
            return q, k, v
        if not isinstance(variant.q, Vector) or not isinstance(variant.k, Vector):
            q, k = (x.to(q.dtype) for x in all_queries_and_keys(inputs))
        if not (isinstance(variant.v, Vector) and variant.v.name == VectorName.V):
            v = all_values(inputs).to(q.dtype)
        assert v is not None
        return q, k, v

    def _core(self, call: TrainingCall, *, plain: bool) -> Specialised:
        head = call.q.shape[3]
        place = (call.consts, call.given, head, call.value_dim)
        if place not in self._cores:
            variant = self._variant if plain else core(self._variant, head, call.value_dim)
            self._cores[place] = Specialised(variant, dict(call.consts), call.given)
        return self._cores[place]


def _existing(rows: Tensor | None, kv_lens: Tensor | None) -> Tensor | None:
    """Return keys or values with zeros past each length: a gradient of 0 must not meet NaN."""
    if rows is None or kv_lens is None:
        return rows
    past = torch.arange(rows.shape[2], device=rows.device) >= kv_lens[..., None]
    return rows.masked_fill(past.reshape(-1, 1, rows.shape[2], 1), 0)


def _with_one(v: Tensor, runs: Runs) -> Tensor:
    """Return v with a value of 1 beside it; on a GPU two of them, in a whole step of entries."""
    more, ones = (1, 1) if runs.target is Target.CPU else (_STEP - v.shape[3] % _STEP, 2)
    beside = v.new_zeros((*v.shape[:3], more))
    beside[..., :ones] = 1
    return torch.cat([v, beside], dim=3)


def _row_sum(sums: Tensor, dtype: torch.dtype, runs: Runs) -> Tensor:
    """Return what the values of 1 added up to."""
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


def _refuse(variant: Variant, call: TrainingCall) -> None:
    """Refuse what has no derivative yet, naming the argument."""
    roots = (variant.weights.softmax, variant.weights.factor, variant.weights.sink)
    if any(isinstance(e, Dot) for root in roots if root is not None for e in walk(root)):
        raise CallError(
            "q",
            "a tensor that needs no gradient",
            "requires_grad=True",
            help="no gradient goes through `dot` in a score yet: use `reference`",
        )
    if isinstance(call.scale, Tensor) and call.scale.requires_grad:
        raise CallError(
            "scale", "a number, or a tensor that needs no gradient", "requires_grad=True"
        )


def _dtype_name(value: ParamValue) -> str:
    return DTYPE_NAMES[value.dtype] if isinstance(value, Tensor) else "none"
