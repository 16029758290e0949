"""A plan over blocks of keys: which columns each row may see, once for all layers.

Maps a `BlockSparse` to the `kv_indices` of dense calls. Positions stay those of the sequence, so a
mask or a bias means what it means elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attnlang.invent.shape import ParamValue
from attnlang.ops.block_sparse import BlockSparse
from attnlang.ops.errors import CallError
from attnlang.ops.frozen import Value, all_values, freeze
from attnlang.ops.parts import Paged
from attnlang.ops.tables import IntArray, check_indptr

if TYPE_CHECKING:
    from attnlang.ops.variant import Variant

Offsets = tuple[int | Tensor | None, int | Tensor]


class BlockSparsePlan:
    """A planned selection of blocks, for one request."""

    def __init__(
        self,
        variant: Variant,
        q_indptr: Tensor,
        kv: BlockSparse,
        num_q_heads: int,
        offsets: Offsets,
        params: Mapping[str, Value],
    ) -> None:
        self._variant, self._heads, self._offsets = variant, num_q_heads, offsets
        self._frozen = freeze(variant.ir, params)
        self.update(q_indptr, kv)

    def __repr__(self) -> str:
        rows, most = self._indices.shape
        return (
            f"<plan of {self._variant.ir.name}: {rows} rows, at most {most} blocks of "
            f"{self._block} keys each>"
        )

    def update(self, q_indptr: Tensor, kv: BlockSparse) -> None:
        """Plan another selection with the same parameters."""
        rows = check_indptr("q_indptr", q_indptr)
        if rows.size != 2:
            expected = "one request, whose rows are blocked"
            raise CallError("q_indptr", expected, f"{rows.size - 1} requests")
        if not isinstance(kv, BlockSparse):
            raise CallError("kv", "a BlockSparse, as planned", type(kv).__name__)
        indptr, indices = kv.check()
        high, wide = kv.block
        blocks = -(-int(rows[1]) // high)
        if indptr.size - 1 != blocks:
            expected = f"{blocks} blocks of {high} rows, for {rows[1]} rows"
            raise CallError("indptr", expected, f"{indptr.size - 1}")
        self._block, self._needed = wide, int(indices.max(initial=-1))
        self._indices = torch.from_numpy(_padded(indptr, indices, high, int(rows[1])))

    def run(
        self,
        q: Tensor,
        kv: tuple[Tensor, Tensor] | Tensor,
        *,
        scale: float | Tensor | None = None,
        seed: int | None = None,
        return_lse: bool = False,
        return_max: bool = False,
        **params: Value,
    ) -> Tensor | tuple[Tensor, ...]:
        """Attend for one layer.

        Args:
            q: The query rows, [Q, HQ, D].
            kv: (k, v), [KV, HKV, D] and [KV, HKV, DV]; k alone where the spec makes v of k.
            scale: As in a call.
            seed: As in a call.
            return_lse: Return lse [Q, HQ] too.
            return_max: Return the largest score [1, HQ] too.
            params: The parameters that the mask does not read, with the shapes of a dense call
                whose B is 1.

        Returns:
            out [Q, HQ, DV] in q's dtype, or a tuple of it and what else was asked for.

        Raises:
            CallError: An argument does not fit the plan.

        """
        values: dict[str, ParamValue] = {}
        for name, value in all_values(self._variant.ir, self._frozen, params).items():
            if isinstance(value, Paged):
                raise CallError(name, "a tensor: no key lies in pages here", "a Paged")
            values[name] = value
        vectors = [q, *(kv if isinstance(kv, tuple) else (kv,))]
        rows = self._indices.shape[0]
        for name, x in zip(("q", "k", "v"), vectors, strict=False):
            if not isinstance(x, Tensor) or x.dim() != 3:
                found = f"shape {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
                raise CallError(name, "a tensor [rows, H, D]", found)
        if q.shape[:2] != (rows, self._heads):
            expected = f"[Q = {rows}, HQ = {self._heads}, D], as planned"
            raise CallError("q", expected, f"shape {list(q.shape)}")
        blocks = -(-vectors[1].shape[0] // self._block)
        if self._needed >= blocks:
            expected = f"more than {self._needed * self._block} keys, as `indices` selects"
            raise CallError("kv", expected, str(vectors[1].shape[0]))
        q_offset, kv_offset = self._offsets
        if self._indices.device != q.device:  # once, not a layer
            self._indices = self._indices.to(q.device)
        indices = self._indices.expand(1, vectors[1].shape[1], -1, -1)
        dense = (x.transpose(0, 1).unsqueeze(0) for x in vectors)
        attend: Callable[..., Tensor | tuple[Tensor, ...]] = self._variant
        results = attend(
            *dense, scale=scale, seed=seed, q_offset=q_offset, kv_offset=kv_offset,
            kv_indices=indices, kv_block=self._block, return_lse=return_lse,
            return_max=return_max, **values,
        )  # fmt: skip
        tensors = list(results) if isinstance(results, tuple) else [results]
        own = [tensors[0][0].transpose(0, 1)]
        if return_lse:
            own.append(tensors[1][0].transpose(0, 1))
        if return_max:
            own.append(tensors[-1])
        return own[0] if len(own) == 1 else tuple(own)


def _padded(indptr: IntArray, indices: IntArray, high: int, rows: int) -> npt.NDArray[np.int32]:
    """Return the blocks of each row, int32 [Q, K], -1 where there are fewer than K."""
    counts = np.diff(indptr)
    table = np.full((counts.size, int(counts.max(initial=0))), -1, dtype=np.int32)
    place = np.arange(indices.size) - np.repeat(indptr[:-1], counts)
    table[np.repeat(np.arange(counts.size), counts), place] = indices
    whole: npt.NDArray[np.int32] = np.repeat(table, high, axis=0)[:rows]
    return whole
