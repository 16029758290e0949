"""Where the tests of this folder run, on a GPU and most of them in the emulator too; and resuming.

With `--passed FILE` a session writes down what passes on this GPU with these sources, and leaves
out what did; what fails it appends to FILE.failed at once, for a session that is cut reports
nothing. With `--until SECONDS` no test starts later. So `make gpu`, called until nothing is left,
never takes more than minutes, and a session that dies loses nothing.
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


def _passed(file: Path) -> set[str]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return set(lines[1:]) if lines[:1] == [_place()] else set()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    file = config.getoption("--passed")
    if file is None:
        return
    before = _passed(Path(file))
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
        self._file = file
        self._called: set[str] = set()  # what passed, not torn down yet

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._append(f"{self._file}.failed", f"{report.nodeid}\n{report.longreprtext}\n\n")
        if report.when == "call" and report.passed:
            self._called.add(report.nodeid)
        if report.when != "teardown" or report.nodeid not in self._called:
            return
        self._called.remove(report.nodeid)
        if not report.passed:
            return
        if not _passed(self._file):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(f"{_place()}\n", encoding="utf-8")
        self._append(self._file, f"{report.nodeid}\n")

    @staticmethod
    def _append(file: Path | str, text: str) -> None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        with Path(file).open("a", encoding="utf-8") as out:
            out.write(text)


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--passed", None)
    if file is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Record(Path(file)))
