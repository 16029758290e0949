"""The requests of a packed call one by one, for what torch computes of them.

Maps rows of all requests one after another to dense calls of one request each, and back. Each
keeps its number and the batch's size: what a spec reads under `b` and `B` is what kernels read.
Rows are taken apart by one `split`, whose gradient is put together once: that of a slice is as
large as the tensor, for each request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnlang.invent.shape import ParamValue
from attnlang.ir.nodes import TensorParam, Variant
from attnlang.plan.packing import PackedRows, packed_rows

if TYPE_CHECKING:
    from attnlang.ops.training import TrainingCall


@dataclass(frozen=True, slots=True)
class Requests:
    """Where the rows of each request lie; the lengths, where they are known, are the offsets'."""

    q_indptr: Tensor
    kv_indptr: Tensor
    q_lens: tuple[int, ...]
    kv_lens: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many requests there are."""
        return len(self.q_lens)

    def arguments(self, names: Mapping[str, str]) -> dict[str, object]:
        """Return the arguments of the packed op; `names` are those that it has for them."""
        return {names["q_indptr"]: self.q_indptr, names["kv_indptr"]: self.kv_indptr}

    def of_queries(self, packed: Tensor | None) -> list[Tensor | None]:
        """Return [1, heads, Q, *] of each request from [sum Q, heads, *]; None of nothing."""
        if packed is None:
            return [None] * self.count
        return [_dense(rows) for rows in _split(packed, self.q_lens)]

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Return [rows, heads, *] from [1, heads, rows, *] of each request."""
        return torch.cat([part.squeeze(0).transpose(0, 1) for part in parts])

    def calls(self, variant: Variant, call: TrainingCall) -> Iterator[TrainingCall]:
        """Yield a dense call of each request."""
        tensors = {p.name: packed_rows(p) for p in variant.params if isinstance(p, TensorParam)}
        values = {
            name: self._parts(value, tensors.get(name)) for name, value in call.values.items()
        }
        q, k = _split(call.q, self.q_lens), _split(call.k, self.kv_lens)
        v = None if call.v is None else _split(call.v, self.kv_lens)
        for b in range(self.count):
            yield replace(
                call, q=_dense(q[b]), k=_dense(k[b]), v=None if v is None else _dense(v[b]),
                values={name: parts[b] for name, parts in values.items()}, requests=None,
            )  # fmt: skip

    def _parts(self, value: ParamValue, axes: PackedRows | None) -> list[ParamValue]:
        """Return what a dense call of each request has: an axis of 1 for `B`, the request's rows.

        What has rows for the longest request gives the first ones.
        """
        if axes is None or not isinstance(value, Tensor) or axes.row_axis < 0:
            return [value] * self.count
        lens = self.q_lens if axes.size == "Q" else self.kv_lens
        if not axes.folds:
            return [value.narrow(axes.row_axis, 0, length) for length in lens]
        last = axes.row_axis - (axes.batch_axis < axes.row_axis)
        return [x.movedim(0, last).unsqueeze(axes.batch_axis) for x in _split(value, lens)]


def _dense(rows: Tensor) -> Tensor:
    return rows.transpose(0, 1).unsqueeze(0)


def _split(rows: Tensor, lengths: Sequence[int]) -> Sequence[Tensor]:
    return torch.split(rows, list(lengths))
