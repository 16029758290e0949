"""`Part` and `Paged`: how a plan is told that keys lie in several places, or a tensor in pages."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attnlang.ops.errors import CallError
from attnlang.ops.paged_kv import PagedKV


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One part of the keys of a plan, with its own grouping of the query rows.

    Args:
        kv: Where the part's keys lie: a cache, or the kv_indptr of a ragged tensor.
        q_indptr: int32 or int64 [requests of this part + 1], on the CPU: the rows of
            [q_indptr[i], q_indptr[i + 1]) all see the part's request i. By default the plan's.

    """

    kv: PagedKV | Tensor
    q_indptr: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kv, PagedKV | Tensor):
            raise CallError("kv", "a PagedKV or a kv_indptr tensor", type(self.kv).__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Paged:
    """A tensor parameter with a `KV` dimension whose entries lie in the pages of the cache.

    `tensor` is [pages, page, ...]: the first two dimensions stand for B and KV and are addressed
    by the cache's page table, the others follow as the spec declares them.
    """

    tensor: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.tensor, Tensor):
            raise CallError("tensor", "a tensor [pages, page, ...]", type(self.tensor).__name__)
        if self.tensor.dim() < 2:
            found = f"shape {list(self.tensor.shape)}"
            raise CallError("tensor", "a tensor [pages, page, ...]", found)
