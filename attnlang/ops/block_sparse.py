"""`BlockSparse`: which blocks of keys each block of query rows may see, as compressed rows.

Maps indptr and indices of a block matrix to checked tables. Positions stay those of the sequence:
the mask of a spec applies besides.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attnlang.ops.errors import CallError
from attnlang.ops.tables import IntArray, check_indptr, check_table


@dataclass(frozen=True, slots=True, eq=False)
class BlockSparse:
    """The blocks of keys that each block of rows may see.

    Args:
        indptr: int32 or int64 [blocks of rows + 1], on the CPU: the rows
            [i * Br, (i + 1) * Br) see the blocks `indices[indptr[i] : indptr[i + 1]]`.
        indices: int32 or int64 [n], on the CPU: block j is the keys [j * Bc, (j + 1) * Bc) of the
            sequence. A set for each block of rows, in any order.
        block: (Br, Bc), the rows and the keys of a block, 1 or more each.

    Raises:
        CallError: A table does not fit; it names the entry.

    """

    indptr: Tensor
    indices: Tensor
    block: tuple[int, int]

    def __post_init__(self) -> None:
        block = self.block
        pair = isinstance(block, tuple) and len(block) == 2
        if not pair or not all(isinstance(n, int) and n >= 1 for n in block):
            raise CallError("block", "(rows, keys) of a block, 1 or more each", repr(block))
        self.check()

    def check(self) -> tuple[IntArray, IntArray]:
        """Check the tables as they are now, and return them."""
        indptr = check_indptr("indptr", self.indptr)
        indices = check_table("indices", self.indices)
        if indices.size < indptr[-1]:
            raise CallError("indices", f"{indptr[-1]} blocks, as indptr ends", f"{indices.size}")
        indices = indices[: indptr[-1]]
        if indices.size and indices.min() < 0:
            at = int(indices.argmin())
            raise CallError("indices", "a block of 0 or more", f"{indices[at]} at entry {at}")
        return indptr, indices
