"""`attnlang fmt`: specs in the canonical layout, in place or, for `-`, from stdin to stdout.

Imports neither torch nor sympy. Invariant: a file either stays as it is or is replaced, whole, by
one that says the same; what cannot be parsed stays.
"""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from pathlib import Path

from attnlang.cli import console
from attnlang.cli.errors import InputError
from attnlang.cli.files import not_text, read_text, spec_files
from attnlang.cli.options import a_path
from attnlang.sources import Source

_STDIN = Path("-")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "files",
        nargs="+",
        type=a_path,
        metavar="FILE",
        help="a spec, a folder of them, or - for stdin to stdout",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a file would change"
    )


def fmt(args: Namespace) -> int:
    """Format specs in place: one layout for everybody."""
    files: list[Path] = args.files
    if _STDIN in files:
        if len(files) > 1:
            raise InputError("- stands alone: stdin is formatted to stdout")
        return _fmt_stdin(args.check)
    paths = spec_files(files)
    changed: list[Path] = []
    failed = 0
    for path in paths:
        try:
            if _fmt_file(path, args.check):
                changed.append(path)
        except InputError as error:  # the other files have a right to their layout
            failed += 1
            console.labelled("error", str(error))
    for path in changed:
        console.result(str(path))
    console.message(_summary(len(paths), len(changed), failed, args.check))
    return 1 if failed or (args.check and changed) else 0


def _fmt_stdin(check: bool) -> int:
    from attnlang.syntax.reading import text_of

    try:
        source = Source("<stdin>", text_of(sys.stdin.buffer))
    except UnicodeDecodeError as error:
        raise not_text("<stdin>", error) from None
    text = _formatted(source)
    if check:
        if text != source.text:
            console.result(source.path)
        return 1 if text != source.text else 0
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8"))
    return 0


def _fmt_file(path: Path, check: bool) -> bool:
    """Format one file; return whether its layout was another."""
    source = Source(str(path), read_text(path))
    text = _formatted(source)
    if text == source.text:
        return False
    if not check:
        _replace(path, text)
    return True


def _formatted(source: Source) -> str:
    """Return a source in the canonical layout. Raises InputError when it cannot be parsed."""
    from attnlang.diagnostics.render import render_text
    from attnlang.syntax.formatter import format_source

    result = format_source(source)
    if result.text is None:
        for diagnostic in result.diagnostics:
            console.message(render_text(diagnostic) + "\n")
        raise InputError(f"{source.path} is left as it is: it cannot be parsed")
    return result.text


def _replace(path: Path, text: str) -> None:
    """Put a text in a file's place by one rename; a link goes on pointing at the file."""
    real = path.resolve()
    if not os.access(real, os.W_OK):
        raise InputError(f"cannot write {path}: it is read-only")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{real.name[:100]}.", dir=real.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(real.stat().st_mode & 0o7777)
            Path(name).replace(real)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def _summary(files: int, changed: int, failed: int, check: bool) -> str:
    said = [f"{_files(changed)} {'would be ' if check else ''}reformatted"] if changed else []
    if same := files - changed - failed:
        said.append(f"{_files(same)} as {'it should' if same == 1 else 'they should'} be")
    if failed:
        said.append(f"{_files(failed)} left with errors")
    return ", ".join(said)


def _files(n: int) -> str:
    return "1 file" if n == 1 else f"{n} files"
