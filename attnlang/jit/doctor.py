"""What the build needs of this machine, checked one by one.

Maps the machine to a tuple of `Check`s. Nothing here raises: what fails is a check that is not ok,
with the words that mend it. torch is found without importing it, and looked into only if it loads.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attnlang.jit import ninja
from attnlang.jit.cache import Store
from attnlang.jit.cpu import this_cpu
from attnlang.jit.errors import BuildError
from attnlang.jit.nvcc import INSTALL_HELP as NVCC_HELP
from attnlang.jit.nvcc import find_nvcc
from attnlang.jit.recipe import torch_install
from attnlang.jit.toolchain import (
    INSTALL_HELP,
    check_cxx20,
    check_openmp,
    cpu_flags,
    find_compiler,
    needed_features,
)
from attnlang.options import OptionError, options


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked. `mend` says what to do where it is not ok."""

    name: str
    ok: bool
    detail: str
    mend: str = ""

    def __str__(self) -> str:
        line = f"{'ok     ' if self.ok else 'problem'} {self.name}: {self.detail}"
        return f"{line}\n        help: {self.mend}" if self.mend else line


class Report(tuple[Check, ...]):
    """All checks, in order."""

    __slots__ = ()

    @property
    def ok(self) -> bool:
        """Whether every check is."""
        return all(check.ok for check in self)

    def __str__(self) -> str:
        return "\n".join(str(check) for check in self)


def report() -> Report:
    """Check everything that building and loading kernels needs."""
    checks: tuple[Callable[[], Check], ...] = (
        _compiler,
        _openmp,
        _ninja,
        _cache_folder,
        _cpu,
        _torch,
        _openmp_runtime,
        _nvcc,
        _gpu,
    )
    try:
        options()
    except OptionError as error:  # the other checks would only repeat it
        return Report([Check("options", False, str(error), "set the variable to one of these")])
    return Report(check() for check in checks)


def _compiler() -> Check:
    try:
        compiler = find_compiler()
    except BuildError as error:
        return Check("C++ compiler", False, error.summary, INSTALL_HELP)
    if trouble := check_cxx20(compiler):
        mend = "use g++ 11 or later, or clang++ 14 or later (ATTNLANG_CXX names it)"
        return Check("C++ compiler", False, f"{compiler} lacks C++20: {trouble}", mend)
    return Check("C++ compiler", True, f"{compiler}, with C++20")


def _openmp() -> Check:
    try:
        compiler = find_compiler()
    except BuildError as error:
        return Check("OpenMP", False, error.summary, INSTALL_HELP)
    if trouble := check_openmp(compiler):
        mend = "use g++, or install libomp: `sudo apt install libomp-dev`"
        return Check("OpenMP", False, trouble, mend)
    return Check("OpenMP", True, "a program compiles and links")


def _ninja() -> Check:
    path = ninja.binary()
    mend = "`pip install --force-reinstall ninja`"
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        return Check("ninja", False, str(error), mend)
    if done.returncode != 0:
        return Check("ninja", False, f"{path} fails", mend)
    return Check("ninja", True, f"{done.stdout.strip()} at {path}")


def _cache_folder() -> Check:
    mend = "set ATTNLANG_CACHE_DIR to a folder that can be written"
    try:
        store = Store(options().cache_dir)
        store.prepare()
    except OSError as error:
        return Check("cache folder", False, f"{error}", mend)
    free = shutil.disk_usage(store.root).free
    detail = f"{store.root}, {store.info().held} ({free / 2**30:.1f} GiB free)"
    roomy = free > 2**27
    return Check("cache folder", roomy, detail, "" if roomy else "free some space, or " + mend)


def _cpu() -> Check:
    cpu = this_cpu()
    detail = f"{cpu.name}, {cpu.vector_path} code"
    try:
        target = options().cpu
        missing = cpu.missing(needed_features(find_compiler(), cpu_flags(target)))
    except BuildError as error:
        return Check("CPU", False, f"{detail}; {error}", "mend the compiler or ATTNLANG_CPU")
    if missing and cpu.features:
        detail += f"; code for {target} needs {', '.join(missing)}, which it lacks"
        return Check("CPU", False, detail, "set ATTNLANG_CPU to native or portable")
    return Check("CPU", True, f"{detail} (ATTNLANG_CPU is {target})")


def _torch() -> Check:
    mend = "`pip install 'torch>=2.11'`"
    try:
        install = torch_install()
        importlib.import_module("torch")
    except (BuildError, ImportError, OSError) as error:
        return Check("torch", False, str(error), mend)
    if not (install.include / "torch/csrc/stable/c/shim.h").is_file():
        return Check("torch", False, f"{install.version} without the stable ABI's headers", mend)
    return Check("torch", True, install.version)


def _openmp_runtime() -> Check:
    """See whether one OpenMP runtime is mapped: two would each start a thread for every CPU."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Check("OpenMP runtime", True, "unknown: this system does not list mapped files")
    names = ("libgomp", "libomp", "libiomp")
    paths = {
        words[5].strip() for line in maps.splitlines() if len(words := line.split(None, 5)) > 5
    }
    found = sorted(path for path in paths if Path(path).name.startswith(names))
    if len(found) > 1:
        mend = "use g++ (ATTNLANG_CXX=g++): torch and the kernels then share libgomp"
        return Check("OpenMP runtime", False, "several are loaded: " + ", ".join(found), mend)
    return Check("OpenMP runtime", True, found[0] if found else "none is loaded yet")


def _nvcc() -> Check:
    try:
        return Check("nvcc", True, str(find_nvcc()))
    except BuildError as error:
        if not _gpus() and options().nvcc is None:
            return Check("nvcc", True, f"{error.summary}; CPU kernels need none")
        return Check("nvcc", False, error.summary, NVCC_HELP)


def _gpu() -> Check:
    found = _gpus()
    detail = f"{len(found)} NVIDIA device(s)" if found else "none (CPU kernels do not need one)"
    return Check("GPU", True, detail)


def _gpus() -> list[Path]:
    return sorted(Path("/dev").glob("nvidia[0-9]*"))
