"""A private cache, and a compiler that counts its runs and can be made slow or broken."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from attnlang.jit import build as build_module
from attnlang.jit.toolchain import find_compiler
from attnlang.jit.units import Sources, Target, Unit

_COMPILER = """\
#!/bin/sh
case " $* " in
  *" -c "*)
    echo run >> "$COUNT_FILE"
    if [ -n "$SLOW_SECONDS" ]; then touch "$COUNT_FILE.started"; sleep "$SLOW_SECONDS"; fi
    if [ -n "$COMPILER_SAYS" ]; then echo "$COMPILER_SAYS" >&2; exit 1; fi
    ;;
esac
exec {real} "$@"
"""


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    for variable in [v for v in os.environ if v.startswith("ATTNLANG_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("ATTNLANG_CACHE_DIR", str(folder))
    monkeypatch.setattr(build_module, "_built", {})
    return folder


@dataclass
class CountingCompiler:
    path: Path
    count_file: Path

    @property
    def compilations(self) -> int:
        return len(self.count_file.read_text().splitlines()) if self.count_file.exists() else 0

    @property
    def started(self) -> Path:
        return Path(f"{self.count_file}.started")


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    real = find_compiler().command[0]
    path = tmp_path / "counting_cxx"
    path.write_text(_COMPILER.format(real=real))
    path.chmod(0o755)
    monkeypatch.setenv("ATTNLANG_CXX", str(path))
    monkeypatch.setenv("COUNT_FILE", str(tmp_path / "count"))
    return CountingCompiler(path, tmp_path / "count")


@pytest.fixture
def answer():
    """Make the sources of an object whose `answer()` returns a number."""

    def make(value: int = 42, name: str = "answer", extra: str = "") -> Sources:
        text = f'{extra}\nextern "C" int answer() {{ return {value}; }}\n'
        return Sources(name, Target.CPU, (Unit("unit.cpp", text),), ("answer",))

    return make
