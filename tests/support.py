"""What tests of kernels share: inputs, strides, poisoned memory and the accuracy bar."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
import torch
from gallery_inputs import PARAMS, Sizes, fit
from torch import Tensor

import attnlang

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

T = TypeVar("T")

__all__ = [
    "EXAMPLES", "PARAMS", "Sizes", "assert_accurate", "assert_agrees", "fit", "make_qkv", "sample",
]  # fmt: skip

EXAMPLES = Path(__file__).parent.parent / "examples"


def sample(cases: Iterable[T], *quick: T) -> list[T | ParameterSet]:
    """Return the cases of a parametrised test; only the slow run has those that are not quick.

    A case that builds kernels of its own costs seconds: the quick ones stand for each kind.
    """
    chosen = list(cases)
    assert all(q in chosen for q in quick), "a quick case that is none"
    return [c if c in quick else pytest.param(c, marks=pytest.mark.slow) for c in chosen]


def make_qkv(
    s: Sizes, dtype: torch.dtype, g: torch.Generator, *, layout: str = "bhsd"
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw q, k, v. `layout`: bhsd (contiguous), bshd (transposed), gap (strided rows and dims)."""

    def draw(heads: int, length: int, dim: int) -> Tensor:
        match layout:
            case "bhsd":
                return torch.randn(s.b, heads, length, dim, generator=g).to(dtype)
            case "bshd":
                return torch.randn(s.b, length, heads, dim, generator=g).to(dtype).transpose(1, 2)
            case "gap":
                wide = torch.full((s.b, heads, length, 2 * dim + 3), math.nan, dtype=dtype)
                view = wide[..., 1 : 1 + 2 * dim : 2]
                view.copy_(torch.randn(s.b, heads, length, dim, generator=g))
                return view
            case _:
                raise AssertionError(layout)

    return draw(s.hq, s.q, s.d), draw(s.hkv, s.kv, s.d), draw(s.hkv, s.kv, s.dv)


def moved(values: dict[str, object], device: str) -> dict[str, object]:
    """Bring the tensors of a call to a device, with their strides."""
    return {n: moved_tensor(x, device) if isinstance(x, Tensor) else x for n, x in values.items()}


def moved_tensor(x: Tensor, device: str) -> Tensor:
    """Bring a tensor to a device, with its strides; beside its elements there is NaN or nothing."""
    if x.device.type == device:
        return x
    extent = (
        1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) if x.numel() else 0
    )
    memory = torch.as_strided(x, (extent,), (1,))
    return torch.as_strided(memory.to(device), x.shape, x.stride())


def assert_accurate(
    variant: attnlang.Variant,
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    *,
    device: str = "cpu",
    **call: object,
) -> tuple[Tensor, Tensor]:
    """Compare a call with the float64 reference under the project's accuracy bar.

    The tensors lie on the CPU; `device` is where the kernel runs. v is None where the variant
    computes it from k. Dropout gets a seed unless the call has one.
    float32: at most 1e-5 + 4 eps max|score|, taken over the call. bfloat16, float16: at most 1.5
    times the error of the reference that rounds as kernels do, on top; the scores feel rounding
    where q or k is transformed, and their log-sum-exp with them.
    """
    softmax = variant.ir.weights.softmax is not None
    if variant.ir.weights.dropout is not None:
        call.setdefault("seed", 1)
    vectors = moved({"q": q, "k": k, "v": v}, device).values()
    got = variant(*vectors, return_lse=softmax, **moved(call, device))
    out, lse = (x.cpu() for x in got) if softmax else (got.cpu(), None)
    assert_agrees(variant, q, k, v, out, lse, **call)
    return out, lse if lse is not None else out


def assert_agrees(
    variant: attnlang.Variant,
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    out: Tensor,
    lse: Tensor | None,
    **call: object,
) -> None:
    """Compare what a call returned; lse is None without a softmax. See `assert_accurate`."""
    softmax = variant.ir.weights.softmax is not None
    exact = variant.reference(q, k, v, return_lse=softmax, dtype=torch.float64, **call)
    want, want_lse = exact if softmax else (exact, None)
    assert out.dtype == q.dtype
    assert out.shape == want.shape
    assert not torch.isnan(out).any(), "NaN in out"
    scores = _largest_score(q, k, variant, want_lse)
    tight = 1e-5 + 4 * torch.finfo(torch.float32).eps * scores
    bound, lse_bound = tight, tight + 1e-6 * scores
    if q.dtype == torch.float32:
        bound *= max(1.0, want.abs().max().item() if want.numel() else 1.0)
    else:
        rounded = variant.reference(q, k, v, return_lse=softmax, rounding="fused", **call)
        fused, fused_lse = rounded if softmax else (rounded, None)
        bound += 1.5 * _worst(fused, want)
        if fused_lse is not None:
            lse_bound += 1.5 * _worst(fused_lse, want_lse)
    assert math.isfinite(bound + lse_bound), "the rounded reference overflows: no bound"
    error = _worst(out, want)
    assert error <= bound, f"out: error {error:.3g} > {bound:.3g}"
    if softmax:
        assert lse is not None
        assert lse.dtype == torch.float32
        empty = torch.isneginf(want_lse)
        assert torch.equal(torch.isneginf(lse), empty), "lse: empty rows differ"
        error = _worst(lse, want_lse)
        assert error <= lse_bound, f"lse: error {error:.3g} > {lse_bound:.3g}"


def _worst(got: Tensor, want: Tensor) -> float:
    """Return the largest difference; -inf differs from -inf by 0."""
    if not got.numel():
        return 0.0
    difference = got.double() - want.double()
    return torch.where(torch.isneginf(want), 0.0, difference).abs().max().item()


def _largest_score(q: Tensor, k: Tensor, variant: attnlang.Variant, lse: Tensor | None) -> float:
    """Return a bound of |score| that scales the float32 tolerance."""
    if not q.numel() or not k.numel():
        return 0.0
    longest = [x.double().nan_to_num().norm(dim=-1).max() for x in (q, k)]  # NaN: no such key
    raw = longest[0] * longest[1] / math.sqrt(q.shape[-1])
    top = 0.0
    if lse is not None and torch.isfinite(lse).any():
        top = lse[torch.isfinite(lse)].abs().max().item()
    return max(raw.item(), top)
