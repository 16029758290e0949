"""The packed calls that a plan makes, one for each part of the keys.

Maps `PlanParts` to `Level`s: tables as kernels take them, positions that go on from part to part.
Where no row's request or position can matter to what a part gives it, the rows that share the part
are one request, and its keys are read once for all of them; else every request reads them itself.
Where no head can matter either, the heads that share keys are rows too: a GPU reads keys once for
all rows of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attnlang.ir.nodes import Scalar, Variant
from attnlang.ir.traverse import walk
from attnlang.ops.errors import CallError
from attnlang.ops.paged_kv import nhd
from attnlang.ops.part_core import ignores_heads, ignores_rows, mask_is_positional
from attnlang.ops.plan_parts import Ints, PartKeys, PlanParts
from attnlang.symbolic.masks import FULL, MaskEnv, verdicts_of


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One packed call. Offsets are None where they are those of a call with these lengths."""

    part: int
    shared: bool  # whether rows of several requests go together, past the mask
    keys: PartKeys
    q_offset: Ints | None
    kv_offset: Ints | None
    stacked: int = 1  # heads that are rows: those of `keys` are as many times the query's


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """Where each request stands: the position of its first row and of its first key."""

    q_offset: Ints
    kv_offset: Ints


def make_levels(
    core: Variant,
    parts: PlanParts,
    positions: Positions,
    numbers: Mapping[str, bool | int | float],
    stackable: int = 1,
    form: tuple[bool, ...] | None = None,
) -> tuple[Level, ...]:
    """Return the calls of a plan of several parts; `numbers` are the mask's, as far as known.

    `stackable`: query heads that may be rows; 1: none are to be. `form`: which of the calls are to
    share rows, where that is settled. One that does not can do any step; one that does is refused
    where the mask may hide a key.
    """
    kv_offset = positions.kv_offset
    groups = ignores_rows(core) and mask_is_positional(core)
    read = {e.name for e in walk(core.mask) if isinstance(e, Scalar)}
    groups = groups and read <= numbers.keys()
    levels = []
    for i, (part, of) in enumerate(zip(parts.parts, parts.of, strict=True)):
        live = (parts.q_lens > 0) & (part.lens[of] > 0)
        if form is None:  # where rows have keys in common
            shared = groups and bool(live.any()) and np.unique(of[live]).size < live.sum()
        else:
            shared = form[i]
        sees = shared and _sees_all(
            core, part, parts, of, live, positions.q_offset, kv_offset, numbers
        )
        if shared and form is not None and not sees:
            raise CallError(
                f"kv[{i}]", "keys that every row sees, as those that were planned first",
                "keys that the mask may hide", help="make another plan",
            )  # fmt: skip
        shared = sees
        if shared:
            first = np.searchsorted(of, np.arange(part.requests))
            own = kv_offset[np.minimum(first, max(parts.requests - 1, 0))]
            stacked = _stacked(core, part, stackable)
            keys = replace(part, q_starts=part.q_starts * stacked)
            levels.append(Level(i, True, keys, own + part.lens, own, stacked))
        else:
            keys = part.for_requests(of, parts.q_starts)
            levels.append(Level(i, False, keys, positions.q_offset, kv_offset))
        kv_offset = kv_offset + part.lens[of]
    return tuple(levels)


def _stacked(core: Variant, part: PartKeys, heads: int) -> int:
    """Return how many of so many query heads are rows of one."""
    if part.cache is None or not ignores_heads(core):
        return 1
    return max(heads // nhd(part.cache.k_pages, part.cache.layout).shape[2], 1)


def _sees_all(
    core: Variant,
    part: PartKeys,
    parts: PlanParts,
    of: Ints,
    live: npt.NDArray[np.bool_],
    q_offset: Ints,
    kv_offset: Ints,
    numbers: Mapping[str, bool | int | float],
) -> bool:
    """Whether every row of the live requests sees all keys that a part has for it."""
    rows = parts.q_lens
    boxes = set()
    for g in np.unique(of[live]):
        own = live & (of == g)
        offsets = np.unique(kv_offset[own])
        if offsets.size > 1:
            return False
        first, end = q_offset[own].min(), (q_offset + rows)[own].max()
        boxes.add((int(first), int(end) - 1, int(offsets[0]), int(offsets[0] + part.lens[g]) - 1))
    return not boxes or _all_true(core, np.array(sorted(boxes)), numbers)


def _all_true(core: Variant, boxes: Ints, numbers: Mapping[str, bool | int | float]) -> bool:
    """Whether the mask is proved true in all boxes [n, 4] of first and last row, and of keys."""
    row, last_row, key, last_key = boxes.T
    env = MaskEnv(0, 0, 0, int(last_row.max()) + 1, int(last_key.max()) + 1, 0, 0, {}, numbers, {})
    return bool((verdicts_of(core.mask, env, (row, last_row), (key, last_key)) == FULL).all())


@dataclass(frozen=True, slots=True, eq=False)
class LevelTables:
    """The tensors of one packed call, int32."""

    q_indptr: Tensor
    kv_indptr: Tensor | None
    page_indptr: Tensor | None
    page_indices: Tensor | None
    kv_lens: Tensor | None  # of a paged level
    q_offset: Tensor | None
    kv_offset: Tensor | None

    @property
    def nbytes(self) -> int:
        """Their memory."""
        given = (getattr(self, f.name) for f in fields(self))
        return sum(t.nbytes for t in given if t is not None)


class TableBuffers:
    """Where a plan's tables lie: new memory each time, or the same if a plan has maxima.

    Where they are `whole`, for a GPU, they have the size of the maxima: their requests beyond a
    step's have no rows. What a call does then depends on the tables' values alone, and a captured
    one does it again after an update. Else they have the size that the step needs. All tables of a
    step go to their device together.
    """

    def __init__(
        self,
        device: torch.device,
        max_requests: int | None,
        max_pages: int | None,
        *,
        whole: bool,
    ) -> None:
        self.device = device
        self._requests, self._pages = max_requests, max_pages
        self._held = self._room(0)
        self.whole = whole

    def fill(self, levels: tuple[Level, ...]) -> tuple[LevelTables, ...]:
        """Write the tables of a step."""
        tables = [table for level in levels for table in self._tables(level)]
        held = [t for t in tables if t.most is not None]
        loose = [t for t in tables if t.most is None]
        room = sum(t.room for t in held)
        if self._held.shape[0] != room:
            self._held = self._room(room)
        if held:
            self._held.copy_(_readable(_joined(held), self.device), non_blocking=True)
        placed = dict(zip(map(id, held), _taken(self._held, held), strict=True))
        if loose:
            moved = _taken(on_device(_joined(loose), self.device), loose)
            placed |= zip(map(id, loose), moved, strict=True)
        found = iter([placed[id(t)] for t in tables])
        return tuple(_level_tables(level, found) for level in levels)

    @torch.inference_mode(False)
    def _room(self, size: int) -> Tensor:
        """Return memory that updates write, in inference mode or not."""
        return torch.empty(size, dtype=torch.int32, device=self.device)

    def _tables(self, level: Level) -> Iterator[_Table]:
        keys, n = level.keys, self._requests
        starts = None if n is None else n + 1
        yield self._table(keys.q_starts, starts, is_starts=True)
        yield self._table(keys.kv_starts, starts, is_starts=True)
        if keys.pages is not None:
            yield self._table(keys.pages, self._pages)
            yield self._table(keys.lens, n)
        if level.q_offset is not None:
            yield self._table(level.q_offset, n)
        if level.kv_offset is not None:
            yield self._table(level.kv_offset, n)

    def _table(self, values: Ints, most: int | None, *, is_starts: bool = False) -> _Table:
        size = values.size if most is None or not self.whole else most
        # Starts of what has nothing stand at the end; lengths and the rest are 0.
        return _Table(values, size, most, int(values[-1]) if is_starts else 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    values: Ints
    size: int  # how much of it there is: more than the values where the rest is said too
    most: int | None
    rest: int

    @property
    def room(self) -> int:
        """What it takes of a buffer: whole groups of 16 bytes."""
        most = self.size if self.most is None else self.most
        return -(-most // _GROUP) * _GROUP


_GROUP = 4


def _joined(tables: list[_Table]) -> npt.NDArray[np.int32]:
    """Return tables one after another."""
    joined = np.zeros(sum(t.room for t in tables), dtype=np.int32)
    at = 0
    for table in tables:
        joined[at : at + table.values.size] = table.values
        if table.rest and table.size > table.values.size:
            joined[at + table.values.size : at + table.size] = table.rest
        at += table.room
    return joined


def _taken(joined: Tensor, tables: list[_Table]) -> list[Tensor]:
    """Return the tables out of what was joined."""
    if not tables:
        return []
    pieces = torch.split(joined, [t.room for t in tables])
    return [p if t.size == t.room else p[: t.size] for p, t in zip(pieces, tables, strict=True)]


def _level_tables(level: Level, found: Iterator[Tensor]) -> LevelTables:
    """Return the tables of a level, in the order in which they were put."""
    paged = level.keys.pages is not None
    q_indptr, kv_starts = next(found), next(found)
    return LevelTables(
        q_indptr,
        None if paged else kv_starts,
        kv_starts if paged else None,
        next(found) if paged else None,
        next(found) if paged else None,
        None if level.q_offset is None else next(found),
        None if level.kv_offset is None else next(found),
    )


def on_device(table: npt.NDArray[np.integer[Any]], device: torch.device) -> Tensor:
    """Return a table where kernels read it. Nothing waits for the work of a GPU."""
    return _readable(table, device).to(device, non_blocking=True)


def _readable(table: npt.NDArray[np.integer[Any]], device: torch.device) -> Tensor:
    """Return a table in memory that a device may read later: torch keeps it until it has."""
    tensor = torch.from_numpy(table)
    return tensor.pin_memory() if device.type == "cuda" else tensor
