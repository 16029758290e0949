"""The tiles of a mask: from a variant and a call to verdicts, for its first request and head.

What `explain` counts and draws. Invariant: the verdicts are those of the analysis that kernels use,
so a tile is full when every element of it counts, empty when none does, and partial where that is
not known: such a tile is computed with the mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from attnlang.ir.nodes import Expr
from attnlang.symbolic.masks import EMPTY, FULL, UNKNOWN, MaskEnv, tile_verdicts


class Verdict(IntEnum):
    """What a tile holds."""

    EMPTY = int(EMPTY)
    FULL = int(FULL)
    PARTIAL = int(UNKNOWN)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The verdicts [query tiles, key tiles] of a mask."""

    verdicts: npt.NDArray[np.int8]
    tile: int  # rows and keys of a tile
    q_len: int
    kv_len: int

    def count(self, verdict: Verdict) -> int:
        """Count the tiles of a verdict."""
        return int((self.verdicts == verdict).sum())

    def share(self, verdict: Verdict) -> float:
        """Return the part of all tiles that have a verdict."""
        return self.count(verdict) / self.verdicts.size if self.verdicts.size else 0.0


def tile_grid(mask: Expr, env: MaskEnv, tile: int) -> Grid:
    """Judge every tile of one request and head."""
    verdicts = tile_verdicts(mask, env, q_tile=tile, kv_tile=tile)
    return Grid(verdicts, tile, env.q_len, env.kv_len)
