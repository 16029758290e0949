"""From `Sources` to the exact commands that build them, and the key under which they are kept.

Pure but for reading headers and finding the tools. Invariant: equal keys give equal artifacts, on
every machine that shares a cache; the key holds no absolute path of ours.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from attnlang.assets import asset
from attnlang.jit import ninja, nvcc
from attnlang.jit.closure import include_closure
from attnlang.jit.errors import BuildError
from attnlang.jit.toolchain import (
    Compiler,
    cpu_flags,
    cpu_identity,
    find_compiler,
    needed_features,
)
from attnlang.jit.units import Sources, Unit
from attnlang.options import CpuTarget, options

FORMAT = 1  # of the cache's entries; another number is another key
TORCH_TARGET = "0x020b000000000000"  # torch 2.11, the oldest whose stable ABI the binding needs
EXPORTS = "exports.map"

_COMPILE_FLAGS = (
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-pipe",
    "-fopenmp",
    "-fno-semantic-interposition",
    "-fvisibility-inlines-hidden",
)
_LINK_FLAGS = ("-shared", "-fopenmp", "-Wl,-z,defs", "-Wl,--as-needed")
_EMULATOR_FLAGS = ("-x", "c++", "-O1", "-pthread")


@dataclass(frozen=True, slots=True)
class TorchInstall:
    """Where torch's headers and libraries lie, found without importing it."""

    include: Path
    lib: Path
    version: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to build one shared object: its key, its files and its steps."""

    key: str  # also the name of the cache's entry
    library: str
    sources: Sources
    edges: tuple[ninja.Edge, ...]
    compiler: Compiler  # of the kernels
    cpu: CpuTarget

    @property
    def needed_features(self) -> tuple[str, ...]:
        """The CPU features that the built code may use."""
        if not _uses_cpu(self.sources):
            return ()
        return needed_features(self.compiler, cpu_flags(self.cpu))  # no GPU's: the CPU's compiler

    def files(self) -> dict[str, str]:
        """Return the name and text of each file that the build starts from."""
        files = {unit.name: unit.text for unit in self.sources.units}
        files[EXPORTS] = _export_map(self.sources.entry_points)
        files[ninja.FILE] = ninja.ninja_file(self.edges)
        return files


@dataclass(frozen=True, slots=True)
class _Tools:
    compiler: Compiler
    nvcc: Compiler | None  # where units are for a GPU
    cpu: CpuTarget
    torch: TorchInstall | None  # where a unit calls it

    @property
    def host_flags(self) -> tuple[str, ...]:
        """The host compiler for nvcc; one that is named with arguments is left for it to find."""
        command = self.compiler.command
        return ("-ccbin", command[0]) if len(command) == 1 else ()


def include_roots() -> tuple[Path, ...]:
    """Return the folders in which units look for our headers."""
    return (asset("runtime", "include"), asset("codegen"))


def make_recipe(sources: Sources, cpu: CpuTarget | None = None) -> Recipe:
    """Choose the tools and flags for the sources. Raises BuildError when a tool is missing."""
    tools = _Tools(
        find_compiler(),
        nvcc.find_nvcc() if sources.on_gpu else None,
        cpu or options().cpu,
        torch_install() if any(unit.torch for unit in sources.units) else None,
    )
    stem = _file_stem(sources.name)
    key = f"{stem}-{_digest(sources, tools)}"
    library = f"{stem}.so"
    edges = _edges(sources, library, tools)
    return Recipe(key, library, sources, edges, tools.nvcc or tools.compiler, tools.cpu)


def torch_install() -> TorchInstall:
    """Find torch's headers. Raises BuildError when there is no torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BuildError("torch is not installed", help="`pip install torch`")
    folder = Path(spec.origin).parent
    text = (folder / "version.py").read_text(encoding="utf-8")
    found = re.search(r"__version__ = ['\"]([^'\"]+)", text)
    return TorchInstall(folder / "include", folder / "lib", found[1] if found else "unknown")


def _file_stem(name: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9_]", "_", name)[:80]
    return stem or "unit"


def _roots(sources: Sources) -> tuple[Path, ...]:
    """Return the folders of headers; the emulator's twins stand before what they replace."""
    return ((asset("runtime", "emulator"),) if sources.emulated else ()) + include_roots()


def _digest(sources: Sources, tools: _Tools) -> str:
    material = [
        FORMAT,
        sources.name,
        str(sources.target),
        sources.emulated,
        [(u.name, u.text, u.torch, u.portable, u.flags) for u in sources.units],
        sources.entry_points,
        include_closure((unit.text for unit in sources.units), _roots(sources)),
        [_COMPILE_FLAGS, _LINK_FLAGS, _EMULATOR_FLAGS, TORCH_TARGET, tools.compiler.command[1:]],
        tools.compiler.identity,
        [nvcc.FLAGS, tools.nvcc.command[1:], tools.nvcc.identity] if tools.nvcc else None,
        cpu_identity(tools.cpu) if _uses_cpu(sources) else None,
        tools.torch and tools.torch.version,
    ]
    return hashlib.sha256(json.dumps(material).encode()).hexdigest()[:20]


def _edges(sources: Sources, library: str, tools: _Tools) -> tuple[ninja.Edge, ...]:
    edges: list[ninja.Edge] = []
    objects: list[str] = []
    for unit in sources.units:
        output = f"{unit.name}.o"
        words = [*_compile(unit, sources, tools), "-c", unit.name, "-o", output]
        edges.append(ninja.Edge(output, (unit.name,), shlex.join(words), f"compile {unit.name}"))
        objects.append(output)
    words = [*_link(objects, tools)]
    if tools.torch:
        words += [f"-L{tools.torch.lib}", "-ltorch_cpu"]
    words += ["-o", library]
    edges.append(ninja.Edge(library, (*objects, EXPORTS), shlex.join(words), f"link {library}"))
    return tuple(edges)


def _compile(unit: Unit, sources: Sources, tools: _Tools) -> list[str]:
    """Return the command that compiles a unit, but for its input and output."""
    includes = [f"-I{root}" for root in _roots(sources)]
    if unit.name.endswith(".cu") and tools.nvcc:
        architecture = nvcc.arch_flags(sources.target)
        words = [*tools.nvcc.command, *tools.host_flags, *nvcc.FLAGS, *architecture]
        return [*words, *unit.flags, *includes]
    if unit.torch and tools.torch:
        special = _torch_flags(tools.torch)
    elif sources.on_gpu or unit.portable:
        special = ()
    else:
        special = cpu_flags(tools.cpu) + (_EMULATOR_FLAGS if sources.emulated else ())
    return [*tools.compiler.command, *_COMPILE_FLAGS, *special, *unit.flags, *includes]


def _link(objects: list[str], tools: _Tools) -> list[str]:
    if tools.nvcc is None:
        script = f"-Wl,--version-script={EXPORTS}"
        return [*tools.compiler.command, *_LINK_FLAGS, *objects, script]
    linker = ["-Xlinker", f"--as-needed,-z,defs,--version-script={EXPORTS}"]
    return [*tools.nvcc.command, *tools.host_flags, "-shared", *linker, *objects]


def _uses_cpu(sources: Sources) -> bool:
    """Whether a unit is compiled for one kind of CPU.

    Units that call torch are not: they compute nothing, and with vector code enabled torch's
    headers read all of the intrinsics, which doubles the time of the build.
    """
    return not sources.on_gpu and not all(unit.torch or unit.portable for unit in sources.units)


def _torch_flags(torch: TorchInstall) -> tuple[str, ...]:
    return (f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", "-isystem", str(torch.include))


def _export_map(entry_points: tuple[str, ...]) -> str:
    """Export the entry points alone: everything else is private to its object.

    Objects of one process hold other versions of the same inline functions and variables, which the
    loader must not merge.
    """
    exported = f"  global: {'; '.join(entry_points)};\n" if entry_points else ""
    return f"{{\n{exported}  local: *;\n}};\n"
