"""The tiles of a mask: counted, and put together to a picture of a bounded size.

Maps a mask and the values of a call to `Tiles`. Large squares are judged first, and only the rows
of unknown ones are divided: nothing has the size of Q x KV, or of all tiles. Invariant: verdicts
are those of the analysis that kernels use; a full (empty) square has full (empty) tiles only.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from attnlang.explain.explanation import Count, Tiles
from attnlang.ir.nodes import Expr
from attnlang.symbolic.masks import EMPTY, FULL, UNKNOWN, MaskEnv, elements, verdicts_at

TILE = 64
_MAX_CELLS = 128  # of a side of the picture
_BATCH = 1 << 18  # tiles judged at once
_SAMPLES = 64  # of a cell

Indices = npt.NDArray[np.int64]
Verdicts = npt.NDArray[np.int8]


def count_tiles(mask: Expr, env: MaskEnv, tile: int = TILE, unknown: tuple[str, ...] = ()) -> Tiles:
    """Judge the tiles of one request and head. `unknown` names tensors that `env` has not."""
    n, m = -(-env.q_len // tile), -(-env.kv_len // tile)
    span = 1
    while max(n, m) > span * _MAX_CELLS:
        span *= 2
    side = span * tile
    row_starts, column_starts = np.arange(0, env.q_len, side), np.arange(0, env.kv_len, side)
    cells = verdicts_at(mask, env, (row_starts, side), (column_starts, side))
    counts: dict[int, list[int]] = {int(v): [0, 0] for v in (EMPTY, FULL, UNKNOWN)}
    visited = np.zeros(m, np.bool_)
    for verdicts, rows, columns in _tiles(mask, env, tile, span, cells):
        heights = np.minimum(tile, env.q_len - rows * tile)
        widths = np.minimum(tile, env.kv_len - columns * tile)
        for verdict, count in counts.items():
            here = verdicts == verdict
            count[0] += int(here.sum())
            count[1] += int(heights @ (here @ widths))
        visited[columns[(verdicts != EMPTY).any(axis=0)]] = True
    full, partial, empty = (Count(*counts[int(v)]) for v in (FULL, UNKNOWN, EMPTY))
    columns = np.flatnonzero(visited)
    return Tiles(
        tile,
        full,
        partial,
        empty,
        visited_columns=int(np.minimum(tile, env.kv_len - columns * tile).sum()),
        cells=cells,
        span=span,
        density=_density(mask, env, side, cells, unknown),
        unknown=unknown,
    )


def _tiles(
    mask: Expr, env: MaskEnv, tile: int, span: int, cells: Verdicts
) -> Iterator[tuple[Verdicts, Indices, Indices]]:
    """Yield verdicts with the tile rows and tile columns that they are of, all tiles once."""
    n, m = -(-env.q_len // tile), -(-env.kv_len // tile)
    for i, line in enumerate(cells):
        rows = np.arange(i * span, min(n, (i + 1) * span))
        known = line != UNKNOWN if span > 1 else np.ones(line.size, np.bool_)
        columns = np.arange(m)
        of_cell = columns // span
        settled = columns[known[of_cell]]
        if settled.size:
            shape = (rows.size, settled.size)
            yield np.broadcast_to(line[of_cell[settled]], shape), rows, settled
        open_ = columns[~known[of_cell]]
        step = max(1, _BATCH // max(1, rows.size))
        for start in range(0, open_.size, step):
            some = open_[start : start + step]
            verdicts = verdicts_at(mask, env, (rows * tile, tile), (some * tile, tile))
            yield verdicts, rows, some


def _density(
    mask: Expr, env: MaskEnv, side: int, cells: Verdicts, unknown: tuple[str, ...]
) -> npt.NDArray[np.float64]:
    """Estimate the part of each cell's elements that count, from points spread over the cell.

    One point lies in each of _SAMPLES bands of rows and in each of as many of columns: a single row
    or column that counts is seen in every cell of 64, not in some.
    """
    density: npt.NDArray[np.float64] = (cells == FULL).astype(np.float64)
    if unknown:  # the elements are not there to be looked at
        density[cells == UNKNOWN] = 0.5
        return density
    i, j = np.nonzero(cells == UNKNOWN)
    rng = np.random.default_rng(0)
    bands = rng.permuted(np.tile(np.arange(_SAMPLES), (i.size, 1)), axis=1)
    heights = np.minimum(side, env.q_len - i * side)
    widths = np.minimum(side, env.kv_len - j * side)
    total = np.zeros(i.size, np.int64)
    for band in range(_SAMPLES):
        down = (band + rng.random(i.size)) / _SAMPLES
        across = (bands[:, band] + rng.random(i.size)) / _SAMPLES
        rows = i * side + (down * heights).astype(np.int64)
        columns = j * side + (across * widths).astype(np.int64)
        total += elements(mask, env, rows, columns)
    density[i, j] = total / _SAMPLES
    return density
