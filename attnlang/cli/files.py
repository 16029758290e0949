"""Spec files: paths from the command line to sources, and to the one variant that is meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from attnlang.cli.errors import InputError
from attnlang.sources import Source

if TYPE_CHECKING:
    from attnlang.compiler import CheckResult
    from attnlang.ir.nodes import Variant

SUFFIX = ".attn"


def spec_files(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return the files meant: files as given, of folders every `.attn` file below, once each."""
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            found[path] = None
            continue
        below = sorted(p for p in path.rglob(f"*{SUFFIX}") if p.is_file())
        if not below:
            raise InputError(f"no {SUFFIX} file in {path}")
        found.update(dict.fromkeys(below))
    return tuple(found)


def read_source(path: Path) -> Source:
    """Read a spec; the path stays as it was typed, for that is what diagnostics show."""
    from attnlang.syntax.reading import with_line_feeds

    return Source(str(path), with_line_feeds(read_text(path)))


def read_text(path: Path) -> str:
    """Read a file with the line breaks that it has."""
    from attnlang.syntax import reading

    try:
        if path.exists() and not path.is_dir() and not path.is_file():
            raise InputError(f"cannot read {path}: it is not a file")  # a pipe may never say a word
        return reading.read_text(path)
    except FileNotFoundError:
        raise InputError(f"no such file: {path}{_similar(path)}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise not_text(str(path), error) from None


def not_text(shown: str, error: UnicodeDecodeError) -> InputError:
    """Return what is said of a file, called `shown`, whose bytes are no text."""
    return InputError(f"{shown} is not UTF-8 text (byte {error.start})")


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    stems = [p.stem for p in path.parent.glob(f"*{SUFFIX}")]  # the suffix is alike in all
    close = get_close_matches(path.stem, stems, n=1)
    return f" (there is {path.parent / (close[0] + SUFFIX)})" if close else ""


def check_file(path: Path, include: Sequence[Path] = ()) -> CheckResult:
    """Read and check one spec; imports no torch."""
    from attnlang.compiler import check_source

    return check_source(read_source(path), folder=path.resolve().parent, include=tuple(include))


@dataclass(frozen=True, slots=True)
class Chosen:
    """The variant that a command is about, in its checked file."""

    result: CheckResult
    variant: Variant


def choose(path: Path, name: str | None, include: Sequence[Path] = ()) -> Chosen:
    """Check a file and return its one variant, or the one named. Raises SpecError, InputError."""
    result = check_file(path, include)
    result.raise_errors()
    names = [v.name for v in result.variants]
    if not names:
        raise InputError(f"{path} has no attention")
    if name is None:
        if len(names) > 1:
            raise InputError(f"{path} has {len(names)} variants, name one: {', '.join(names)}")
        return Chosen(result, result.variants[0])
    for variant in result.variants:
        if variant.name == name:
            return Chosen(result, variant)
    raise InputError(f"{path} has no variant {name}; it has {', '.join(names)}")
