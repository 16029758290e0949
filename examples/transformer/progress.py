"""A bar for a training run: the step, the loss, tokens a second, and how long it will take."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LATEST = 50  # steps over which tokens a second are counted


class TrainingBar:
    """A bar of `steps` steps, of which `done` are behind."""

    def __init__(self, console: Console, steps: int, done: int) -> None:
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[rate]:,.0f} tokens/s"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("", total=steps, completed=done, loss=0.0, rate=0.0)
        self._times = deque[tuple[float, int]](maxlen=_LATEST)
        self._last = 0.0

    def __enter__(self) -> TrainingBar:
        self._progress.start()
        self._last = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._progress.stop()

    def advance(self, loss: float, tokens: int) -> None:
        """Show that a step was made, with its loss and how many tokens it read."""
        now = time.perf_counter()
        self._times.append((now - self._last, tokens))
        self._last = now
        rate = sum(t for _, t in self._times) / sum(s for s, _ in self._times)
        self._progress.update(self._task, advance=1, loss=loss, rate=rate)
