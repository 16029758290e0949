"""Tables on a GPU, whose values the host does not look at: from what a caller has to a packed call.

Maps q_indptr and a cache's tables, or a kv_indptr, to `LevelTables` by kernels alone: nothing waits
for them, and a captured graph may hold them. Invariant: whatever the tables hold, starts that
kernels get never decrease and stay within what the shapes allow, and a request is no longer than
its pages.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnlang.ops import tables
from attnlang.ops.arguments import POSITION_LIMIT
from attnlang.ops.errors import CallError
from attnlang.ops.levels import LevelTables, on_device
from attnlang.ops.paged_kv import PagedKV, lengths_of
from attnlang.ops.plan_parts import Ints
from attnlang.ops.tables import check_unread


@dataclass(frozen=True, slots=True, eq=False)
class UnreadKeys:
    """The tables of a step as the caller has them; `starts`: of pages, or of ragged keys."""

    q_indptr: Tensor  # [B + 1]
    starts: Tensor  # [B + 1]
    cache: PagedKV | None  # None: ragged

    @property
    def requests(self) -> int:
        """B."""
        return self.q_indptr.shape[0] - 1

    @property
    def pages(self) -> int:
        """How many page numbers there are room for."""
        return 0 if self.cache is None else self.cache.indices.shape[0]


def unread_keys(q_indptr: object, kv: object) -> UnreadKeys | None:
    """Return the tables of a step if they lie on a GPU; None if the host reads them."""
    cache = kv if isinstance(kv, PagedKV) else None
    found = tables.is_unread(kv) if cache is None else cache.is_unread
    if not (found or (cache is not None and tables.is_unread(q_indptr))):
        return None
    starts = kv if cache is None else cache.indptr
    assert isinstance(starts, Tensor)
    if cache is not None:
        cache.check_unread()
    device = starts.device
    rows = check_unread("q_indptr", q_indptr, device)
    name = "kv" if cache is None else "indptr"
    what = f", as q_indptr has {max(rows.shape[0] - 1, 0)} requests"
    if rows.shape[0] == 0:
        raise CallError("q_indptr", "a 0 and the end of every request", "shape [0]")
    return UnreadKeys(rows, check_unread(name, starts, device, rows.shape[0], what), cache)


class UnreadTables:
    """Where a plan's tables lie that are made of others on a GPU.

    `requests`, `pages` and `rows` are the most that a step has. Requests beyond a step's have no
    rows and no keys; what tables say beyond `rows` and `pages` is cut off.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        device: torch.device,
        requests: int,
        pages: int | None,
        rows: int | None,
        offsets: tuple[Ints | None, Ints | None],
    ) -> None:
        self.size = (requests, pages)
        self._rows = POSITION_LIMIT - 1 if rows is None else rows

        def room(size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int32, device=device)

        q_offset, kv_offset = (_offsets(x, requests, device) for x in offsets)
        starts, paged = room(requests + 1), pages is not None
        self._starts = starts
        self.tables = LevelTables(
            room(requests + 1),
            None if paged else starts,
            starts if paged else None,
            room(pages) if pages is not None else None,
            room(requests) if paged else None,
            q_offset,
            kv_offset,
        )

    def fill(self, keys: UnreadKeys) -> None:
        """Write the tables of a step, as they are when the device comes to it."""
        to, cache = self.tables, keys.cache
        _write(to.q_indptr, _growing(keys.q_indptr, self._rows))
        if cache is None:
            _write(self._starts, _growing(keys.starts, POSITION_LIMIT - 1))
            return
        assert to.page_indices is not None
        assert to.kv_lens is not None
        starts = _growing(keys.starts, keys.pages)
        _write(self._starts, starts)
        to.page_indices[: keys.pages].copy_(cache.indices)
        _write(to.kv_lens, lengths_of(starts, cache.last_page_len, cache.page_size), 0)


def _offsets(values: Ints | None, requests: int, device: torch.device) -> Tensor | None:
    if values is None:
        return None
    table = np.zeros(requests, dtype=np.int32)
    table[: values.size] = values
    return on_device(table, device)


def _growing(starts: Tensor, most: int) -> Tensor:
    return starts.clamp(0, most).cummax(0).values


def _write(to: Tensor, values: Tensor, rest: int | None = None) -> None:
    """Write the values, and behind them the last one, or `rest`."""
    size = values.shape[0]
    to[:size].copy_(values)
    if size < to.shape[0]:
        to[size:].copy_(values[-1:]) if rest is None else to[size:].fill_(rest)
