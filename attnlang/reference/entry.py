"""`reference`: a variant's meaning, computed eagerly. The oracle for every kernel.

Maps a `Variant` and the arguments of one call to its result, a chunk of query rows at a time, so
that memory stays bounded. It checks shapes, and trusts its caller for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from attnlang.ir.nodes import TensorParam, Variant, VectorName
from attnlang.plan.packing import packed_rows
from attnlang.reference.attend import Attended, attend
from attnlang.reference.inputs import (
    Inputs,
    Value,
    bind_params,
    check_shapes,
    default_scale,
    per_request,
)
from attnlang.reference.rounding import round_value
from attnlang.reference.selection import select_columns
from attnlang.reference.sizes import bind_sizes, static_scope
from attnlang.reference.vectors import width

Rounding = Literal["exact", "fused"]

# Elements of the score matrix at a time: 128 MiB for each intermediate value in float64.
_MAX_ELEMENTS = 1 << 24
_SEED_END = (1 << 63) - 1


def reference(
    variant: Variant,
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    *,
    params: Mapping[str, Value],
    scale: float | Tensor | None = None,
    q_offset: int | Tensor | None = None,
    kv_offset: int | Tensor = 0,
    kv_lens: Tensor | None = None,
    seed: int | None = None,
    return_lse: bool = False,
    return_max: bool = False,
    rounding: Rounding = "exact",
    kv_indices: Tensor | None = None,
    kv_block: int = 1,
    rows: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Compute a variant of attention from its definition, differentiably.

    Args:
        variant: The checked spec.
        q: The queries, [B, HQ, Q, D], of any floating dtype and strides.
        k: The keys, [B, HKV, KV, D].
        v: The values, [B, HKV, KV, DV]; None where the spec makes v of k.
        params: The parameters by name: numbers, 0-d tensors, tensors, None for an absent one.
        scale: What `scale` is; by default `1 / sqrt(D)`.
        q_offset: The position of query row 0, an int or int[B]; by default such that the last row
            of each request stands at its last column.
        kv_offset: The position of column 0, an int or int[B].
        kv_lens: int[B], how many columns each request has; clamped to [0, KV].
        seed: The seed of dropout (see `attnlang.reference.philox`); by default a draw from torch's
            generator.
        return_lse: Return the log-sum-exp, [B, HQ, Q], too.
        return_max: Return the largest score, [B, HQ], too: softmax's argument, or the score where
            there is no softmax, over the visible elements; -inf where there is none. No gradient.
        rounding: "exact" computes in float32, or in float64 where q or `dtype` is. "fused" rounds
            as kernels with 16-bit inputs do: q', k', v' and the weights (relative to the row's
            maximum, before the division) to q's dtype, out to q's dtype, float32 between; in the
            backward the gradient of the scores too. With wider inputs nothing is rounded.
        kv_indices: int[B, HKV, Q, K], the blocks of columns that each query row may see (a set:
            repeating one changes nothing); -1 pads. The mask applies besides.
        kv_block: The columns of a block: index i stands for [i * kv_block, (i + 1) * kv_block).
        rows: The query rows to compute, int[R]; the results have R rows. By default all.
        dtype: The dtype of the computation and the results; by default q's, and inside at least
            float32.

    Returns:
        out, [B, HQ, Q, DV'] in q's dtype, or a tuple of it and what else was asked for, in the
        order above; these in float64 where the computation is, else float32.

    Raises:
        ValueError: A shape does not fit, a parameter is missing, or `return_lse` without a softmax.
        IndexError: A tensor was read outside its extent by an element that is not masked.
        ZeroDivisionError: An int was divided by zero by such an element.

    """
    if return_lse and variant.weights.softmax is None:
        raise ValueError(f"`{variant.name}` has no softmax, hence no lse to return")
    inputs = make_inputs(
        variant, q, k, v, params, scale, q_offset, kv_offset, kv_lens, seed, rounding, dtype
    )
    dtype = q.dtype if dtype is None else dtype
    if q.shape[1] == 0:
        return _of_no_head(inputs, rows, dtype, return_lse, return_max)
    every = torch.arange(q.shape[2], device=q.device) if rows is None else rows.to(q.device).long()
    a_row = max(1, q.shape[0] * q.shape[1] * k.shape[2])
    parts: list[Attended] = []
    step = max(1, _MAX_ELEMENTS // a_row)
    for start in range(0, max(len(every), 1), step):
        chunk = every[start : start + step]
        selected = None
        if kv_indices is not None:
            selected = select_columns(kv_indices, kv_block, inputs.sizes, chunk)
        parts.append(attend(inputs, chunk, selected, want_largest=return_max))
    return _results(parts, inputs, dtype, return_lse)


def make_inputs(
    variant: Variant,
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    params: Mapping[str, Value],
    scale: float | Tensor | None,
    q_offset: int | Tensor | None,
    kv_offset: int | Tensor,
    kv_lens: Tensor | None,
    seed: int | None,
    rounding: Rounding,
    dtype: torch.dtype | None,
    *,
    request: tuple[int, int] | None = None,
) -> Inputs:
    """Make the arguments of `reference` uniform.

    With `request`, (b, B), q, k, v and the tensors whose rows a packed call folds are those of
    request b alone of B; all else is the batch's.
    """
    sizes = check_shapes(q, k, v)
    first, sizes["B"] = (0, sizes["B"]) if request is None else request
    batch, device = sizes["B"], q.device
    double = torch.float64 in (q.dtype, dtype)
    compute = torch.float64 if double else torch.float32
    narrow = rounding == "fused" and not double and q.dtype.itemsize < compute.itemsize
    lens = None if kv_lens is None else per_request(kv_lens, "kv_lens", batch, device)
    lens = None if lens is None else lens.clamp(0, sizes["KV"])
    kv_start = per_request(kv_offset, "kv_offset", batch, device)
    if q_offset is None:
        q_start = kv_start + (sizes["KV"] if lens is None else lens) - sizes["Q"]
    else:
        q_start = per_request(q_offset, "q_offset", batch, device)
    if seed is None:
        dropout = variant.weights.dropout is not None
        seed = int(torch.randint(_SEED_END, ()).item()) if dropout else 0
    scalars, tensors = bind_params(variant, params, device)
    rows = {p.name: packed_rows(p) for p in variant.params if isinstance(p, TensorParam)}
    widths = {VectorName.Q: sizes["D"], VectorName.K: sizes["D"]}
    inputs = Inputs(
        variant=variant,
        q=q.to(compute),
        k=k.to(compute),
        v=None if v is None else v.to(compute),
        scale=default_scale(scale, sizes["D"], compute, q),
        q_offset=q_start,
        kv_offset=kv_start,
        kv_lens=lens,
        scalars=scalars,
        tensors=tensors,
        sizes=sizes,
        widths=widths if v is None else widths | {VectorName.V: sizes["DV"]},
        seed=seed,
        first=first,
        alone={n: r.batch_axis for n, r in rows.items() if r.folds and request is not None},
        dtype=compute,
        rounded=q.dtype if narrow else None,
    )
    return _sized(inputs)


def _sized(inputs: Inputs) -> Inputs:
    """Return the inputs with DV, the width of acc and the sizes bound by tensors."""
    found = width(inputs.variant.v, inputs.widths, static_scope(inputs).size)
    values = inputs.sizes.get("DV", inputs.sizes["D"]) if found is None else found
    inputs.sizes.setdefault("DV", values)
    bind_sizes(inputs)
    return replace(inputs, widths={**inputs.widths, VectorName.ACC: values})


def _of_no_head(
    inputs: Inputs, rows: Tensor | None, dtype: torch.dtype, return_lse: bool, return_max: bool
) -> Tensor | tuple[Tensor, ...]:
    """Return empty results, of which all have the gradients that an empty sum has: zeros."""
    q = inputs.q if rows is None else inputs.q[:, :, rows.to(inputs.q.device).long()]
    read = (inputs.k, inputs.v, inputs.scale, *inputs.scalars.values(), *inputs.tensors.values())
    zero = sum(0 * x.sum() for x in read if isinstance(x, Tensor) and x.requires_grad)
    lse = q.sum(-1) + zero
    out = lse.unsqueeze(-1).expand(*lse.shape, inputs.widths[VectorName.ACC])
    asked = ((lse, return_lse), (lse.detach().sum(-1), return_max))
    results = [out.to(dtype), *(x for x, wanted in asked if wanted)]
    return results[0] if len(results) == 1 else tuple(results)


def _results(
    parts: list[Attended], inputs: Inputs, dtype: torch.dtype, return_lse: bool
) -> Tensor | tuple[Tensor, ...]:
    out = torch.cat([p.out for p in parts], dim=2)
    results = [round_value(out, inputs.rounded).to(dtype)]
    if return_lse:
        results.append(torch.cat([p.lse for p in parts if p.lse is not None], dim=2))
    largest = [p.largest for p in parts if p.largest is not None]
    if largest:
        results.append(torch.stack(largest).amax(0))
    return results[0] if len(results) == 1 else tuple(results)
