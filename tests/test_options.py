import os
from pathlib import Path

import pytest

from attnlang.options import VARIABLES, CpuTarget, OptionError, options


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for variable in [v for v in os.environ if v.startswith("ATTNLANG_")]:
        monkeypatch.delenv(variable)


def test_defaults(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    found = options()
    assert found.cache_dir == Path("~/.cache/attnlang").expanduser()
    assert found.cpu is CpuTarget.NATIVE
    assert found.jobs >= 1
    assert not found.verbose
    assert found.cxx is None


def test_xdg_is_followed(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert options().cache_dir == tmp_path / "attnlang"


def test_each_variable_is_read(monkeypatch, tmp_path):
    values = {
        "ATTNLANG_CACHE_DIR": str(tmp_path),
        "ATTNLANG_CXX": "clang++",
        "ATTNLANG_JOBS": "3",
        "ATTNLANG_CPU": "x86-64-v3",
        "ATTNLANG_NVCC": "/opt/nvcc",
        "ATTNLANG_EMULATE": "sm80",
        "ATTNLANG_VERBOSE": "1",
    }
    assert set(values) == {v.name for v in VARIABLES}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    found = options()
    assert (found.cache_dir, found.cxx, found.jobs) == (tmp_path, "clang++", 3)
    assert (found.cpu, found.verbose) == (CpuTarget.X86_64_V3, True)
    assert (found.nvcc, found.emulate) == ("/opt/nvcc", "sm80")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ATTNLANG_JOBS", "0"),
        ("ATTNLANG_JOBS", "two"),
        ("ATTNLANG_CPU", "z80"),
        ("ATTNLANG_EMULATE", "sm70"),
        ("ATTNLANG_VERBOSE", "2"),
    ],
)
def test_a_wrong_value_names_its_variable(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match=f"{name}: expected .*, found '{value}'"):
        options()
