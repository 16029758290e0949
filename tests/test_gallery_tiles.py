"""The benchmark of tiles, for a handful of the gallery: right verdicts, and hardly one missing.

What a tile holds is counted here from masks by hand, over the parameters that the benchmark draws.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
N, TILE, HEADS = 2112, 64, 2
NAMES = ("bigbird", "block_sparse", "chunked", "image_spans", "longformer", "packed_positions")


def _masks(name: str) -> NDArray[np.bool_]:
    """Return the mask of each head, [HEADS, N, N]."""
    from gallery_calls import PARAMS

    p = {n: np.asarray(x) for n, x in PARAMS[name](N, torch.Generator().manual_seed(0)).items()}
    i, j = np.ogrid[:N, :N]
    match name:
        case "bigbird":
            x, y = i // 64, j // 64
            near = (np.abs(x - y) <= 1) | (np.minimum(x, y) < 2)
            mask = near | p["random"][x, y]
        case "block_sparse":
            return p["chosen"][0][:, i // 64, j // 64]
        case "chunked":
            mask = (j <= i) & (i // 1024 == j // 1024)
        case "image_spans":
            mine, other = p["image"][0][:, None], p["image"][0][None]
            mask = ((j <= i) & (i - j < 512)) | ((mine != -1) & (mine == other))
        case "longformer":
            mask = (np.minimum(i, j) < 16) | (np.abs(i - j) <= 256)
        case _:
            doc, place = p["doc"][0], p["position"][0]
            chunk = place // 256
            mask = (doc[:, None] == doc) & (place <= place[:, None]) & (chunk[:, None] == chunk)
    return np.broadcast_to(mask, (HEADS, N, N))


@pytest.mark.slow
def test_verdicts_are_right_and_hardly_a_tile_is_undecided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    out = tmp_path / "tiles.json"
    script = ROOT / "benchmarks/tiles.py"
    done = subprocess.run(
        [sys.executable, script, *NAMES, "--len", str(N), "--json", out],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [r["name"] for r in rows] == list(NAMES)
    side = N // TILE
    for row in rows:
        tiles = _masks(row["name"]).reshape(HEADS, side, TILE, side, TILE)
        full, some = tiles.all((2, 4)).sum(), tiles.any((2, 4)).sum()
        assert row["tiles"] == HEADS * side**2
        assert row["decidable"] == row["tiles"] - (some - full), row
        assert row["wrong"] == 0
        assert row["full"] + row["partial"] == row["visited"] < row["tiles"]
        assert row["visited"] >= some
        assert row["full"] <= full
        missing = row["visited"] - some + full - row["full"]
        assert row["undecided"] == missing < 0.02 * row["decidable"], row
