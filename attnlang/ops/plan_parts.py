"""The keys of a plan, part by part: which rows see which keys, and at which positions.

Maps what `plan` was given (a cache, a kv_indptr, parts of either) to `PlanParts`: one grouping of
the query rows into requests, and for each part the keys of every request. Positions go on from
part to part. Invariant: tables are checked; a request's rows lie together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from attnlang.ops.arguments import POSITION_LIMIT
from attnlang.ops.errors import CallError
from attnlang.ops.paged_kv import PagedKV
from attnlang.ops.parts import Part
from attnlang.ops.tables import check_indptr

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class PartKeys:
    """The keys of one part, for requests that may group the rows in their own way."""

    q_starts: Ints  # [n + 1], the rows of each request of the part
    lens: Ints  # [n]
    kv_starts: Ints  # [n + 1]: rows of a ragged tensor, or places in `pages`
    pages: Ints | None  # None: ragged
    cache: PagedKV | None
    page_size: int = 1

    @property
    def requests(self) -> int:
        """How many requests the part has."""
        return self.lens.size

    def for_requests(self, of: Ints, q_starts: Ints) -> PartKeys:
        """Return the keys for other requests, each of which sees those of request `of` here.

        Rows of a ragged tensor that several see become pages of one slot: a page may be anywhere.
        """
        if np.array_equal(of, np.arange(self.requests)):
            return replace(self, q_starts=q_starts)
        counts = np.diff(self.kv_starts)[of]
        starts = np.concatenate([[0], counts.cumsum()])
        spots = np.arange(starts[-1]) + np.repeat(self.kv_starts[:-1][of] - starts[:-1], counts)
        pages = spots if self.pages is None else self.pages[spots]
        return replace(self, q_starts=q_starts, lens=self.lens[of], kv_starts=starts, pages=pages)


@dataclass(frozen=True, slots=True, eq=False)
class PlanParts:
    """The requests of a plan and all that they see."""

    q_starts: Ints  # [B + 1]
    parts: tuple[PartKeys, ...]
    of: tuple[Ints, ...]  # for each part [B]: which of its requests each request sees

    @property
    def requests(self) -> int:
        """B."""
        return self.q_starts.size - 1

    @property
    def q_lens(self) -> Ints:
        """The rows of each request."""
        return np.diff(self.q_starts)

    @property
    def kv_lens(self) -> Ints:
        """The keys of each request, over all parts."""
        lens = np.zeros(self.requests, dtype=np.int64)
        for part, of in zip(self.parts, self.of, strict=True):
            lens += part.lens[of]
        return lens


def plan_parts(q_indptr: Tensor, kv: object) -> PlanParts:
    """Check the tables of a plan and bring its parts to one grouping of the rows."""
    rows = _starts("q_indptr", q_indptr)
    given = list(kv) if isinstance(kv, list | tuple) else [kv]
    if not given:
        raise CallError("kv", "a cache, a kv_indptr tensor, or a list of parts", "an empty list")
    single = len(given) == 1
    parts = tuple(_part(i, x, rows, single=single) for i, x in enumerate(given))
    q_starts = _requests(rows, parts)
    if q_starts.size > 1:
        parts = tuple(p if p.requests else _one_empty_request(p) for p in parts)
    of = tuple(_requests_seen(q_starts, p) for p in parts)
    found = PlanParts(q_starts, parts, of)
    lens = found.kv_lens
    if lens.size and lens.max() >= POSITION_LIMIT:
        b = int(lens.argmax())
        raise CallError("kv", "requests shorter than 2 ** 30", f"{lens[b]} keys in request {b}")
    return found


def _starts(name: str, table: Tensor, total: int | None = None) -> Ints:
    """Return a copy of a table: the caller may change his while the plan lives."""
    what = "" if total is None else ", the rows of q_indptr"
    return check_indptr(name, table, what=what, total=total).astype(np.int64)


def _part(at: int, given: object, rows: Ints, *, single: bool) -> PartKeys:
    total, where = int(rows[-1]), "" if single else f" of part {at}"
    own = given if isinstance(given, Part) else None
    kv = own.kv if own is not None else given
    q_starts = rows
    if own is not None and own.q_indptr is not None:
        q_starts = _starts(f"q_indptr{where}", own.q_indptr, total)
    match kv:
        case PagedKV():
            tables = kv.check()
            keys = PartKeys(
                q_starts,
                tables.lens.astype(np.int64),
                tables.indptr.astype(np.int64),
                tables.indices.astype(np.int64),
                kv,
                kv.page_size,
            )
        case Tensor():
            kv_starts = _starts(f"kv_indptr{where}", kv)
            keys = PartKeys(q_starts, np.diff(kv_starts), kv_starts, None, None)
        case _:
            expected = "a PagedKV, a kv_indptr tensor, a BlockSparse or a list of parts"
            raise CallError("kv" if single else f"kv[{at}]", expected, type(kv).__name__)
    if keys.requests != q_starts.size - 1:
        raise CallError(
            f"q_indptr{where}",
            f"{keys.requests} requests, as the keys have ({keys.requests + 1} entries)",
            f"{q_starts.size - 1} requests",
        )
    return keys


def _requests(rows: Ints, parts: tuple[PartKeys, ...]) -> Ints:
    """Return the finest grouping of the rows: no part tells two rows of a request apart."""
    groupings = [rows, *(p.q_starts for p in parts if p.q_starts is not rows)]
    if len(groupings) == 1:
        return rows
    finest = max(groupings, key=lambda starts: starts.size)
    if all(np.isin(starts, finest).all() for starts in groupings):
        return finest
    return np.unique(np.concatenate(groupings))


def _one_empty_request(part: PartKeys) -> PartKeys:
    """Return a part without rows as one request: what other parts' empty requests see there."""
    nothing = np.zeros(2, dtype=np.int64)
    return replace(part, q_starts=nothing, lens=nothing[:1], kv_starts=nothing)


def _requests_seen(q_starts: Ints, part: PartKeys) -> Ints:
    """Return which request of a part each request's rows belong to."""
    if q_starts.size == part.q_starts.size and np.array_equal(q_starts, part.q_starts):
        return np.arange(part.requests)
    found = np.searchsorted(part.q_starts, q_starts[:-1], side="right") - 1
    return np.minimum(found, part.requests - 1)
