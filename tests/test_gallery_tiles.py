"""The benchmark of tiles, for a handful of the gallery: right verdicts, and hardly one missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("block_sparse", "chunked", "image_spans", "longformer", "packed_positions")


@pytest.mark.slow
def test_verdicts_are_right_and_hardly_a_tile_is_undecided(tmp_path: Path) -> None:
    out = tmp_path / "tiles.json"
    script = ROOT / "benchmarks/tiles.py"
    done = subprocess.run(
        [sys.executable, script, *NAMES, "--len", "2112", "--json", out],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [r["name"] for r in rows] == list(NAMES)
    for row in rows:
        assert row["wrong"] == 0
        assert 0 < row["decidable"] <= row["tiles"]
        assert row["full"] + row["partial"] == row["visited"] < row["tiles"]
        assert row["undecided"] < 0.02 * row["decidable"], row
