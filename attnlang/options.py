"""The options that come from the environment: `ATTNLANG_*` variables, read here alone.

`options()` maps the environment to one frozen `Options`; `VARIABLES` documents it, and the
manual's table is made from it. Every call reads the environment anew: a program may set it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class CpuTarget(StrEnum):
    """Which CPUs the built code runs on."""

    NATIVE = "native"  # this machine's
    X86_64_V3 = "x86-64-v3"  # AVX2, FMA, F16C
    X86_64_V4 = "x86-64-v4"  # AVX-512
    PORTABLE = "portable"  # whatever the compiler assumes by default


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable, for the manual."""

    name: str
    meaning: str
    default: str


VARIABLES = (
    Variable(
        "ATTNLANG_CACHE_DIR",
        "folder of the built kernels",
        "`$XDG_CACHE_HOME/attnlang`, else `~/.cache/attnlang`",
    ),
    Variable(
        "ATTNLANG_CXX",
        "the C++ compiler, with arguments if need be (`ccache g++`)",
        "`$CXX`, else the first of c++, g++, clang++",
    ),
    Variable("ATTNLANG_JOBS", "compiler processes at once", "the CPUs this process may use"),
    Variable(
        "ATTNLANG_CPU",
        "CPUs that kernels are built for: native, x86-64-v3, x86-64-v4 or portable",
        "native",
    ),
    Variable(
        "ATTNLANG_NVCC",
        "the CUDA compiler, with arguments if need be",
        "that of `$CUDA_HOME`, else nvcc in PATH, else one that pip installed",
    ),
    Variable(
        "ATTNLANG_EMULATE",
        "sm80 or sm90 (1: sm90): calls on CPU tensors run that GPU's kernel, emulated",
        "0",
    ),
    Variable("ATTNLANG_VERBOSE", "1: say on stderr what is built, and where", "0"),
)


class OptionError(ValueError):
    """An `ATTNLANG_*` variable holds what it may not."""

    def __init__(self, variable: str, expected: str, found: str) -> None:
        super().__init__(f"{variable}: expected {expected}, found {found!r}")


@dataclass(frozen=True, slots=True)
class Options:
    """What the environment asks for."""

    cache_dir: Path
    cxx: str | None
    jobs: int
    cpu: CpuTarget
    nvcc: str | None
    emulate: str | None  # the target whose kernels CPU tensors run
    verbose: bool


def options() -> Options:
    """Read the options from the environment. Raises OptionError for a value that none can have."""
    return Options(
        cache_dir=cache_dir(),
        cxx=os.environ.get("ATTNLANG_CXX") or None,
        jobs=_jobs(),
        cpu=_cpu(),
        nvcc=os.environ.get("ATTNLANG_NVCC") or None,
        emulate=emulated_target(),
        verbose=_flag("ATTNLANG_VERBOSE"),
    )


def cache_dir() -> Path:
    """Return the cache's folder; alone, for what is kept of specs needs no other option.

    Raises RuntimeError or OSError where it lies below a folder that cannot be found.
    """
    if own := os.environ.get("ATTNLANG_CACHE_DIR"):
        return Path(own).expanduser().absolute()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(xdg) if Path(xdg).is_absolute() else Path("~/.cache").expanduser()
    return base / "attnlang"


def _jobs() -> int:
    text = os.environ.get("ATTNLANG_JOBS")
    if not text:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if not text.isdecimal() or int(text) == 0:
        raise OptionError("ATTNLANG_JOBS", "a number from 1", text)
    return int(text)


def _cpu() -> CpuTarget:
    text = os.environ.get("ATTNLANG_CPU") or CpuTarget.NATIVE
    if text not in CpuTarget.__members__.values():
        raise OptionError("ATTNLANG_CPU", "one of " + ", ".join(CpuTarget), text)
    return CpuTarget(text)


def emulation_text() -> str:
    """Return what the environment says of the emulator, unread: each call asks."""
    return os.environ.get("ATTNLANG_EMULATE", "")


def emulated_target() -> str | None:
    """Return the target whose kernels CPU tensors run."""
    text = emulation_text().lower()
    if text in ("sm80", "sm90"):
        return text
    if text not in ("", "0", "1", "false", "true", "no", "yes", "off", "on"):
        raise OptionError("ATTNLANG_EMULATE", "sm80, sm90, 0 or 1", text)
    return "sm90" if text in ("1", "true", "yes", "on") else None


@contextmanager
def emulating(target: str | None) -> Iterator[None]:
    """Let CPU tensors run a target's kernels in the emulator, or the CPU's own, for a while."""
    before = os.environ.get("ATTNLANG_EMULATE")
    os.environ["ATTNLANG_EMULATE"] = target or "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ["ATTNLANG_EMULATE"]
        else:
            os.environ["ATTNLANG_EMULATE"] = before


def _flag(variable: str) -> bool:
    text = os.environ.get(variable, "").lower()
    if text not in ("", "0", "1", "false", "true", "no", "yes", "off", "on"):
        raise OptionError(variable, "0 or 1", text)
    return text in ("1", "true", "yes", "on")
