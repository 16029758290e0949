"""What all tests share: their options, specs as files and as variants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from attnlang.ir.nodes import Variant


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden files beside the cases"
    )
    parser.addoption(
        "--gradient-errors", type=Path, metavar="FILE", help="add the worst gradient errors to it"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    path = terminalreporter.config.getoption("--gradient-errors")
    if path is not None:
        from gradient_errors import write

        passed = terminalreporter.stats.get("passed", [])
        write(path, (each for report in passed for each in report.user_properties))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """A function that compares a text with a golden file, or rewrites it."""
    update = bool(request.config.getoption("--update-golden"))

    def compare(path: Path, text: str) -> None:
        if update:
            path.write_text(text, encoding="utf-8", newline="")
            return
        assert path.is_file(), f"{path} is missing: run pytest with --update-golden, then read it"
        with path.open(encoding="utf-8", newline="") as file:
            stored = file.read()
        if stored != text:
            pytest.fail(
                f"{path} differs; run pytest with --update-golden if the new text is right\n"
                f"--- stored\n{stored}\n+++ now\n{text}"
            )

    return compare


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., Path]:
    """Write a spec into a file."""

    def write(text: str, name: str = "spec.attn") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def variant() -> Callable[[str], Variant]:
    """Check a text that holds one variant."""
    # Not above: the tests of tests/gpu run where the compiler's dependencies are not installed.
    from attnlang.compiler import check_source
    from attnlang.sources import Source

    def make(text: str) -> Variant:
        result = check_source(Source("<test>", text))
        result.raise_errors()
        (found,) = result.variants
        return found

    return make
