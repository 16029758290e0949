"""What the compiler's Python made before, kept in the cache: a process that finds it imports less.

Maps a kind of result and all that it is made of to the result, pickled under a hash of both and of
the compiler's own files. Invariant: only results of pure functions are kept, of the files that this
process began with, so that what is found is what would be made; what cannot be read, or is not what
was written, is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from attnlang.assets import asset
from attnlang.jit.cache import Store
from attnlang.options import cache_dir

_T = TypeVar("_T")
_CHECKSUM_BYTES = 32
_log = logging.getLogger("attnlang.jit")

# What decides, beside attnlang's Python, what the compiler makes of a spec.
_ASSETS = (("grammar",), ("codegen", "module"))
_LIBRARIES = ("lark", "sympy", "jinja2")


def remembered(kind: str, material: tuple[object, ...], make: Callable[[], _T]) -> _T:
    """Return what `make` returns, from the cache where it was made of this `material` before.

    `make` must depend on nothing else, all of which the material's `repr` shows; what it raises is
    not kept.
    """
    try:
        store = Store(cache_dir())
    except (OSError, RuntimeError):  # no home: whoever builds is told
        return make()
    asked = repr((_compiler, kind, material))
    digest = hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    name = f"{kind}-{digest}"
    found: list[_T] = _read(store, name)
    if found:
        return found[0]
    made = make()
    with contextlib.suppress(OSError, RecursionError):  # what is as deep as that is made each time
        content = pickle.dumps(made, protocol=5)
        # The stages are imported when they first run: of files that changed since, none can tell
        # which ones made this.
        if compiler_digest() == _compiler:
            store.keep_result(name, hashlib.sha256(content).digest() + content)
    return made


def _read(store: Store, name: str) -> list[_T]:
    """Return the one thing that a file holds, nothing where that cannot be trusted."""
    try:
        data = store.read_result(name)
        content = data[_CHECKSUM_BYTES:]
        if hashlib.sha256(content).digest() != data[:_CHECKSUM_BYTES]:
            _log.warning("%s is not what was written: its checksum differs", name)
            return []
        return [pickle.loads(content)]
    except OSError:
        return []
    except Exception as error:  # a pickle of other classes raises anything
        _log.warning("%s cannot be read: %s", name, error)
        return []


def compiler_files() -> list[Path]:
    """Return the compiler's files: attnlang's Python, and what its stages read."""
    package = Path(__file__).parent.parent
    read = (file for parts in _ASSETS for file in _files(asset(*parts)))
    return [
        *(file for file in _files(package) if file.suffix == ".py"),
        *(file for file in read if file.suffix != ".md"),  # help, which no result has
    ]


def compiler_digest() -> str:
    """Identify the compiler by the content of its files, its libraries and its Python."""
    libraries = [(name, _version(name)) for name in _LIBRARIES]
    digest = hashlib.sha256(repr((sys.version_info, __package__, libraries)).encode())
    for file in compiler_files():
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:  # part of somebody's program, and of one version there
        return ""


def _files(folder: Path) -> list[Path]:
    """Return the files below a folder, but for Python's own cache."""
    found: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        found += [Path(root, name) for name in sorted(names)]
    return found


_compiler = compiler_digest()
