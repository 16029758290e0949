"""What tests of kernels share: inputs, strides, poisoned memory and the accuracy bar."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from gallery_inputs import PARAMS, Sizes, fit
from torch import Tensor

import attnlang

__all__ = ["EXAMPLES", "PARAMS", "Sizes", "assert_accurate", "fit", "make_qkv"]

EXAMPLES = Path(__file__).parent.parent / "examples"


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


def assert_accurate(
    variant: attnlang.Variant, q: Tensor, k: Tensor, v: Tensor | None, **call: object
) -> tuple[Tensor, Tensor]:
    """Compare a call with the float64 reference under the project's accuracy bar.

    v is None where the variant computes it from k. Dropout gets a seed unless the call has one.
    float32: at most 1e-5 + 4 eps max|score|, taken over the call. bfloat16, float16: at most 1.5
    times the error of the reference that rounds as kernels do (plus one rounding of the output).
    """
    softmax = variant.ir.weights.softmax is not None
    if variant.ir.weights.dropout is not None:
        call.setdefault("seed", 1)
    got = variant(q, k, v, return_lse=softmax, **call)
    out, lse = got if softmax else (got, None)
    exact = variant.reference(q, k, v, return_lse=softmax, dtype=torch.float64, **call)
    want, want_lse = exact if softmax else (exact, None)
    assert out.dtype == q.dtype
    assert out.shape == want.shape
    assert not torch.isnan(out).any(), "NaN in out"
    error = (out.double() - want).abs().max().item() if out.numel() else 0.0
    scores = _largest_score(q, k, variant, want_lse)
    tight = 1e-5 + 4 * torch.finfo(torch.float32).eps * scores
    if q.dtype == torch.float32:
        bound = tight * max(1.0, want.abs().max().item() if want.numel() else 1.0)
    else:
        fused = variant.reference(q, k, v, rounding="fused", **call)
        fused = fused[0] if isinstance(fused, tuple) else fused
        allowed = (fused.double() - want).abs().max().item() if out.numel() else 0.0
        bound = 1.5 * allowed + tight
    assert error <= bound, f"out: error {error:.3g} > {bound:.3g}"
    if softmax:
        assert lse is not None
        assert lse.dtype == torch.float32
        empty = torch.isinf(want_lse) & (want_lse < 0)
        assert torch.equal(torch.isinf(lse) & (lse < 0), empty), "lse: empty rows differ"
        difference = torch.where(empty, 0.0, lse.double() - want_lse.double()).abs()
        worst = difference.max().item() if difference.numel() else 0.0
        assert worst <= tight + 1e-6 * scores, f"lse: error {worst:.3g} > {tight:.3g}"
    return out, lse if lse is not None else out


def _largest_score(q: Tensor, k: Tensor, variant: attnlang.Variant, lse: Tensor | None) -> float:
    """Return a bound of |score| that scales the float32 tolerance."""
    if not q.numel() or not k.numel():
        return 0.0
    raw = q.double().norm(dim=-1).max() * k.double().norm(dim=-1).max() / math.sqrt(q.shape[-1])
    top = 0.0
    if lse is not None and torch.isfinite(lse).any():
        top = lse[torch.isfinite(lse)].abs().max().item()
    return max(raw.item(), top)
