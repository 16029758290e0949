"""The tiles of a mask: from a variant and a call to verdicts, for its first request and head.

What `explain` counts and draws. Invariant: a tile is FULL when every element of it counts, EMPTY
when none does, PARTIAL otherwise; tiles at the ends are as small as what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from attnlang.cli.inputs import Call
from attnlang.cli.masks import mask_block
from attnlang.ir.nodes import Variant


class Verdict(IntEnum):
    """What a tile holds."""

    EMPTY = 0
    PARTIAL = 1
    FULL = 2


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The verdicts [query tiles, key tiles] of a mask."""

    verdicts: npt.NDArray[np.uint8]
    tile: int  # rows and keys of a tile
    q_len: int
    kv_len: int

    def count(self, verdict: Verdict) -> int:
        """Count the tiles of a verdict."""
        return int((self.verdicts == verdict).sum())

    def share(self, verdict: Verdict) -> float:
        """Return the part of all tiles that have a verdict."""
        return self.count(verdict) / self.verdicts.size if self.verdicts.size else 0.0


def tile_grid(variant: Variant, call: Call, tile: int) -> Grid:
    """Judge the tiles of the first request and head, a row of tiles at a time."""
    s = call.shape
    starts = np.arange(0, s.kv, tile)
    lengths = np.diff(np.append(starts, s.kv))
    verdicts = np.zeros((-(-s.q // tile), len(starts)), np.uint8)
    for i in range(verdicts.shape[0]):
        rows = np.arange(i * tile, min((i + 1) * tile, s.q))
        kept = mask_block(variant, call, rows)[0, 0].sum(axis=0, dtype=np.int64)
        counts = np.add.reduceat(kept, starts) if len(starts) else kept[:0]
        full = counts == lengths * len(rows)
        verdicts[i] = np.where(full, Verdict.FULL, np.where(counts > 0, Verdict.PARTIAL, 0))
    return Grid(verdicts, tile, s.q, s.kv)
