"""The requests of a packed call one by one, for what torch computes of them.

Maps rows of all requests one after another to dense calls of one request each, and back. Each
keeps its number and the batch's size: what a spec reads under `b` and `B` is what kernels read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
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
    """Where the rows of each request lie; the lengths are those of the offsets."""

    q_indptr: Tensor
    kv_indptr: Tensor
    q_lens: tuple[int, ...]
    kv_lens: tuple[int, ...]

    @staticmethod
    def untold(q_indptr: Tensor, kv_indptr: Tensor) -> Requests:
        """Return those of offsets whose values are not known: they cannot be told apart."""
        return Requests(q_indptr, kv_indptr, (), ())

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
        return [_dense(packed[rows]) for rows in _slices(self.q_lens)]

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Return [rows, heads, *] from [1, heads, rows, *] of each request."""
        return torch.cat([part.squeeze(0).transpose(0, 1) for part in parts])

    def calls(self, variant: Variant, call: TrainingCall) -> Iterator[TrainingCall]:
        """Yield a dense call of each request."""
        tensors = {p.name: packed_rows(p) for p in variant.params if isinstance(p, TensorParam)}
        slices = zip(_slices(self.q_lens), _slices(self.kv_lens), strict=True)
        for rows, columns in slices:
            own = {"Q": rows, "KV": columns}
            values = {
                name: self._own(value, tensors[name], own) if name in tensors else value
                for name, value in call.values.items()
            }
            yield replace(
                call, q=_dense(call.q[rows]), k=_dense(call.k[columns]),
                v=None if call.v is None else _dense(call.v[columns]), values=values, requests=None,
            )  # fmt: skip

    def _own(self, value: ParamValue, axes: PackedRows, own: Mapping[str, slice]) -> ParamValue:
        """Return a tensor as a dense call of the batch has it; other requests' rows repeat these.

        What has rows for the longest request gives the first ones.
        """
        if not isinstance(value, Tensor) or axes.row_axis < 0:
            return value
        rows = own[axes.size]
        if not axes.folds:
            return value.narrow(axes.row_axis, 0, rows.stop - rows.start)
        last = axes.row_axis - (axes.batch_axis < axes.row_axis)
        dense = value[rows].movedim(0, last).unsqueeze(axes.batch_axis)
        return dense.expand(
            *(self.count if i == axes.batch_axis else -1 for i in range(dense.dim()))
        )


def _dense(rows: Tensor) -> Tensor:
    return rows.transpose(0, 1).unsqueeze(0)


def _slices(lengths: Sequence[int]) -> Iterator[slice]:
    return (slice(begin, end) for begin, end in pairwise(accumulate(lengths, initial=0)))
