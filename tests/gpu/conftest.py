"""Where the tests of this folder run, on a GPU and most of them in the emulator too; and resuming.

With `--passed FILE` a session writes down what passes on this GPU with these sources, and leaves
out what did; what fails it appends to FILE.failed at once, for a session that is cut reports
nothing. Each begins with what it holds for, and is thrown away where that changed. With
`--until SECONDS` no test starts later. So `make gpu`, called until nothing is left, never takes
more than minutes, and a session that dies loses nothing.
"""

from __future__ import annotations

import hashlib
import time
from functools import cache
from pathlib import Path

import pytest
import torch
from gpu_places import ON_GPU, place_of

ROOT = Path(__file__).resolve().parents[2]
_SOURCES = ("attnlang", "codegen", "runtime", "grammar", "examples", "tests", "pyproject.toml")
_START = time.monotonic()


@pytest.fixture(
    params=[
        pytest.param("sm80", marks=pytest.mark.slow),
        "sm90",
        pytest.param("cuda", marks=ON_GPU),
    ]
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where kernels run: emulated ones on the CPU."""
    return place_of(request.param, monkeypatch)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--passed", help="what passed already; written to, too")
    parser.addoption("--until", type=float, help="seconds after which no test starts")


@cache
def _place() -> str:
    """Return the GPU, torch and a digest of the sources: what passed with others counts not."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        source = ROOT / name
        for path in [source] if source.is_file() else sorted(source.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{gpu}, torch {torch.__version__}, {digest.hexdigest()[:16]}"


def _lines(file: Path) -> list[str]:
    """Return what was written down with these sources."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return lines[1:] if lines[:1] == [_place()] else []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    file = config.getoption("--passed")
    if file is None:
        return
    before = set(_lines(Path(file)))
    done = [item for item in items if item.nodeid in before]
    items[:] = [item for item in items if item.nodeid not in before]
    config.hook.pytest_deselected(items=done)


def pytest_runtest_setup(item: pytest.Item) -> None:
    until = item.config.getoption("--until")
    if until is not None and time.monotonic() - _START > until:
        pytest.skip("left for another call: no test starts so late")


class _Record:
    """Writes down what passes, its teardown too, and what fails: where every test is heard of."""

    def __init__(self, file: Path) -> None:
        self._passed, self._failed = file, Path(f"{file}.failed")
        self._called: set[str] = set()  # what passed, not torn down yet

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._append(self._failed, f"{report.nodeid}\n{report.longreprtext}\n\n")
        if report.when == "call" and report.passed:
            self._called.add(report.nodeid)
        if report.when != "teardown" or report.nodeid not in self._called:
            return
        self._called.remove(report.nodeid)
        if report.passed:
            self._append(self._passed, f"{report.nodeid}\n")

    def _append(self, file: Path, text: str) -> None:
        for each in (self._passed, self._failed):
            if not _lines(each):
                each.unlink(missing_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as out:
            out.write(text if out.tell() else f"{_place()}\n{text}")


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--passed", None)
    if file is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Record(Path(file)))
