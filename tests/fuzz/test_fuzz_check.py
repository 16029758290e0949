"""`check` never crashes, hangs or swells: samples of what `fuzz_check.py` runs 100,000 of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_check import check_many, check_one, make_folder
from fuzz_inputs import KINDS, draw

DRIVER = Path(__file__).with_name("fuzz_check.py")


def run(count: int, first: int) -> str:
    """Run the driver in a process of its own, whose memory is the check's alone."""
    done = subprocess.run(
        [sys.executable, str(DRIVER), "--count", str(count), "--first", str(first)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_sample() -> None:
    assert "150 inputs in" in run(150, 1_000_000)


@pytest.mark.slow
def test_a_larger_sample() -> None:
    assert "0 failures" in run(5_000, 2_000_000)


def test_an_input_is_the_same_wherever_it_is_drawn() -> None:
    seeds = range(3_000_000, 3_000_200)
    assert [draw(s) for s in seeds] == [draw(s) for s in seeds]
    assert {draw(s)[0] for s in seeds} == {kind.__name__ for _, kind in KINDS}


def test_the_driver_notices_a_crash_and_a_hang(tmp_path, monkeypatch) -> None:
    """A fuzzer that cannot fail finds nothing."""

    def crash(_text, _folder):
        raise RecursionError("too deep")

    def spin(_text, _folder):
        while True:
            pass

    monkeypatch.setattr("fuzz_check.check_one", crash)
    outcome = check_many(range(2), tmp_path)
    assert [what.partition(": ")[2] for _, what in outcome.failures] == [
        "RecursionError: too deep"
    ] * 2
    monkeypatch.setattr("fuzz_check.check_one", spin)
    monkeypatch.setattr("fuzz_check.SECONDS", 0.05)
    ((_, what),) = check_many(range(1), tmp_path).failures
    assert what.endswith("Hang: more than 0.05 s")


def test_the_driver_notices_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("fuzz_check.BYTES", 1)
    outcome = check_many(range(2), tmp_path)
    assert len(outcome.failures) == 1
    assert outcome.failures[0][1].endswith("bytes in memory")


def test_imports_of_the_folder_work(tmp_path) -> None:
    """What the fuzzer may import exists, so that its imports do not all end at the path."""
    folder = make_folder(tmp_path)
    text = 'from "{}" import half\nattention a: score = half(score)'
    codes = {
        path: check_one(text.format(path), folder)
        for path in ("common.attn", "a/x.attn", "a/../common.attn", "../x.attn", "link/x.attn")
    }
    assert codes == {
        "common.attn": [],
        "a/x.attn": [],
        "a/../common.attn": [],
        "../x.attn": ["A406"],
        "link/x.attn": ["A406"],
    }, json.dumps(codes)
