"""Are its gradients right? From a call to the gradient that errs most, beside the allowed error.

Of q, k, v and every float parameter, of random numbers that reach out and lse; the oracle is the
reference's autograd in float64. The bounds (docs/testing.md): twice the float32 bound of the
outputs, times the largest value of the gradient where that is above 1, and 1.5 times the error of
the reference that computes and rounds as kernels do (a sum over all elements loses what cancels);
in 16 bits on top half a unit in the last place of the largest, twice that where a transform's
gradient is made of one that was rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from attnlang.cli.accuracy import FUSED_FACTOR, Accuracy, float32_bound
from attnlang.cli.places import Place
from attnlang.invent.inputs import Call
from attnlang.invent.shape import ParamValue
from attnlang.ir.nodes import Kind, ScalarParam, Vector
from attnlang.ops.variant import Variant

_Tensors = dict[str, Tensor]
_Attend = Callable[..., Tensor | tuple[Tensor, ...]]


def compare_gradients(variant: Variant, call: Call, place: Place, seed: int) -> Accuracy:
    """Compare every gradient of a call with the reference's. Raises CallError as the call does."""
    there = place.bring(call)
    arriving = _arriving(variant, call, seed)
    found = _gradients(variant, variant, there, _leaves(variant, there), arriving)
    narrow = _leaves(variant, call)
    wide = {n: t.double() for n, t in narrow.items()}
    exact = _gradients(variant, variant.reference, call, wide, arriving)
    fused = _gradients(variant, variant.reference, call, narrow, arriving, rounding="fused")
    base = 2 * float(float32_bound(variant.ir, call).max()) if exact["q"].numel() else 0.0
    ulp = 0.0 if call.q.dtype == torch.float32 else torch.finfo(call.q.dtype).eps
    all_of_them = (
        _compare(
            n, found[n].cpu().double(), exact[n], fused[n].double(), base,
            ulp if _is_transformed(variant, n) else ulp / 2,
        )
        for n in exact
    )  # fmt: skip
    return max(all_of_them, key=lambda a: (not a.fine, a.error / a.bound if a.bound else 0.0))


def _leaves(variant: Variant, call: Call) -> _Tensors:
    """Return what a gradient is taken by: the vectors, and float parameters as tensors."""
    leaves = {"q": call.q, "k": call.k}
    v = call.passed_v(variant.ir)
    if v is not None:
        leaves["v"] = v
    for param in variant.ir.params:
        value = call.params.get(param.name)
        if param.kind != Kind.FLOAT or value is None:
            continue
        if isinstance(value, Tensor):
            leaves[param.name] = value
        elif isinstance(param, ScalarParam) and not param.const:
            leaves[param.name] = torch.tensor(float(value), device=call.q.device)
    return leaves


def _arriving(variant: Variant, call: Call, seed: int) -> list[Tensor]:
    """Draw what reaches the outputs."""
    with torch.no_grad():
        outputs = _attend(variant, variant.reference, call, call.params, _vectors(variant, call))
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(x.shape, generator=rng).to(x.dtype) for x in outputs]


def _vectors(variant: Variant, call: Call) -> list[Tensor]:
    v = call.passed_v(variant.ir)
    return [call.q, call.k] if v is None else [call.q, call.k, v]


def _attend(
    variant: Variant,
    attend: _Attend,
    call: Call,
    params: Mapping[str, ParamValue],
    vectors: list[Tensor],
    **how: Any,  # noqa: ANN401
) -> tuple[Tensor, ...]:
    softmax = variant.ir.weights.softmax is not None
    named = {**call.options, "seed": call.seed, **params, **how}
    outputs = attend(*vectors, **named, return_lse=softmax)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _gradients(
    variant: Variant,
    attend: _Attend,
    call: Call,
    leaves: _Tensors,
    arriving: list[Tensor],
    **how: Any,  # noqa: ANN401
) -> _Tensors:
    """Differentiate a call by its leaves; one that nothing reaches has zeros."""
    wanted = {n: t.detach().requires_grad_() for n, t in leaves.items()}
    vectors = [wanted.get(n) for n in ("q", "k", "v")]
    params = {**call.params, **{n: t for n, t in wanted.items() if n in call.params}}
    passed = [x for x in vectors if x is not None]
    outputs = _attend(variant, attend, call, params, passed, **how)
    reached = [g.to(x) for g, x in zip(arriving, outputs, strict=True)]
    found = torch.autograd.grad(outputs, list(wanted.values()), reached, allow_unused=True)
    return {
        n: torch.zeros_like(t) if g is None else g
        for (n, t), g in zip(wanted.items(), found, strict=True)
    }


def _is_transformed(variant: Variant, name: str) -> bool:
    """Whether the gradient goes back through what the spec makes of q, k or v."""
    made = {"q": variant.ir.q, "k": variant.ir.k, "v": variant.ir.v}
    vectors = [made[name]] if name in made else list(made.values())
    return not all(isinstance(e, Vector) for e in vectors)


def _compare(
    name: str, found: Tensor, exact: Tensor, fused: Tensor, base: float, ulp: float
) -> Accuracy:
    comparable = ~exact.isnan()
    if not comparable.any():
        return Accuracy(0.0, 0.0, 0, f"gradient of {name}: the reference has none")
    found, exact, fused = found[comparable], exact[comparable], fused[comparable]
    size = max(1.0, float(exact.abs().max()))
    rounded = float((fused - exact).abs().nan_to_num(0.0, 0.0).max())
    bound = base * size + FUSED_FACTOR * rounded + size * ulp
    why = f"2e-5 + 8 eps max|score|, 1.5 x {rounded:.1e}, the fused reference's"
    error = (found - exact).abs().nan_to_num(nan=torch.inf).max()
    return Accuracy(float(error), bound, exact.numel(), f"gradient of {name}: {why}")
