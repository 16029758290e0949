"""Files that commands write: refused early where they cannot be, never there by half."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from attnlang.cli.errors import InputError


def check_writable(option: str, path: Path) -> None:
    """Refuse a file that cannot be written, before anything is computed for it."""
    if not path.parent.is_dir():
        raise InputError(f"{option}: no such folder: {path.parent}")
    if path.is_dir():
        raise InputError(f"{option}: {path} is a folder")
    if path.exists() and not path.is_file():  # moving a file over a device would remove it
        raise InputError(f"{option}: {path} is not a file")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{option}: cannot write into {path.parent}")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside the final place, then move it there in one step."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
