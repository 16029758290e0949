"""`make gpu` goes on where it stopped: what passed is left out, what failed or changed is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _run(passed: Path, *more: str, plugins: Path = ROOT) -> str:
    """Run two quick tests of tests/gpu, which need no GPU; `plugins`: where those of `-p` lie."""
    command = [
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "-m", "not gpu",
        "tests/gpu/test_gpu_ragged.py", "-k", "sm90 and (float32 or is_wrong)",
        "--passed", str(passed), *more,
    ]  # fmt: skip
    paths = os.pathsep.join([str(plugins), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": paths},
    ).stdout  # fmt: skip


@pytest.mark.slow
def test_what_passed_is_not_run_again(tmp_path: Path) -> None:
    passed = tmp_path / "results" / "passed.txt"
    late = _run(passed, "--until", "0")
    assert "2 skipped" in late
    assert "left for another call" in late
    assert not passed.exists()
    assert "2 passed" in _run(passed)
    place, *names = passed.read_text().splitlines()
    assert len(names) == 2
    assert "deselected" in (again := _run(passed))
    assert "passed" not in again
    failed = tmp_path / "results" / "passed.txt.failed"
    for file in (passed, failed):
        file.write_text("\n".join([place, names[0], ""]))
    assert "1 passed" in _run(passed, "-n", "2")
    assert failed.exists()
    for file in (passed, failed):
        file.write_text("\n".join([place + "another", *names, ""]))
    assert "2 passed" in _run(passed)
    assert len(passed.read_text().splitlines()) == 3
    assert not failed.exists()  # with other sources


BROKEN_TEARDOWN = """
import pytest
@pytest.fixture(autouse=True)
def broken():
    yield
    raise RuntimeError("what a test leaves behind")
"""


@pytest.mark.slow
def test_a_broken_teardown_is_no_pass(tmp_path: Path) -> None:
    passed = tmp_path / "passed.txt"
    (tmp_path / "broken_teardown.py").write_text(BROKEN_TEARDOWN)
    said = _run(passed, "-p", "broken_teardown", plugins=tmp_path)
    assert "2 passed, " in said
    assert "2 errors" in said
    assert not passed.exists()
    failed = (tmp_path / "passed.txt.failed").read_text()
    assert ", torch " in failed.splitlines()[0]
    assert failed.count("RuntimeError: what a test leaves behind") == 2
