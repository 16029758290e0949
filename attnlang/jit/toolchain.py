"""The C++ compiler: finding it, telling it from others, and the flags for a CPU.

Maps the options and PATH to a `Compiler`. Invariant: two compilers with one `identity` make the
same code from the same input.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from attnlang.jit.cpu import MACROS, this_cpu
from attnlang.jit.errors import BuildError
from attnlang.options import CpuTarget, options

CANDIDATES = ("c++", "g++", "clang++")
INSTALL_HELP = (
    "install one: `sudo apt install g++` (Debian, Ubuntu), `sudo dnf install gcc-c++` (Fedora), "
    "`xcode-select --install` and `brew install libomp` (macOS), "
    "or name one in ATTNLANG_CXX"
)
_CXX20_PROGRAM = """\
#include <concepts>
template <std::integral T> constexpr T twice(T x) { return x + x; }
int main() { return twice(0); }
"""
_OPENMP_PROGRAM = """\
#include <omp.h>
int main() { return omp_get_max_threads() > 0 ? 0 : 1; }
"""


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler: the words that run it, and what tells it from others."""

    command: tuple[str, ...]
    identity: str  # the first line of its `--version`
    is_clang: bool

    def __str__(self) -> str:
        return f"{shlex.join(self.command)}: {self.identity}"


def find_compiler() -> Compiler:
    """Return the compiler: ATTNLANG_CXX, CXX, or the first that PATH has. Raises BuildError."""
    for variable, text in (("ATTNLANG_CXX", options().cxx), ("CXX", os.environ.get("CXX"))):
        if text:
            return _named_compiler(variable, tuple(shlex.split(text)))
    for name in CANDIDATES:
        if path := shutil.which(name):
            return _identify((path,))
    raise BuildError(f"no C++ compiler found (tried {', '.join(CANDIDATES)})", help=INSTALL_HELP)


def _named_compiler(variable: str, words: tuple[str, ...]) -> Compiler:
    path = shutil.which(words[0])
    if path is None:
        raise BuildError(
            f"{variable} names the compiler `{words[0]}`, which PATH does not have",
            help=INSTALL_HELP,
        )
    return _identify((path, *words[1:]))


@cache
def _identify(command: tuple[str, ...]) -> Compiler:
    shown = shlex.join((*command, "--version"))
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"the C++ compiler does not start: {error}", command=shown) from error
    first = done.stdout.partition("\n")[0].strip()
    if done.returncode != 0 or not first:
        said = done.stderr.strip().partition("\n")[0]
        raise BuildError(f"the C++ compiler does not tell its version: {said}", command=shown)
    return Compiler(command, f"{first} {own_file(command)}", "clang" in first.lower())


def own_file(command: tuple[str, ...]) -> str:
    """Tell rebuilt compilers of one version apart, as ccache does: by size and time."""
    stat = Path(command[0]).stat()
    return f"[{stat.st_size}-{stat.st_mtime_ns}]"


def cpu_flags(cpu: CpuTarget) -> tuple[str, ...]:
    """Return the flags that make code for a CPU target."""
    match cpu:
        case CpuTarget.PORTABLE:
            return ()
        case CpuTarget.NATIVE:
            return ("-mcpu=native",) if this_cpu().machine == "aarch64" else ("-march=native",)
        case CpuTarget.X86_64_V3 | CpuTarget.X86_64_V4:
            return (f"-march={cpu}",)


def cpu_identity(cpu: CpuTarget) -> str:
    """Say what the code for a CPU target depends on: for `native`, this CPU and its features."""
    here = this_cpu()
    if cpu is not CpuTarget.NATIVE:
        return f"{here.machine} {cpu}"
    return f"{here.machine} {here.identity} {' '.join(sorted(here.features))}"


@cache
def needed_features(compiler: Compiler, flags: tuple[str, ...]) -> tuple[str, ...]:
    """Return the CPU features that code compiled with these flags may use."""
    command = [*compiler.command, *flags, "-dM", "-E", "-x", "c++", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().partition("\n")[0]
        raise BuildError(f"the compiler refuses the CPU flags: {said}", command=shlex.join(command))
    defined = {words[1] for line in done.stdout.splitlines() if len(words := line.split()) > 1}
    return tuple(sorted({feature for macro, feature in MACROS.items() if macro in defined}))


def check_cxx20(compiler: Compiler) -> str | None:
    """Compile a C++20 program; return what the compiler says against it, None when it works."""
    return _try(compiler, _CXX20_PROGRAM, ("-std=c++20", "-fsyntax-only"))


def check_openmp(compiler: Compiler) -> str | None:
    """Compile and link an OpenMP program; return what fails, None when it works."""
    return _try(compiler, _OPENMP_PROGRAM, ("-std=c++20", "-fopenmp", "-o", os.devnull))


def _try(compiler: Compiler, program: str, flags: tuple[str, ...]) -> str | None:
    command = [*compiler.command, "-x", "c++", "-", *flags]
    done = subprocess.run(command, input=program, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    return next((line for line in done.stderr.splitlines() if "error" in line), "it fails")
