"""The roundings of a fused kernel, as autograd sees them.

A kernel with 16-bit inputs rounds q', k', v' and the weights to the inputs' dtype before its matrix
products, and in the backward the gradient of the scores; what it hands on to a transform are
gradients of vectors in that dtype. Rounding itself has derivative 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _RoundValue(torch.autograd.Function):
    """Rounds the value; the gradient passes unrounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ANN401
        return x.to(dtype).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # noqa: ANN401
        return grads[0], None


class _RoundGradient(torch.autograd.Function):
    """Passes the value; rounds its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ANN401
        ctx.dtype = dtype
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # noqa: ANN401
        return grads[0].to(ctx.dtype).to(grads[0].dtype), None


def round_value(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Round `x` to `dtype` and back; with None, do nothing."""
    if dtype is None:
        return x
    result: Tensor = _RoundValue.apply(x, dtype)  # type: ignore[no-untyped-call]
    return result


def round_gradient(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return `x`, whose gradient will be rounded to `dtype`; with None, do nothing."""
    if dtype is None:
        return x
    result: Tensor = _RoundGradient.apply(x, dtype)  # type: ignore[no-untyped-call]
    return result


def round_vector(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Round `x`, and the gradient that reaches it."""
    return round_value(round_gradient(x, dtype), dtype)
