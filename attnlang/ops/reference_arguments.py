"""Check a call of the reference, which takes any floating dtype and waits for values.

Maps wrong arguments to `CallError`, as `arguments` does for kernels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from attnlang.invent.shape import ParamValue, Shape
from attnlang.ir.nodes import Kind, ScalarParam, Variant
from attnlang.ops import arguments as check
from attnlang.ops.errors import CallError


def check_reference(
    variant: Variant,
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    values: Mapping[str, ParamValue],
    rounding: str,
    rows: Tensor | None,
    dtype: torch.dtype | None,
) -> Shape:
    """Check what the reference takes on trust: kinds, parameters, and every `require`."""
    named = {"q": q, "k": k} if v is None else {"q": q, "k": k, "v": v}
    for name, x in named.items():
        if not isinstance(x, Tensor):
            raise CallError(name, "a tensor", type(x).__name__)
        check.check_dense({name: x})
        if x.dim() != 4:
            raise CallError(name, "4 dimensions [B, H, length, D]", check.shape_text(x))
        if not x.is_floating_point():
            raise CallError(name, "a floating dtype", check.dtype_text(x))
    if rounding not in ("exact", "fused"):
        raise CallError("rounding", "'exact' or 'fused'", repr(rounding))
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        found = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else repr(dtype)
        raise CallError("dtype", "a floating dtype", found)
    check.check_dense(values)
    for param in variant.params:
        if isinstance(param, ScalarParam):
            check.check_scalar(param, values[param.name])
    shape = check.shape_of(q, k, k if v is None else v)
    check.check_heads(shape.hq, shape.hkv)
    _check_rows(rows, shape.q)
    sizes = shape.sizes()
    check.check_tensors(variant, values, sizes)
    check.check_requires(variant, values, sizes)
    return shape


def _check_rows(rows: Tensor | None, q_len: int) -> None:
    """Check the reference's `rows=`, values too: it may wait for them."""
    if rows is None:
        return
    expected = f"an int tensor [R] of query rows, 0 to {q_len - 1}"
    if not isinstance(rows, Tensor):
        raise CallError("rows", expected, type(rows).__name__)
    if rows.dim() != 1 or rows.dtype not in check.KIND_DTYPES[Kind.INT]:
        raise CallError("rows", expected, f"{check.dtype_text(rows)} {list(rows.shape)}")
    wrong = rows[(rows < 0) | (rows >= q_len)]
    if wrong.numel():
        raise CallError("rows", expected, str(int(wrong[0])))
