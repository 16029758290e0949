"""Checking a packed call: from what Python passed to what the packed op takes, or a `CallError`.

Beside shapes, dtypes and places it reads offsets that lie on the CPU: what is wrong with them is
found before anything runs. Those on a GPU are its kernels' to read, which keep to the rows that
are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from attnlang.invent.shape import ParamValue, Shape
from attnlang.ir.nodes import Size, TensorParam, Variant
from attnlang.ir.printer import print_expr
from attnlang.ir.traverse import walk
from attnlang.ops import arguments as check
from attnlang.ops.errors import CallError
from attnlang.plan.packing import PackedRows, packed_rows

INDPTR = "an int tensor [B + 1]"


def check_packed_qkv(q: Tensor, k: Tensor, v: Tensor | None, requests: int) -> Shape:
    """Check q [sum Q, HQ, D], k [sum KV, HKV, D], v [sum KV, HKV, DV]; return B and the sums."""
    v = k if v is None else v
    check.check_vectors({"q": q, "k": k, "v": v}, "[rows of all requests, H, D]", 3)
    rows, hq, d = q.shape
    columns, hkv, _ = k.shape
    if k.shape[2] != d:
        raise CallError("k", f"q's head dim D = {d}", f"shape {list(k.shape)}")
    if v.shape[:2] != k.shape[:2]:
        expected = f"k's rows and heads [{columns}, {hkv}, DV]"
        raise CallError("v", expected, f"shape {list(v.shape)}")
    shape = Shape(requests, hq, hkv, rows, columns, d, v.shape[2])
    check.check_sizes(shape)
    return shape


def check_indptr(
    name: str, indptr: Tensor, rows: int, of: str, *, beside: Tensor | None = None
) -> list[int] | None:
    """Check offsets int[B + 1] from 0 to the `rows` of `of`; return the lengths of the requests.

    They may lie in the memory of the GPU that `beside` is on, and are not read then: None.
    """
    expected = INDPTR
    if not isinstance(indptr, Tensor):
        raise CallError(name, expected, type(indptr).__name__)
    check.check_dense({name: indptr})
    if indptr.dtype not in (torch.int32, torch.int64):
        found = str(indptr.dtype).removeprefix("torch.")
        raise CallError(name, f"{expected}, int32 or int64", f"dtype {found}")
    if indptr.dim() != 1 or indptr.shape[0] == 0:
        raise CallError(name, expected, f"shape {list(indptr.shape)}")
    if indptr.device.type != "cpu":
        if beside is not None and indptr.device == beside.device:
            return None
        gpu = (
            "" if beside is None or beside.device.type == "cpu" else f", or one on {beside.device}"
        )
        raise CallError(name, f"a CPU tensor{gpu}", f"one on {indptr.device}")
    offsets: list[int] = indptr.tolist()
    if offsets[0] != 0:
        raise CallError(name, "0 as its first offset", str(offsets[0]))
    lengths = [end - begin for begin, end in pairwise(offsets)]
    for b, length in enumerate(lengths):
        if length < 0:
            found = f"{offsets[b]}, {offsets[b + 1]} at request {b}"
            raise CallError(name, "offsets that never decrease", found)
    if offsets[-1] != rows:
        raise CallError(name, f"{rows} as its last offset, the rows of {of}", str(offsets[-1]))
    return lengths


def check_packed_tensors(
    variant: Variant,
    values: Mapping[str, ParamValue],
    sizes: dict[str, int],
    longest: Mapping[str, int],
) -> None:
    """Check tensor parameters as packed calls pass them; add what they bind to `sizes`.

    `sizes` has the rows of all requests as Q and KV, `longest` those of the longest one.
    """
    params = {p.name: p for p in variant.params if isinstance(p, TensorParam)}
    rows = {name: packed_rows(param) for name, param in params.items()}
    for name, param in params.items():
        if isinstance(values[name], Tensor) and not rows[name].packs:
            raise CallError(
                name,
                "nothing: a packed call cannot pass a tensor with both Q and KV, or with a size "
                "that is made of B, Q or KV",
                f"a tensor for [{', '.join(map(print_expr, param.dims))}]",
            )
        check.check_tensor(param, values[name], dropped=int(rows[name].folds))
    for bound in variant.sizes:
        param = params[bound.tensor]
        axis = passed_axes(param, rows[bound.tensor]).index(bound.axis)
        check.solve_size(bound, axis, param, values, sizes)
    for name, param in params.items():
        tensor = values[name]
        if isinstance(tensor, Tensor):
            _check_dims(param, rows[name], tensor, sizes | {"": longest.get(rows[name].size, 0)})


def passed_axes(param: TensorParam, rows: PackedRows) -> list[int]:
    """Return the declared dimensions in the order in which a packed call passes them."""
    axes = range(len(param.dims))
    if not rows.folds:
        return list(axes)
    return [rows.row_axis, *(a for a in axes if a not in (rows.row_axis, rows.batch_axis))]


def _check_dims(
    param: TensorParam, rows: PackedRows, tensor: Tensor, sizes: Mapping[str, int]
) -> None:
    shape, wrong = [], False
    for position, axis in enumerate(passed_axes(param, rows)):
        text, found = print_expr(param.dims[axis]), tensor.shape[position]
        if axis == rows.row_axis and not rows.folds:
            wrong |= found < sizes[""]
            shape.append(f"{text} >= {sizes['']}, for the longest request")
            continue
        wanted = check.size_value(param.dims[axis], sizes, {})
        wrong |= found != wanted
        shape.append(f"{'sum ' if axis == rows.row_axis else ''}{text} = {wanted}")
    if wrong:
        found_shape = f"shape {list(tensor.shape)}"
        raise CallError(param.name, f"shape [{', '.join(shape)}]", found_shape)


def each_sizes(
    variant: Variant,
    sizes: Mapping[str, int],
    q_lens: Sequence[int] | None,
    kv_lens: Sequence[int] | None,
) -> Iterator[dict[str, int]]:
    """Yield the sizes for which every `require` is checked: those of each request."""
    read = {e.name for r in variant.requires for e in walk(r.condition) if isinstance(e, Size)}
    if not read & {"Q", "KV"}:
        yield dict(sizes)
        return
    for name, lengths in (("q_indptr", q_lens), ("kv_indptr", kv_lens)):
        if lengths is None:
            expected = "a CPU tensor, for the spec requires something of the lengths"
            raise CallError(name, expected, "one on a GPU")
    assert q_lens is not None
    assert kv_lens is not None
    for q, kv in dict.fromkeys(zip(q_lens, kv_lens, strict=True)):
        yield {**sizes, "Q": q, "KV": kv}
