"""What commands say: results on stdout, messages on stderr, progress on a terminal only.

Invariant: nothing but a result ever reaches stdout, and nothing moves or has colour where nobody
watches (a pipe, `NO_COLOR`).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attnlang.cli.errors import InputError

if TYPE_CHECKING:
    from rich.progress import Progress

# Work that is over sooner shows nothing.
PATIENCE_SECONDS = 1.0

_COLORS = {"error": "1;31", "warning": "1;33", "note": "1;36"}


def result(text: str) -> None:
    """Write what the command was asked for. Raises InputError where stdout takes no more."""
    with _stdout():
        sys.stdout.write(text if text.endswith("\n") else text + "\n")


def end_of_results() -> None:
    """See to it that all of them are written. Raises InputError as `result` does."""
    with _stdout():
        sys.stdout.flush()


@contextmanager
def _stdout() -> Iterator[None]:
    """Tell a full disk under stdout from a fault of ours, and a reader who has enough from both."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"cannot write to stdout: {error.strerror}") from None


def message(text: str) -> None:
    """Write something for the person beside the result."""
    sys.stderr.write(text if text.endswith("\n") else text + "\n")


def labelled(label: str, text: str) -> None:
    """Write a message after `error:`, `warning:` or `note:`."""
    shown = f"{label}:"
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        shown = f"\033[{_COLORS[label]}m{shown}\033[0m"
    message(f"{shown} {text}")


def table(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Align rows in columns, two spaces apart; `right` are the columns aligned to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


class Activity:
    """What is going on, for whoever waits; `total` steps when they can be counted."""

    def __init__(self, text: str, total: int | None) -> None:
        self._text, self._total, self._done = text, total, 0
        self._lock = threading.Lock()
        self._progress: Progress | None = None

    def now(self, text: str) -> None:
        """Say what is going on now."""
        with self._lock:
            self._text = text
            self._show()

    def step(self) -> None:
        """Count one step as done."""
        with self._lock:
            self._done += 1
            self._show()

    def _show(self) -> None:
        if self._progress is not None:
            task = self._progress.task_ids[0]
            self._progress.update(task, description=self._text, completed=self._done)

    def begin(self) -> None:
        """Start to show it."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        bar = () if self._total is None else (BarColumn(),)
        with self._lock:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                *bar,
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.add_task(self._text, total=self._total, completed=self._done)
            self._progress.start()

    def end(self) -> None:
        """Take it off the screen."""
        with self._lock:
            if self._progress is not None:
                self._progress.stop()
                self._progress = None


@contextmanager
def activity(text: str, total: int | None = None) -> Iterator[Activity]:
    """Show that something is going on, once it has taken a second and on a terminal only."""
    shown = Activity(text, total)
    timer = threading.Timer(PATIENCE_SECONDS, shown.begin)
    timer.daemon = True
    watched = sys.stderr.isatty()
    if watched:
        timer.start()
    try:
        yield shown
    finally:
        timer.cancel()
        if watched:
            if timer.is_alive():
                timer.join()
            shown.end()
