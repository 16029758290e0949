"""Generated GPU units under nvcc: what ptxas says of them, and the instructions that they hold.

The disassembly needs cuobjdump and nvdisasm (`pip install attnlang[dev]` brings both).
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from device_harness import tool
from support import EXAMPLES

import attnlang
from attnlang.compiler import kernel_sources, lower, plan
from attnlang.jit.errors import BuildError
from attnlang.jit.nvcc import FLAGS, arch_flags, find_nvcc
from attnlang.jit.recipe import include_roots
from attnlang.jit.units import Target
from attnlang.plan.kernel_key import KernelKey
from attnlang.plan.plan import tensor_params


@cache
def _has_nvcc() -> bool:
    try:
        find_nvcc()
    except BuildError:
        return False
    return True


pytestmark = pytest.mark.skipif(not _has_nvcc(), reason="no nvcc")

_NAMES = ("gemma2_local", "rope", "document", "relu_squared", "dropout", "mla_absorbed")
# What does not fit the register file yet: main loops that keep some values in local memory.
_SPILLS = {
    ("gemma2_local", Target.SM90): "what an item begins with, beside two ways to cap a score",
    ("document", Target.SM90): "lines of the mask beside the accumulators",
    ("dropout", Target.SM90): "the rounds of Philox beside the accumulators",
    ("mla_absorbed", Target.SM90): "256 values of the output a thread",
}


def _marks(name: str, target: Target) -> list[pytest.MarkDecorator]:
    marks = [] if (name, target) == ("rope", Target.SM90) else [pytest.mark.slow]
    reason = _SPILLS.get((name, target))
    if reason is not None:
        marks.append(pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True))
    return marks


_RUNS = [
    pytest.param(name, target, marks=_marks(name, target), id=f"{name}-{target}")
    for name in _NAMES
    for target in (Target.SM80, Target.SM90)
]
_MATRIX = {Target.SM80: ("HMMA", "LDGSTS"), Target.SM90: ("HGMMA", "UTMALDG")}
_CPU_SECONDS = 12.0


def _sources(name: str, target: Target, *, packed: bool = False) -> str:
    variant = attnlang.load(EXAMPLES / f"{name}.attn").ir
    given = frozenset(p.name for p in tensor_params(variant))
    dtypes = tuple(
        {"float": "f32", "int": "i32", "bool": "boolean"}[p.kind.value]
        for p in tensor_params(variant)
    )
    dims = (576, 512) if name == "mla_absorbed" else (128, 128)
    key = KernelKey("bf16", *dims, dtypes, target, packed=packed)
    consts = {
        p.name: p.default
        for p in variant.params
        if getattr(p, "const", False) and getattr(p, "default", None) is not None
    }
    return kernel_sources(plan(lower(variant, consts, given), key), name).units[0].text


@pytest.mark.parametrize(("name", "target"), _RUNS)
def test_a_unit_keeps_to_registers_and_uses_the_matrix_units(
    name: str, target: Target, tmp_path: Path
) -> None:
    _check_unit(name, target, tmp_path)


_SPILLED = pytest.mark.xfail(
    reason="what an item begins with, beside two ways to weigh or the rounds of Philox",
    raises=AssertionError,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param(name, target, marks=_SPILLED)
        if name in ("gemma2_local", "dropout") and target is Target.SM90
        else (name, target)
        for name in ("gemma2_local", "rope", "document", "dropout")
        for target in (Target.SM80, Target.SM90)
    ],
)
def test_so_does_one_of_packed_calls(name: str, target: Target, tmp_path: Path) -> None:
    _check_unit(name, target, tmp_path, packed=True)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_products_of_keys_apart_take_nvcc_seconds(packed: bool, tmp_path: Path) -> None:
    """A thread makes a product for each of its columns: unrolled, those took minutes."""
    spec = "attention apart(w: float[HKV, D]):\n score = score + dot(k, w[h_kv, d])\n"
    variant = attnlang.loads(spec).ir
    key = KernelKey("bf16", 128, 128, ("f32",), Target.SM90, packed=packed)
    planned = plan(lower(variant, {}, frozenset({"w"})), key)
    _compile(kernel_sources(planned, "apart").units[0].text, Target.SM90, tmp_path, most=40)


def _check_unit(name: str, target: Target, tmp_path: Path, *, packed: bool = False) -> None:
    # Packed calls on Hopper are two skeletons in a unit.
    most = 2 * _CPU_SECONDS if packed and target is Target.SM90 else _CPU_SECONDS
    said = _compile(_sources(name, target, packed=packed), target, tmp_path, most=most)
    _check_ptxas(said)
    wide = name == "mla_absorbed"
    matrix = Target.SM80 if wide else target
    _check_instructions(tmp_path / "kernel.o", _MATRIX[matrix])


def _compile(text: str, target: Target, tmp_path: Path, *, most: float = _CPU_SECONDS) -> str:
    """Compile a unit, without a warning and in so many CPU seconds; return what ptxas says."""
    (tmp_path / "kernel.cu").write_text(text)
    nvcc = find_nvcc()
    includes = [f"-I{root}" for root in include_roots()]
    command = [*nvcc.command, *FLAGS, *arch_flags(target), *includes, "-Xptxas", "-v"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, "-c", "kernel.cu", "-o", "kernel.o"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "warning" not in done.stdout + done.stderr, (done.stdout + done.stderr)[-4000:]
    assert after.ru_utime - before.ru_utime < most
    return done.stdout + done.stderr


def _check_ptxas(said: str) -> None:
    """See that the kernels with a main loop fit the register file.

    What is spilled is looked for in the loops below: the ranges of a tile's keys, which one warp
    works out before them, are kept in local memory.
    """
    found = re.findall(r"Compiling entry function '(\w+)'.*?Used (\d+) registers", said, re.DOTALL)
    names = re.compile("sm80_kernel|forward|packed_kernel")
    loops = {entry: int(n) for entry, n in found if names.search(entry)}
    assert loops, said[-2000:]
    assert max(loops.values()) <= 255


def _check_instructions(unit: Path, wanted: tuple[str, ...]) -> None:
    """See that the matrix units are fed, and that no main loop goes through local memory."""
    cuobjdump, nvdisasm = tool("cuobjdump"), tool("nvdisasm")
    if cuobjdump is None or nvdisasm is None:
        pytest.skip("no cuobjdump and nvdisasm: the disassembly is not looked at")
    done = subprocess.run(
        [cuobjdump, "-sass", str(unit)],
        capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": f"{Path(nvdisasm).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    functions = done.stdout.split("Function :")[1:]
    assert all(any(word in text for text in functions) for word in wanted)
    for text in functions:
        lines = text.splitlines()
        products = [i for i, line in enumerate(lines) if re.search(r"\bH?G?MMA\b|HMMA|HGMMA", line)]
        if products:
            loop = lines[products[0] : products[-1]]
            assert not [x for x in loop if re.search(r"\b(LDL|STL)\b", x)], lines[0]


@pytest.mark.slow
def test_an_object_ahead_of_time_loads_where_no_gpu_is(tmp_path: Path) -> None:
    """The op is there, its kernel is the GPU's alone, and a call on the CPU says so."""
    spec = tmp_path / "near.attn"
    spec.write_text("attention near: mask = kv_idx <= q_idx\n")
    attnlang_cli = [sys.executable, "-m", "attnlang.cli", "build", str(spec)]
    options = ["--target", "sm80", "--head-dim", "64", "-o", str(tmp_path)]
    done = subprocess.run([*attnlang_cli, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "compute capability 8.0 and later" in done.stdout
    name = done.stdout.split("torch.ops.attnlang.")[1].split()[0]
    torch.ops.load_library(str(tmp_path / "near.so"))
    q = torch.zeros(1, 1, 4, 64, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="no kernel for these dtypes and head dims"):
        getattr(torch.ops.attnlang, name)(q, q, q)
    rows, indptr = q[0].transpose(0, 1), torch.tensor([0, 4])
    with pytest.raises(RuntimeError, match="head dims in packed calls"):
        getattr(torch.ops.attnlang, f"{name}_packed")(
            rows, rows, rows, q_indptr=indptr, kv_indptr=indptr
        )
