"""Builds `.cu` units over the device headers: by g++ as the emulator, by nvcc for a GPU.

Needs no more than the standard library, so that it works on a bare machine with a GPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EMULATOR = [
    "g++", "-x", "c++", "-std=c++20", "-O2", "-march=native", "-pthread", "-fvisibility=hidden",
    "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-shared", "-fPIC",
]  # fmt: skip
NVCC_SM80 = [
    "nvcc", "-std=c++20", "-O3", "--expt-relaxed-constexpr",
    "-gencode=arch=compute_80,code=[sm_80,compute_80]",
    "-Xcompiler=-fPIC,-Wall,-Wextra", "-shared",
]  # fmt: skip
NVCC_SM90 = [
    "nvcc", "-std=c++20", "-O3", "--expt-relaxed-constexpr",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-Xcompiler=-fPIC,-Wall,-Wextra", "-shared",
]  # fmt: skip


def tool(name: str) -> str | None:
    """Return where a program of the toolkit is: on the path, or in a wheel of NVIDIA's."""
    if found := shutil.which(name):
        return found
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in Path(folder).glob(f"*/bin/{name}"):
            return str(path)
    return None


def functions_of(unit: Path, name: str) -> list[str]:
    """Return the disassembly of each kernel in a cubin whose mangled name holds `name`."""
    nvdisasm = tool("nvdisasm")
    assert nvdisasm is not None
    command = [nvdisasm, "-c", str(unit)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [f for f in shown.split("\n.text.")[1:] if name in f.partition(":")[0]]


def includes(command: list[str], root: Path = ROOT) -> list[Path]:
    """Return the include path of a compiler: the emulator's twins come first."""
    twins = [root / "runtime" / "emulator"] if command[0] == "g++" else []
    return [*twins, root / "runtime" / "include", root / "codegen"]


def compile_unit(
    command: list[str], text: str, *flags: str, root: Path = ROOT
) -> tuple[Path | None, str]:
    """Compile a unit into a library, once for the same text, flags and headers.

    Returns its path, or None where the compiler refused, and what the compiler said.
    """
    folders = includes(command, root)
    key = hashlib.sha256("\0".join([text, *command, *flags]).encode())
    for folder in folders:
        for header in sorted(p for p in folder.rglob("*") if p.suffix in (".h", ".cuh")):
            key.update(header.read_bytes())
    store = Path(tempfile.gettempdir()) / f"attnlang-device-tests-{os.getuid()}"
    store.mkdir(mode=0o700, exist_ok=True)
    target = store / f"{key.hexdigest()[:24]}.so"
    if target.exists():
        return target, ""
    with tempfile.TemporaryDirectory(dir=store) as scratch:
        source, built = Path(scratch, "unit.cu"), Path(scratch, "unit.so")
        source.write_text(text)
        paths = [f"-I{folder}" for folder in folders]
        result = subprocess.run(
            [*command, *flags, *paths, str(source), "-o", str(built)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        said = result.stdout + result.stderr
        if result.returncode != 0:
            return None, said
        if not said.strip():
            built.rename(target)
            return target, ""
        kept = store / f"{key.hexdigest()[:24]}-with-warnings.so"
        built.rename(kept)
        return kept, said


def build(command: list[str], text: str, *flags: str, root: Path = ROOT) -> ctypes.CDLL:
    """Compile and load a unit that must compile without a warning."""
    path, said = compile_unit(command, text, *flags, root=root)
    assert path is not None, said[-6000:]
    assert not said.strip(), said[-6000:]
    return ctypes.CDLL(str(path))


def has_nvcc() -> bool:
    """Tell whether nvcc is on the path."""
    return shutil.which("nvcc") is not None
