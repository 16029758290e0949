"""nvcc: finding it, telling it from others, and the flags for a GPU.

Maps the options, CUDA_HOME, PATH and what pip installed to a `Compiler`. Only units for a GPU need
one: CPU kernels and the emulator do without.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from attnlang.jit.errors import BuildError
from attnlang.jit.toolchain import Compiler, own_file
from attnlang.jit.units import Target
from attnlang.options import options

INSTALL_HELP = (
    "install the CUDA toolkit 12.4 or later, or from PyPI "
    "`pip install nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-runtime "
    "nvidia-cuda-cccl`; or name an nvcc in ATTNLANG_NVCC. CPU kernels need none"
)

# Approximate divisions and roots are within 2 ulp; NaN, inf and denormals keep their meaning.
FLAGS = (
    "-std=c++20",
    "-O3",
    "--expt-relaxed-constexpr",
    "-prec-div=false",
    "-prec-sqrt=false",
    "-diag-suppress",
    "177",
    "-Xcompiler",
    "-fPIC,-fvisibility-inlines-hidden",
)
_ARCHITECTURES = {
    # With PTX, which later GPUs compile for themselves.
    Target.SM80: ("-gencode=arch=compute_80,code=[sm_80,compute_80]",),
    Target.SM90: ("-gencode=arch=compute_90a,code=sm_90a",),
}


def arch_flags(target: Target) -> tuple[str, ...]:
    """Return the flags that make code for a GPU."""
    return _ARCHITECTURES[target]


def find_nvcc() -> Compiler:
    """Return nvcc: ATTNLANG_NVCC, CUDA_HOME, PATH, or pip's. Raises BuildError."""
    if text := options().nvcc:
        words = tuple(shlex.split(text))
        path = shutil.which(words[0])
        if path is None:
            raise BuildError(
                f"ATTNLANG_NVCC names `{words[0]}`, which is not there", help=INSTALL_HELP
            )
        return _identify((path, *words[1:]))
    for candidate in _candidates():
        if path := shutil.which(candidate):
            return _identify((path,))
    raise BuildError("no CUDA compiler (nvcc) found, which GPU kernels need", help=INSTALL_HELP)


def _candidates() -> Iterator[str]:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(variable):
            yield str(Path(home) / "bin" / "nvcc")
    yield "nvcc"
    yield "/usr/local/cuda/bin/nvcc"
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        yield from (str(path) for path in sorted(Path(folder).glob("cu*/bin/nvcc"), reverse=True))


@cache
def _identify(command: tuple[str, ...]) -> Compiler:
    shown = shlex.join((*command, "--version"))
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"nvcc does not start: {error}", command=shown) from error
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 or not lines:
        said = done.stderr.strip().partition("\n")[0]
        raise BuildError(f"nvcc does not tell its version: {said}", command=shown)
    # "Cuda compilation tools, release ..." and the build: the last two lines.
    return Compiler(command, f"{' '.join(lines[-2:])} {own_file(command)}", is_clang=False)
