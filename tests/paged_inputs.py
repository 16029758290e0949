"""Paged calls for tests: the rows of a packed call spread over the pages of a pool.

Pages are given out in random order, and everything that no request uses holds NaN.
"""

from __future__ import annotations

import math

import torch
from ragged_inputs import Packed, offsets
from support import moved, moved_tensor
from torch import Generator, Tensor

import attnlang

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


class Pool:
    """A page table over the keys of a packed call."""

    def __init__(self, call: Packed, page: int, g: Generator, *, spare: int = 3) -> None:
        self.call, self.page = call, page
        self.lens = torch.tensor([kv for _, kv in call.lengths], dtype=torch.int32)
        counts = [-(-kv // page) for _, kv in call.lengths]
        self.indptr = offsets(counts)
        used = sum(counts)
        self.pages = used + spare
        # Numbers after the last that a length needs are never read.
        self.indices = torch.cat([torch.randperm(self.pages, generator=g)[:used], -torch.ones(2)])
        self.indices = self.indices.to(torch.int64)

    def spread(
        self, rows: Tensor, *, hnd: bool = False, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Return [pages, page, ...] with the rows [sum KV, ...]; HND: heads before slots inside."""
        dtype = dtype or rows.dtype
        shape = (self.pages, self.page, *rows.shape[1:])
        kind = torch.float32 if dtype in FP8 else dtype
        if kind.is_floating_point:
            pool = torch.full(shape, math.nan, dtype=kind)
        elif kind == torch.bool:
            pool = torch.ones(shape, dtype=kind)
        else:
            pool = torch.full(shape, torch.iinfo(kind).max // 2, dtype=kind)
        if hnd:
            pool = pool.transpose(1, 2).contiguous().transpose(1, 2)
        starts = self.call.kv_indptr
        for b, (_, kv) in enumerate(self.call.lengths):
            own = self.indices[self.indptr[b] : self.indptr[b + 1]]
            for j in range(kv):
                pool[own[j // self.page], j % self.page] = rows[starts[b] + j].to(kind)
        if dtype in FP8:
            strides = pool.stride()
            return torch.empty_strided(shape, strides, dtype=dtype).copy_(pool)
        return pool

    def run(
        self, k: Tensor, v: Tensor | None, *, paged: tuple[str, ...] = (), **keywords: object
    ) -> tuple[Tensor, Tensor | None]:
        """Run the packed op over pools; `paged` names the parameters that come by pages."""
        call, variant = self.call, self.call.variant
        params = call.packed_params()
        params.update((name, self.spread(params[name])) for name in paged)
        values = {
            p.name: params.get(p.name, getattr(p, "default", None)) for p in variant.ir.params
        }
        op = variant.registered_op(values, "packed")
        named = variant.op_arguments(values, None, None, 0, None)
        softmax = variant.ir.weights.softmax is not None
        if variant.ir.weights.dropout is not None:
            named["seed"] = 1
        vectors = (call.q, k) if v is None else (call.q, k, v)
        tables = {
            "q_indptr": call.q_indptr, "page_indptr": self.indptr, "page_indices": self.indices,
            "kv_lens": self.lens,
        }  # fmt: skip
        found = op(
            *(moved_tensor(x, call.device) for x in vectors),
            **moved({**named, **tables, **keywords}, call.device), return_lse=softmax,
        )  # fmt: skip
        out, lse, _ = (x.cpu() for x in found)
        return out, lse if softmax else None

    def cache(self, *, layout: str = "NHD") -> attnlang.PagedKV:
        """Return the keys of the call as a cache where the kernel runs."""
        call, hnd = self.call, layout == "HND"
        pools = [None if x is None else self.spread(x, hnd=hnd) for x in (call.k, call.v)]
        k, v = (x.transpose(1, 2) if hnd and x is not None else x for x in pools)
        last = self.lens - (self.indptr.diff() - 1).clamp(min=0) * self.page
        place = {"k": k, "v": v}
        k, v = moved(place, call.device).values()
        return attnlang.PagedKV(k, v, self.indptr, self.indices, last, layout=layout)
