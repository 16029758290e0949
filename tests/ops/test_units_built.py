"""Which units a call builds: an op's own, the binding once a cache, a kernel where it is needed."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from processes import environment

import attnlang
from attnlang.jit.errors import BuildError
from attnlang.ops import binding, specialised

SPEC = "attention band:\n    mask = kv_idx <= q_idx + {number}\n"


@pytest.fixture
def heard(tmp_path, monkeypatch):
    """What is built, in an empty cache."""
    monkeypatch.setenv("ATTNLANG_CACHE_DIR", str(tmp_path))
    lines = []
    token = binding.progress.set(lines.append)
    yield lines
    binding.progress.reset(token)


def compiled(heard):
    names = [line.rpartition(" ")[2] for line in heard if "] compile " in line]
    heard.clear()
    return names


def variant(number):
    return attnlang.loads(SPEC.format(number=number))


def rows(n, heads=2, d=16):
    return torch.randn(n, heads, d, generator=torch.Generator().manual_seed(n))


def test_packed_calls_alone_build_the_packed_kernel(heard):
    band = variant(1)
    dense = [rows(5).transpose(0, 1)[None] for _ in range(3)]
    band(*dense)
    assert set(compiled(heard)) - {"binding.cpp"} == {"op.cpp", "kernel.cpp"}
    indptr = torch.tensor([0, 2, 5])
    packed = [rows(5) for _ in range(3)]
    out = band.ragged(*packed, indptr, indptr)
    assert compiled(heard) == ["packed.cpp"]
    band(*dense), band.ragged(*packed, indptr, indptr)
    assert compiled(heard) == []
    alone = band.reference(*(x[2:].transpose(0, 1)[None].double() for x in packed))
    torch.testing.assert_close(out[2:].double(), alone[0].transpose(0, 1), atol=1e-5, rtol=0)


def test_packed_calls_build_no_dense_kernel(heard):
    band = variant(2)
    indptr = torch.tensor([0, 3])
    band.ragged(rows(3), rows(3), rows(3), indptr, indptr)
    assert set(compiled(heard)) - {"binding.cpp"} == {"op.cpp", "packed.cpp"}


def test_a_bare_packed_op_builds_its_kernel(heard):
    name = variant(3).op._schema.name.rpartition("::")[2]
    packed = getattr(torch.ops.attnlang, f"{name}_packed")
    compiled(heard)
    indptr = torch.tensor([0, 3])
    packed(rows(3), rows(3), rows(3), q_indptr=indptr, kv_indptr=indptr)
    assert compiled(heard) == ["packed.cpp"]


def test_a_failed_build_of_the_packed_kernel_is_a_build_error(heard, monkeypatch):
    band = variant(4)
    band(*(rows(5).transpose(0, 1)[None] for _ in range(3)))
    real = specialised.build

    def broken(sources, **options):
        (unit,) = sources.units
        assert unit.name == "packed.cpp"
        unit = replace(unit, text=unit.text + "#error on purpose\n")
        return real(replace(sources, units=(unit,)), **options)

    monkeypatch.setattr(specialised, "build", broken)
    indptr = torch.tensor([0, 3])
    with pytest.raises(BuildError, match="on purpose"):
        band.ragged(rows(3), rows(3), rows(3), indptr, indptr)
    monkeypatch.undo()
    band.ragged(rows(3), rows(3), rows(3), indptr, indptr)


OPS = """
import sys
import attnlang
from attnlang.ops.binding import progress
lines = []
progress.set(lines.append)
for text in sys.argv[1:]:
    attnlang.loads(text).op
print(*(line.rpartition(" ")[2] for line in lines if "] compile " in line))
"""


def test_the_binding_is_built_once_a_cache(tmp_path):
    def units(*numbers):
        command = [sys.executable, "-c", OPS, *(SPEC.format(number=n) for n in numbers)]
        env = environment(ATTNLANG_CACHE_DIR=str(tmp_path))
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
        return done.stdout.split()

    assert units(5, 6) == ["op.cpp", "binding.cpp", "op.cpp"]
    assert units(6, 7) == ["op.cpp"]
