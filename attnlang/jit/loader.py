"""From a built object's path to the loaded library.

Each object is loaded once a process, after its CPU features and, for one that calls torch, libtorch
were found to be there: the loader would end in a crash or in words that help nobody.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path

from attnlang.jit.cache import MANIFEST, Manifest
from attnlang.jit.cpu import this_cpu
from attnlang.jit.errors import BuildError


def _mark_child() -> None:
    """Tell what is loaded from now on that OpenMP's threads stayed in the parent."""
    os.environ["_ATTNLANG_FORKED_CHILD"] = str(os.getpid())  # read by attnlang/cpu/parallel.h


os.register_at_fork(after_in_child=_mark_child)

_loaded: dict[Path, ctypes.CDLL] = {}
_lock = threading.Lock()


def load(library: Path) -> ctypes.CDLL:
    """Load an object that `build` returned; its symbols stay private to the handle.

    Raises BuildError when this CPU lacks a feature that the code needs, torch is not imported, or
    an entry point is missing.
    """
    path = library.resolve()
    with _lock:
        if path not in _loaded:
            _loaded[path] = _load(path)
        return _loaded[path]


def _load(path: Path) -> ctypes.CDLL:
    try:
        manifest = Manifest.read(path.parent / MANIFEST)
    except (OSError, ValueError) as error:
        raise BuildError(f"{path} has no manifest beside it: {error}") from error
    _check_machine(path, manifest)
    if manifest.torch and "torch" not in sys.modules:
        raise BuildError(f"{path.name} calls torch, which is not imported", help="`import torch`")
    try:
        handle = ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"{path.name} does not load: {error}") from error
    missing = [name for name in manifest.entry_points if not hasattr(handle, name)]
    if missing:
        raise BuildError(f"{path.name} does not export {', '.join(missing)}")
    return handle


def _check_machine(path: Path, manifest: Manifest) -> None:
    cpu = this_cpu()
    if manifest.machine != cpu.machine:
        raise BuildError(
            f"{path.name} is code for {manifest.machine}; this machine is {cpu.machine}"
        )
    missing = cpu.missing(manifest.cpu_features) if cpu.features else ()
    if missing:
        raise BuildError(
            f"{path.name} needs CPU features that this machine lacks: {', '.join(missing)}",
            help="set ATTNLANG_CPU to x86-64-v3 or portable and build it again",
        )
