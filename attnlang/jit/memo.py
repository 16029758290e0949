"""What the compiler's Python made before, kept in the cache: a process that finds it imports less.

Maps a kind of result and all that it is made of to the result, pickled under a hash of both and of
the compiler's own files. Invariant: only results of pure functions are kept, so that what is found
is what would be made; what cannot be read, or is not what was written, is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from attnlang.assets import asset
from attnlang.options import options

FOLDER = "memo"

_T = TypeVar("_T")
_CHECKSUM_BYTES = 32
_log = logging.getLogger("attnlang.jit")

# Folders of attnlang, and assets, that decide what the compiler makes of a spec.
_STAGES = ("diagnostics", "syntax", "ir", "sema", "symbolic", "passes", "plan", "emit", "jit")
_ASSETS = (("grammar",), ("codegen", "module"))


def remembered(kind: str, material: tuple[object, ...], make: Callable[[], _T]) -> _T:
    """Return what `make` returns, from the cache where it was made of this `material` before.

    `make` must depend on nothing else, all of which the material's `repr` shows; what it raises is
    not kept.
    """
    asked = repr((_compiler(), kind, material))
    digest = hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    path = options().cache_dir / FOLDER / f"{kind}-{digest}"
    found: list[_T] = _read(path)
    if found:
        return found[0]
    made = make()
    with contextlib.suppress(OSError, RecursionError):  # what is as deep as that is made each time
        _write(path, made)
    return made


def _read(path: Path) -> list[_T]:
    """Return the one thing that a file holds, nothing where that cannot be trusted."""
    try:
        data = path.read_bytes()
        content = data[_CHECKSUM_BYTES:]
        if hashlib.sha256(content).digest() != data[:_CHECKSUM_BYTES]:
            _log.warning("%s is not what was written: its checksum differs", path)
            return []
        return [pickle.loads(content)]
    except OSError:
        return []
    except Exception as error:  # a pickle of other classes raises anything
        _log.warning("%s cannot be read: %s", path, error)
        return []


def _write(path: Path, value: object) -> None:
    """Write a file at once: a reader sees all of it or none. Raises OSError."""
    content = pickle.dumps(value, protocol=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            file.write(hashlib.sha256(content).digest() + content)
            file.close()
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


@cache
def _compiler() -> str:
    """Identify the compiler by the content of its files, and the Python that runs it."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256(repr((sys.version_info, package.name)).encode())
    folders = (*(package / stage for stage in _STAGES), *(asset(*parts) for parts in _ASSETS))
    files = (package / "compiler.py", *(file for folder in folders for file in _files(folder)))
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    """Return the files below a folder, but for Python's own cache."""
    found: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(root, name) for name in sorted(names) if not name.endswith(".pyc")]
    return found
