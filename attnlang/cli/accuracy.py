"""Is it right? From a call and what a kernel made of it to the error, beside the allowed one.

The oracle is the reference in float64 on a sample of rows. The bounds (docs/testing.md): in float32
1e-5 + 4 eps max|score| of the row, times the size of what the row adds up where that is above 1; in
16 bits 1.5 times the error of the reference that rounds where kernels do, and the float32 bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnlang.invent.inputs import Call
from attnlang.ir.nodes import (
    FLOAT,
    VECTOR,
    Binary,
    BinaryOp,
    Const,
    Function,
    Variant,
    Vector,
    VectorName,
    Weights,
)
from attnlang.ir.nodes import Call as FunctionCall
from attnlang.reference import Rounding, reference

_FLOAT32_FLOOR = 1e-5
_FLOAT32_ULPS = 4
FUSED_FACTOR = 1.5
# The largest of few errors is a matter of luck: below so many values half a unit in the last place
# is allowed on top of the fused bound.
_FEW_VALUES = 4096
# Scores of the sample of rows: what the reference does in about a second.
_MAX_ELEMENTS = 1 << 23
_MIN_ROWS, _MAX_ROWS = 4, 64
# log-sum-exp of _SHARPNESS * |score| is _SHARPNESS * max|score| to within log(KV) / _SHARPNESS.
_SHARPNESS = 64.0


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The error where it is largest beside its bound, and how much was compared."""

    error: float
    bound: float
    rows: int
    why: str  # what the bound is made of

    @property
    def fine(self) -> bool:
        """Whether the kernel did what it promises; NaN is never fine."""
        return self.error <= self.bound


def sample_rows(call: Call, seed: int) -> Tensor:
    """Choose query rows to compare: the first, the last, and others at random."""
    s = call.shape
    a_row = max(1, s.b * s.hq * s.kv)
    count = min(s.q, max(_MIN_ROWS, min(_MAX_ROWS, _MAX_ELEMENTS // a_row)))
    rng = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(s.q, generator=rng)[:count].tolist()
    ends = [0, s.q - 1] if s.q else []
    return torch.tensor(sorted({*chosen, *ends}), dtype=torch.int64)


def compare(variant: Variant, call: Call, out: Tensor, lse: Tensor | None, seed: int) -> Accuracy:
    """Compare a kernel's results with the reference on a sample of rows."""
    rows = sample_rows(call, seed)
    if not out.numel() or not len(rows):
        return Accuracy(0.0, 0.0, 0, "there is nothing to compare")
    oracle = Oracle(variant, call, rows)
    exact, exact_lse = oracle.run("exact", torch.float64)
    found = out[:, :, rows].double()
    worst = oracle.out_accuracy(found, exact)
    if lse is not None and exact_lse is not None:
        by_lse = oracle.lse_accuracy(lse[:, :, rows].double(), exact_lse)
        return worst if not worst.fine or by_lse.fine else by_lse
    return worst


class Oracle:
    """The reference on some rows of one call."""

    def __init__(self, variant: Variant, call: Call, rows: Tensor) -> None:
        self._variant, self._call, self._rows = variant, call, rows
        self._has_softmax = variant.weights.softmax is not None

    def run(self, rounding: Rounding, dtype: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
        """Return out and, where there is one, lse."""
        result = _reference(self._variant, self._call, self._rows, rounding, dtype)
        return (result[0], result[1]) if self._has_softmax else (result[0], None)

    def out_accuracy(self, found: Tensor, exact: Tensor) -> Accuracy:
        """Hold the output to its bound."""
        error = _error(found, exact)
        bound = (float32_bound(self._variant, self._call, self._rows) * self._row_size(exact))[
            ..., None
        ].expand(error.shape)
        if self._call.q.dtype == torch.float32:
            return self._worst(error, bound, exact, "1e-5 + 4 eps max|score|")
        fused = _error(self.run("fused", None)[0].double(), exact).nan_to_num(0.0, 0.0).max()
        bound = bound + FUSED_FACTOR * fused
        if exact.numel() < _FEW_VALUES:
            bound = bound + torch.finfo(self._call.q.dtype).eps / 2 * exact.abs().max()
        return self._worst(error, bound, exact, f"1.5 x {fused:.1e}, the fused reference's")

    def _row_size(self, exact: Tensor) -> Tensor:
        """Return how large the terms are that a row adds up, at least 1, [B, HQ, R]."""
        call = replace(self._call, v=self._call.v.abs())
        sizes = _reference(self._variant, call, self._rows, "exact", torch.float64)[0].abs()
        return torch.maximum(sizes, exact.abs()).amax(-1).clamp(min=1)

    def lse_accuracy(self, found: Tensor, exact: Tensor) -> Accuracy:
        """Hold the log-sum-exp, which is float32 whatever the inputs are, to its bound."""
        error = _error(found, exact)
        bound = float32_bound(self._variant, self._call, self._rows)
        if self._call.q.dtype != torch.float32:
            fused = self.run("fused", None)[1]
            assert fused is not None, "the variant has a softmax"
            fused_error = _error(fused.double(), exact).nan_to_num(0.0, 0.0, 0.0)
            bound = bound + FUSED_FACTOR * fused_error.max()
        return self._worst(error, bound, exact, "lse: 1e-5 + 4 eps max|score|")

    def _worst(self, error: Tensor, bound: Tensor, exact: Tensor, why: str) -> Accuracy:
        """Take the value that exceeds its bound by most, or comes nearest to it.

        Where NaN or infinities in the call make the reference NaN, there is nothing to hold a
        kernel to.
        """
        comparable = ~(exact.isnan() | bound.isnan())
        if not comparable.any():
            return Accuracy(0.0, 0.0, 0, "nothing to compare: the reference is NaN throughout")
        if not comparable.all():
            why += "; not compared where the reference is NaN"
        error, bound = error[comparable], bound[comparable]
        place = int((error - bound).nan_to_num(nan=torch.inf).argmax())
        worst = float(error.flatten()[place])
        return Accuracy(worst, float(bound.flatten()[place]), len(self._rows), why)


def float32_bound(variant: Variant, call: Call, rows: Tensor | None = None) -> Tensor:
    """Return the bound of each row's outputs, [B, HQ, R]."""
    rows = torch.arange(call.shape.q) if rows is None else rows
    largest = _reference(_largest_score(variant), call, rows, "exact", torch.float64)[1]
    largest = (largest / _SHARPNESS).nan_to_num(neginf=0.0)
    return _FLOAT32_FLOOR + _FLOAT32_ULPS * torch.finfo(torch.float32).eps * largest


def _reference(
    variant: Variant, call: Call, rows: Tensor, rounding: Rounding, dtype: torch.dtype | None
) -> tuple[Tensor, ...]:
    options: Mapping[str, int | Tensor] = call.options
    kv_lens = options.get("kv_lens")
    result = reference(
        variant,
        call.q,
        call.k,
        call.passed_v(variant),
        params=call.params,
        q_offset=options.get("q_offset"),
        kv_offset=options.get("kv_offset", 0),
        kv_lens=kv_lens if isinstance(kv_lens, Tensor) else None,
        seed=call.seed,
        return_lse=variant.weights.softmax is not None,
        rounding=rounding,
        rows=rows,
        dtype=dtype,
    )
    return result if isinstance(result, tuple) else (result,)


def _error(found: Tensor, exact: Tensor) -> Tensor:
    """Return |found - exact|: 0 where both are the same infinity, NaN where one is NaN."""
    return torch.where(found == exact, 0.0, (found - exact).abs())


def _largest_score(variant: Variant) -> Variant:
    """Return the variant whose lse is, sharply enough, _SHARPNESS times max|score| of each row."""
    score = variant.weights.softmax or variant.score
    span = score.span
    size = FunctionCall(Function.ABS, (score,), FLOAT, span=span)
    sharp = Const(_SHARPNESS, FLOAT, span=span)
    scaled = Binary(BinaryOp.MUL, sharp, size, FLOAT, span=span)
    return replace(
        variant,
        weights=Weights(scaled, None, None, None, span=span),
        out=Vector(VectorName.ACC, VECTOR, span=span),
    )
