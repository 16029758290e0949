"""Finding nvcc, and what a GPU unit's key and commands hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnlang.jit import nvcc
from attnlang.jit.errors import BuildError
from attnlang.jit.recipe import Recipe, make_recipe
from attnlang.jit.units import Sources, Target, Unit

UNIT = Unit("kernel.cu", 'extern "C" int answer() { return 42; }\n')


def fake_nvcc(path: Path, version: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!/bin/sh\necho 'Cuda compilation tools, {version}'\necho 'Build {version}'\n"
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Hide whatever nvcc this machine has; the C++ compiler stays."""
    for variable in ("ATTNLANG_NVCC", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(nvcc, "_candidates", lambda: iter([str(tmp_path / "no" / "nvcc")]))
    return monkeypatch


def recipe(target: Target = Target.SM90, *, emulated: bool = False) -> Recipe:
    return make_recipe(Sources("unit", target, (UNIT,), ("answer",), emulated=emulated))


@pytest.mark.usefixtures("bare")
def test_without_nvcc_the_error_says_how_to_get_it() -> None:
    with pytest.raises(BuildError, match=r"pip install nvidia-cuda-nvcc") as caught:
        recipe()
    assert "ATTNLANG_NVCC" in str(caught.value)
    assert "CPU kernels need none" in str(caught.value)


@pytest.mark.usefixtures("bare")
def test_the_cpu_and_the_emulator_need_none() -> None:
    assert recipe(emulated=True).key.startswith("unit-")
    plain = Unit("kernel.cpp", UNIT.text)
    assert make_recipe(Sources("unit", Target.CPU, (plain,), ())).key.startswith("unit-")


def test_the_option_comes_first_and_may_be_wrong(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = fake_nvcc(tmp_path / "own nvcc", "13.1")
    bare.setenv("ATTNLANG_NVCC", f"'{own}' -t2")
    found = nvcc.find_nvcc()
    assert found.command == (str(own), "-t2")
    assert "13.1" in found.identity
    bare.setenv("ATTNLANG_NVCC", str(tmp_path / "missing"))
    with pytest.raises(BuildError, match="ATTNLANG_NVCC names"):
        nvcc.find_nvcc()


def test_cuda_home_comes_before_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ATTNLANG_NVCC", raising=False)
    home = fake_nvcc(tmp_path / "home" / "bin" / "nvcc", "12.9")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert nvcc.find_nvcc().command == (str(home),)


def test_the_key_knows_compiler_target_and_emulation(
    bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = set()
    for version in ("12.9", "13.0"):
        bare.setenv("ATTNLANG_NVCC", str(fake_nvcc(tmp_path / version, version)))
        for target in (Target.SM80, Target.SM90):
            keys |= {recipe(target).key, recipe(target, emulated=True).key}
    assert len(keys) == 4 + 2  # emulated ones are the same whatever nvcc there is


def test_the_commands(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare.setenv("ATTNLANG_NVCC", str(fake_nvcc(tmp_path / "nvcc", "13.0")))
    compiled, linked = (edge.command for edge in recipe(Target.SM80).edges)
    assert "code=[sm_80,compute_80]" in compiled
    assert "--version-script=exports.map" in linked
    emulated = recipe(Target.SM90, emulated=True).edges[0].command
    assert " -x c++ " in emulated
    assert emulated.index("runtime/emulator") < emulated.index("runtime/include")
    assert recipe(Target.SM90).needed_features == ()
