"""What the tests of the commands share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from attnlang.cli.main import run_command
from attnlang.compiler import check_source
from attnlang.ir.nodes import Variant
from attnlang.sources import Source

Cli = Callable[..., "Done"]


class Done:
    """A command that ran: its exit code, what it printed where."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process."""

    def run(*args: object) -> Done:
        code = run_command([str(a) for a in args])
        printed = capsys.readouterr()
        return Done(code, printed.out, printed.err)

    return run


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

    def make(text: str) -> Variant:
        result = check_source(Source("<test>", text))
        result.raise_errors()
        (found,) = result.variants
        return found

    return make
