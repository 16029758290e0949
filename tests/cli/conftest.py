"""What the tests of the commands share."""

from collections.abc import Callable

import pytest

from attnlang.cli.commands import run_command

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
