"""The cache of attnlang: pages of a pool, which sequences share where they begin alike.

A sequence that forks takes its parent's pages and a copy of the last one, unless that is full.
Invariant: a page is written by one sequence alone, and free when no sequence has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

import attnlang
from attnlang import PagedKV
from attnlang.ops.serving_plan import Plan
from serving.caches import Share
from serving.model import Shape

SPEC = Path(__file__).resolve().parent.parent / "causal.attn"


class PagedCache:
    """Pages of all layers, and the table of each sequence."""

    def __init__(
        self,
        shape: Shape,
        sequences: int,
        longest: int,
        dtype: torch.dtype,
        page: int = 16,
        share_prefixes: bool = False,
    ) -> None:
        pages = (sequences + 1) * -(-longest // page)
        size = (shape.layers, pages, 2, page, shape.kv_heads, shape.head_dim)
        self.pool = torch.zeros(size, dtype=dtype)
        self.page, self._heads, self._share = page, shape.heads, share_prefixes
        self._users = [0] * pages
        self._free = list(range(pages))
        self._tables: dict[int, list[int]] = {}
        self._lens: dict[int, int] = {}
        self._causal = attnlang.load(SPEC)
        self._plan: Plan | None = None

    @property
    def pages_in_use(self) -> int:
        """How many pages some sequence has."""
        return len(self._users) - len(self._free)

    def fork(self, parent: int, child: int) -> None:
        """Share the full pages, copy what is begun."""
        whole, rest = divmod(self._lens[parent], self.page)
        table = self._tables[parent][:whole]
        for page in table:
            self._users[page] += 1
        if rest:
            copy = self._new_page()
            self.pool[:, copy] = self.pool[:, self._tables[parent][whole]]
            table.append(copy)
        self._tables[child], self._lens[child] = table, self._lens[parent]

    def release(self, sequence: int) -> None:
        """Give its pages back."""
        for page in self._tables.pop(sequence):
            self._users[page] -= 1
            if self._users[page] == 0:
                self._free.append(page)
        del self._lens[sequence]

    def begin(self, step: Sequence[Share]) -> None:
        """Find room for the new tokens, and plan the step."""
        for share in step:
            table = self._tables.setdefault(share.sequence, [])
            self._lens[share.sequence] = share.end
            while len(table) * self.page < share.end:
                table.append(self._new_page())
        tables = [self._tables[share.sequence] for share in step]
        indices = torch.tensor([page for table in tables for page in table])
        indptr = torch.tensor(list(accumulate(map(len, tables), initial=0)))
        last = torch.tensor([(share.end - 1) % self.page + 1 for share in step])
        q_indptr = torch.tensor(list(accumulate((s.count for s in step), initial=0)))
        places = torch.cat([torch.arange(s.begin, s.end) for s in step])
        owner = torch.arange(len(step)).repeat_interleave(q_indptr.diff())
        self._at = (indices[indptr[owner] + places // self.page], places % self.page)
        cache = PagedKV(self.pool[0, :, 0], self.pool[0, :, 1], indptr, indices, last)
        if self._plan is None:
            self._plan = self._causal.plan(
                q_indptr, cache, num_q_heads=self._heads, share_prefixes=self._share
            )
        else:
            self._plan.update(q_indptr, cache)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Run the step's plan with this layer's pages."""
        assert self._plan is not None
        keys, values = self.pool[layer, :, 0], self.pool[layer, :, 1]
        keys[self._at] = k
        values[self._at] = v
        out = self._plan.run(q, kv=(keys, values))
        assert isinstance(out, Tensor)
        return out

    def _new_page(self) -> int:
        page = self._free.pop()
        self._users[page] = 1
        return page
