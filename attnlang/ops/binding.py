"""The binding that all ops share: built once a cache, loaded once a process, told of every op.

Maps the object of an op to its registration with torch. Invariant: a name that torch knows already
keeps the op that it has.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from attnlang.compiler import binding_sources
from attnlang.emit.entry_points import OP, REGISTER, REGISTER_BACKWARD
from attnlang.jit.build import build
from attnlang.jit.loader import load
from attnlang.jit.memo import remembered

progress: ContextVar[Callable[[str], None] | None] = ContextVar("progress", default=None)
"""Called with a line for each thing that is built; the command line shows it."""

_ERROR_SIZE = 512  # kErrorSize


def register(library: Path) -> None:
    """Register the op of an object that `op_sources` describes."""
    _register(REGISTER, library)


def register_backward(library: Path) -> None:
    """Register the op of an object that `backward_sources` describes."""
    _register(REGISTER_BACKWARD, library)


def _register(function: str, library: Path) -> None:
    op = ctypes.c_char.in_dll(load(library), OP)
    error = ctypes.create_string_buffer(_ERROR_SIZE)
    if getattr(_binding(), function)(ctypes.byref(op), error) != 0:
        raise RuntimeError(error.value.decode(errors="replace"))


@cache
def _binding() -> ctypes.CDLL:
    return load(build(remembered("binding", (), binding_sources), progress=progress.get()))
