"""From compile commands to a `build.ninja`, and running it: the only user of the ninja package.

Runs the binary that the PyPI package carries, in a process of its own, so that a build can be
killed at any time.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ninja

from attnlang.jit.errors import BuildError

FILE = "build.ninja"
_STATUS = "[%s/%t] "


@dataclass(frozen=True, slots=True)
class Edge:
    """One step: the shell's `command` makes `output` from `inputs`, run in the build's folder."""

    output: str
    inputs: tuple[str, ...]
    command: str
    description: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run of ninja ended, and all that it and the compilers printed."""

    ok: bool
    output: str


def binary() -> Path:
    """Return the path of the ninja that the package carries."""
    return Path(ninja.BIN_DIR) / "ninja"


def ninja_file(edges: Sequence[Edge]) -> str:
    """Write the text of a build file."""
    parts = [
        "ninja_required_version = 1.8\n\nrule run\n  command = $command\n  description = $what\n"
    ]
    for edge in edges:
        inputs = " ".join(_path(p) for p in edge.inputs)
        parts.append(
            f"\nbuild {_path(edge.output)}: run {inputs}\n"
            f"  command = {_value(edge.command)}\n"
            f"  what = {_value(edge.description)}\n"
        )
    return "".join(parts)


def _value(text: str) -> str:
    if "\n" in text:
        raise ValueError("a ninja value has one line")
    return text.replace("$", "$$")


def _path(text: str) -> str:
    return _value(text).replace(" ", "$ ").replace(":", "$:")


def run(folder: Path, jobs: int, progress: Callable[[str], None]) -> Outcome:
    """Build what the folder's build file says; `progress` hears each step as it starts."""
    try:
        process = subprocess.Popen(
            [str(binary()), "-C", str(folder), "-j", str(jobs)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            env={**os.environ, "NINJA_STATUS": _STATUS, "LC_ALL": "C"},
        )
    except OSError as error:
        mend = "`pip install --force-reinstall ninja`"
        raise BuildError(f"ninja does not start: {error}", help=mend) from error
    lines: list[str] = []
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("["):
                progress(line.rstrip())
    return Outcome(process.returncode == 0, "".join(lines))
