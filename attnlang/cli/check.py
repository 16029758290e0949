"""`attnlang check`: specs to diagnostics, as text, JSON or annotations of GitHub. No torch."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnlang.cli import console
from attnlang.cli.files import check_file, spec_files
from attnlang.diagnostics import Severity

if TYPE_CHECKING:
    from attnlang.diagnostics import Diagnostic


class Format(StrEnum):
    """How diagnostics are written."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


def check(
    files: Annotated[list[Path], typer.Argument(help="Specs, or folders of them.")],
    format_: Annotated[
        Format, typer.Option("--format", help="How to write the diagnostics.")
    ] = Format.TEXT,
    include: Annotated[
        list[Path] | None, typer.Option(help="A further folder that imports may read.")
    ] = None,
) -> int:
    """Check specs: every error and warning, with its place. Imports no torch."""
    paths = spec_files(files)
    found: list[Diagnostic] = []
    for path in paths:
        found.extend(check_file(path, include or ()).diagnostics)
    text = _write(found, format_)
    if text:
        console.result(text)
    console.message(_summary(len(paths), found))
    return 1 if any(d.severity == Severity.ERROR for d in found) else 0


def _write(found: list[Diagnostic], format_: Format) -> str:
    from attnlang.diagnostics.render import render_github, render_json, render_text

    match format_:
        case Format.TEXT:
            return "\n\n".join(render_text(d) for d in found)
        case Format.JSON:
            return render_json(found)
        case Format.GITHUB:
            return "\n".join(render_github(d) for d in found)


def _summary(files: int, found: list[Diagnostic]) -> str:
    errors = sum(d.severity == Severity.ERROR for d in found)
    counts = [_count(errors, "error"), _count(len(found) - errors, "warning")]
    said = ", ".join(c for c in counts if not c.startswith("0 ")) or "all fine"
    return f"{_count(files, 'file')} checked: {said}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
