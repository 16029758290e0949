import pytest

from attnlang.jit.cpu import parse_cpuinfo, this_cpu
from attnlang.jit.recipe import make_recipe
from attnlang.jit.toolchain import (
    check_cxx20,
    check_openmp,
    cpu_flags,
    cpu_identity,
    find_compiler,
    needed_features,
)
from attnlang.options import CpuTarget

CPUINFO = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Some CPU
flags\t\t: fpu avx avx2 fma f16c avx512f avx512bw avx512dq avx512vl ibrs

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""


def test_cpuinfo_is_read():
    cpu = parse_cpuinfo(CPUINFO, "x86_64")
    assert cpu.name == "Some CPU"
    assert "avx512bw" in cpu.features
    assert "ibrs" not in cpu.features  # comes and goes with the kernel's version
    assert cpu.vector_path == "AVX-512"
    assert cpu.missing(("avx2", "amx_tile")) == ("amx_tile",)


@pytest.mark.parametrize(
    ("flags", "path"), [("avx avx2", "portable"), ("avx2 fma f16c", "AVX2"), ("", "portable")]
)
def test_the_vector_path_follows_the_features(flags, path):
    assert parse_cpuinfo(f"flags : {flags}\n", "x86_64").vector_path == path


def test_what_native_code_needs_is_here():
    needed = needed_features(find_compiler(), cpu_flags(CpuTarget.NATIVE))
    assert this_cpu().missing(needed) == ()


@pytest.mark.skipif(this_cpu().machine != "x86_64", reason="the levels are x86-64's")
def test_the_levels_need_their_features():
    compiler = find_compiler()
    assert {"avx2", "fma", "f16c"} <= set(needed_features(compiler, ("-march=x86-64-v3",)))
    assert "avx512vl" in needed_features(compiler, ("-march=x86-64-v4",))
    assert "avx" not in needed_features(compiler, ())


def test_a_fixed_target_does_not_depend_on_this_cpu():
    assert cpu_identity(CpuTarget.X86_64_V3).endswith("x86-64-v3")
    assert this_cpu().identity not in cpu_identity(CpuTarget.PORTABLE)


def test_the_target_is_part_of_the_key(answer, monkeypatch):
    keys = set()
    for target in CpuTarget:
        monkeypatch.setenv("ATTNLANG_CPU", target)
        keys.add(make_recipe(answer()).key)
    assert len(keys) == len(CpuTarget)


def test_this_compiler_has_what_we_need():
    assert check_cxx20(find_compiler()) is None
    assert check_openmp(find_compiler()) is None


def test_arguments_of_the_compiler_are_kept(monkeypatch):
    monkeypatch.setenv("ATTNLANG_CXX", f"{find_compiler().command[0]} -DX=1")
    assert find_compiler().command[1:] == ("-DX=1",)


def test_cxx_is_read_too(monkeypatch):
    real = find_compiler().command[0]
    monkeypatch.setenv("CXX", real)
    assert find_compiler().command == (real,)
