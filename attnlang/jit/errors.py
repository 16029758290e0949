"""What a failed build raises."""

from __future__ import annotations

from functools import partial
from pathlib import Path


class BuildError(Exception):
    """The toolchain failed: the first real error, the command, and where the full log lies."""

    summary: str
    command: str | None
    log: Path | None
    help: str

    def __init__(
        self, summary: str, *, command: str | None = None, log: Path | None = None, help: str = ""
    ) -> None:
        self.summary = summary
        self.command = command
        self.log = log
        self.help = help
        lines = [summary]
        if help:
            lines.append(f"  help: {help}")
        if command:
            lines.append(f"  command: {command}")
        if log:
            lines.append(f"  full log: {log}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        """Let it leave a worker process as what it is."""
        again = partial(type(self), command=self.command, log=self.log, help=self.help)
        return again, (self.summary,)
