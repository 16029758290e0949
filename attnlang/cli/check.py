"""`attnlang check`: specs to diagnostics, as text, JSON or annotations of GitHub. No torch."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from enum import StrEnum
from typing import TYPE_CHECKING

from attnlang.cli import console
from attnlang.cli.errors import InputError
from attnlang.cli.files import check_file, spec_files
from attnlang.cli.options import add_choice, add_files
from attnlang.diagnostics import Severity

if TYPE_CHECKING:
    from attnlang.diagnostics import Diagnostic


class Format(StrEnum):
    """How diagnostics are written."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add_files(parser)
    add_choice(parser, "--format", Format, Format.TEXT, "how to write the diagnostics")


def check(args: Namespace) -> int:
    """Check specs: every error and warning, with its place."""
    paths = spec_files(args.files)
    found: list[Diagnostic] = []
    unread: list[str] = []
    for path in paths:
        try:
            found.extend(check_file(path, args.include).diagnostics)
        except InputError as error:  # the other files have a right to their errors
            unread.append(str(error))
    text = _write(found, Format(args.format))
    if text:
        console.result(text)
    for told in unread:
        console.labelled("error", told)
    if len(paths) > len(unread):
        console.message(_summary(len(paths) - len(unread), found))
    return 1 if unread or any(d.severity == Severity.ERROR for d in found) else 0


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
