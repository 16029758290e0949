"""The packed calls that a plan makes, one for each part of the keys.

Maps `PlanParts` to `Level`s: tables as kernels take them, positions that go on from part to part.
Where no row's request or position can matter to what a part gives it, the rows that share the part
are one request, and its keys are read once for all of them; else every request reads them itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attnlang.ir.nodes import Scalar, Variant
from attnlang.ir.traverse import walk
from attnlang.ops.part_core import ignores_rows, mask_is_positional
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
) -> tuple[Level, ...]:
    """Return the calls of a plan of several parts; `numbers` are the mask's, as far as known."""
    kv_offset = positions.kv_offset
    groups = ignores_rows(core) and mask_is_positional(core)
    read = {e.name for e in walk(core.mask) if isinstance(e, Scalar)}
    groups = groups and read <= numbers.keys()
    levels = []
    for i, (part, of) in enumerate(zip(parts.parts, parts.of, strict=True)):
        shared = groups and _sees_all(core, part, parts, of, positions.q_offset, kv_offset, numbers)
        if shared:
            first = np.searchsorted(of, np.arange(part.requests))
            own = kv_offset[np.minimum(first, max(parts.requests - 1, 0))]
            levels.append(Level(i, True, part, own + part.lens, own))
        else:
            keys = part.for_requests(of, parts.q_starts)
            levels.append(Level(i, False, keys, positions.q_offset, kv_offset))
        kv_offset = kv_offset + part.lens[of]
    return tuple(levels)


def _sees_all(
    core: Variant,
    part: PartKeys,
    parts: PlanParts,
    of: Ints,
    q_offset: Ints,
    kv_offset: Ints,
    numbers: Mapping[str, bool | int | float],
) -> bool:
    """Whether every row sees all keys that a part has for it, and some rows share such keys."""
    rows = parts.q_lens
    live = (rows > 0) & (part.lens[of] > 0)
    if not live.any() or np.unique(of[live]).size == live.sum():
        return False
    boxes = set()
    for g in np.unique(of[live]):
        own = live & (of == g)
        offsets = np.unique(kv_offset[own])
        if offsets.size > 1:
            return False
        first, end = q_offset[own].min(), (q_offset + rows)[own].max()
        boxes.add((int(first), int(end) - 1, int(offsets[0]), int(offsets[0] + part.lens[g]) - 1))
    return _all_true(core, np.array(sorted(boxes)), numbers)


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
    one does it again after an update. Else they have the size that the step needs.
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
        self._buffers: dict[tuple[int, str], Tensor] = {}
        self.whole = whole

    def fill(self, at: int, level: Level) -> LevelTables:
        """Write the tables of the plan's level `at`."""
        keys, n = level.keys, self._requests
        starts = None if n is None else n + 1
        kv_starts = self._put(at, "kv_starts", keys.kv_starts, starts)
        paged = keys.pages is not None
        return LevelTables(
            self._put(at, "q_indptr", keys.q_starts, starts),
            None if paged else kv_starts,
            kv_starts if paged else None,
            None if keys.pages is None else self._put(at, "pages", keys.pages, self._pages),
            self._put(at, "kv_lens", keys.lens, n) if paged else None,
            None if level.q_offset is None else self._put(at, "q_offset", level.q_offset, n),
            None if level.kv_offset is None else self._put(at, "kv_offset", level.kv_offset, n),
        )

    def _put(self, at: int, name: str, values: Ints, most: int | None) -> Tensor:
        """Return values as int32, on the plan's device; with a maximum, at the same place."""
        table = values.astype(np.int32)
        if most is None:
            return on_device(table, self.device)
        held = self._buffers.get((at, name))
        if held is None:
            held = torch.empty(most, dtype=torch.int32, device=self.device)
            self._buffers[at, name] = held
        if self.whole:  # starts of what has nothing stand at the end, lengths and the rest are 0
            rest = table[-1] if name in ("q_indptr", "kv_starts") else 0
            table = np.concatenate([table, np.full(most - table.size, rest, dtype=np.int32)])
        return held[: table.size].copy_(_readable(table, self.device), non_blocking=True)


def on_device(table: npt.NDArray[np.integer[Any]], device: torch.device) -> Tensor:
    """Return a table where kernels read it. Nothing waits for the work of a GPU."""
    return _readable(table, device).to(device, non_blocking=True)


def _readable(table: npt.NDArray[np.integer[Any]], device: torch.device) -> Tensor:
    """Return a table in memory that a device may read later: torch keeps it until it has."""
    tensor = torch.from_numpy(table)
    return tensor.pin_memory() if device.type == "cuda" else tensor
