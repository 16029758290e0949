"""`attnlang verify` finds a wrong compiler: defects are planted one at a time, and each is caught.

A mutant is a copy of the compiler with one passage replaced, run as a user runs it. It must be
found by numbers (exit code 2 and a call that is WRONG), not by a crash; the reference, by which it
is judged, is never touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from attnlang.cli.commands import run_command

ROOT = Path(__file__).parent.parent
FOLDERS = ("attnlang", "codegen", "runtime", "grammar")
ORACLE = ("attnlang/reference", "attnlang/sema", "attnlang/syntax", "attnlang/cli")
CASES = 6  # random calls at most; a mutant that they miss would be a hole in `verify`


@dataclass(frozen=True)
class Mutant:
    """A defect: in `file`, `old` (which stands there once) becomes `new`; `spec` shows it."""

    name: str
    file: str
    old: str
    new: str
    spec: str


def example(name: str) -> str:
    return (ROOT / "examples" / f"{name}.attn").read_text(encoding="utf-8")


MUTANTS = (
    # the symbolic middle
    Mutant(
        "a comparison loses its equality",
        "attnlang/symbolic/rules/comparisons.py",
        "    (CompareOp.LT, 1): CompareOp.LE,",
        "    (CompareOp.LT, 1): CompareOp.LT,",
        "attention a: mask = kv_idx < q_idx + 1",
    ),
    Mutant(
        "log2(e) is left out of the exponent",
        "attnlang/passes/exponent.py",
        "    return scaled(lower_scale(argument, scale), LOG2E)",
        "    return scaled(lower_scale(argument, scale), 1.0)",
        example("full"),
    ),
    # intervals: which tiles are visited, which are full
    Mutant(
        "a comparison of intervals is too sure that it holds",
        "runtime/include/attnlang/host/interval.h",
        "constexpr Verdict operator<=(Interval a, Interval b) { return verdict(a.hi <= b.lo, ",
        "constexpr Verdict operator<=(Interval a, Interval b) { return verdict(a.lo <= b.lo, ",
        "attention a(doc: int[B, KV]): mask = doc[b, kv_col] % 7 <= doc[b, q_idx] % 7",
    ),
    Mutant(
        "a difference of intervals swaps its bounds",
        "runtime/include/attnlang/host/interval.h",
        "  return detail::fitting(detail::Wide{a.lo} - b.hi, detail::Wide{a.hi} - b.lo);",
        "  return detail::fitting(detail::Wide{a.lo} - b.lo, detail::Wide{a.hi} - b.hi);",
        "attention a: mask = (q_idx - kv_idx) % 200 < 30",
    ),
    Mutant(
        "a remainder over an interval forgets that it wraps",
        "runtime/include/attnlang/host/interval.h",
        "  Interval rest{0, y - 1};",
        "  Interval rest{0, y - 2};",
        "attention a: mask = (q_idx + kv_idx) % 3 != 2",
    ),
    Mutant(
        "an `or` of verdicts is an `and`",
        "runtime/include/attnlang/host/verdict.h",
        "  return verdict(is_full(a) || is_full(b), is_empty(a) && is_empty(b));",
        "  return verdict(is_full(a) || is_full(b), is_empty(a) || is_empty(b));",
        "attention a: mask = (q_idx - kv_idx) % 100 < 10 or (q_idx + kv_idx) % 90 < 20",
    ),
    # ranges: the mask solved for the keys of a block of rows
    Mutant(
        "a strict comparison is solved one short",
        "attnlang/symbolic/solve_ints.py",
        "return self.half(Side.MOST, left, plus(right, -1))",
        "return self.half(Side.MOST, left, plus(right, -2))",
        "attention a(w: int = 66): mask = q_idx - kv_idx < w and kv_idx <= q_idx",
    ),
    Mutant(
        "a comparison is solved one too far",
        "attnlang/symbolic/solve_ints.py",
        "return self.half(Side.MOST, left, right)",
        "return self.half(Side.MOST, left, plus(right, 1))",
        "attention a: mask = kv_idx <= q_idx",
    ),
    Mutant(
        "the end of a quotient's last step is lost",
        "attnlang/symbolic/solve_ints.py",
        "binary(BinaryOp.ADD, first, plus(n, -1), span)",
        "first",
        "attention a(n: int = 100): mask = kv_idx // 50 <= q_idx // 50",
    ),
    Mutant(
        "two ranges meet at the later end",
        "runtime/include/attnlang/host/range_set.h",
        "x->end < y->end ? x->end : y->end);",
        "x->end < y->end ? y->end : x->end);",
        "attention a: mask = kv_idx <= q_idx and q_idx - kv_idx < 65",
    ),
    Mutant(
        "a tile that a full range fills in part counts as full",
        "codegen/kernels/cpu_tiles.h",
        "end == k1 ? k1 : end / tile * tile};",
        "std::min((end + tile - 1) / tile * tile, k1)};",
        "attention a: mask = kv_idx < q_idx // 3",
    ),
    Mutant(
        "a tile that a range touches with its last keys is skipped",
        "codegen/kernels/cpu_tiles.h",
        "return {begin / tile * tile, std::min((end + tile - 1) / tile * tile, k1)};",
        "return {begin / tile * tile, std::max(end / tile * tile, begin / tile * tile)};",
        example("causal"),
    ),
    # what tensors hold in a tile
    Mutant(
        "documents are never found to meet",
        "codegen/kernels/cpu_lines.h",
        "  if (!sets_meet(a, b)) return false;",
        "  if (sets_meet(a, b)) return false;",
        "attention a(doc: int[B, KV]): mask = doc[b, kv_col] % 5 == doc[b, q_idx] % 5",
    ),
    # shifts, factors, dropout
    Mutant(
        "lse forgets the row's shift",
        "codegen/kernels/cpu_forward.h",
        "kLn2 * (top + log2(sum) + shift)",
        "kLn2 * (top + log2(sum))",
        example("forgetting"),
    ),
    Mutant(
        "a sink is compared with scores that a shift has left",
        "codegen/kernels/cpu_forward.h",
        "      const F sink = Variant::sink(request, Variant::row(request, rows)) - shift;",
        "      const F sink = Variant::sink(request, Variant::row(request, rows));",
        "attention a(c: float[B, HQ, Q]): score = score + c[b, h, q_row] "
        "weights = softmax(score, sink=0.5)",
    ),
    Mutant(
        "what leaves the exponent comes back with the other sign",
        "attnlang/symbolic/shift.py",
        "                _Term(t.negative, binary(BinaryOp.SUB, t.body, _at_anchor(t.body), span))",
        "                _Term(t.negative, binary(BinaryOp.SUB, _at_anchor(t.body), t.body, span))",
        example("alibi"),
    ),
    Mutant(
        "a power becomes an exponential of another base",
        "attnlang/passes/powers.py",
        "    log = Call(Function.LOG2, (base,), FLOAT, span=span)",
        "    log = Call(Function.LOG, (base,), FLOAT, span=span)",
        "attention a(gamma: float = 0.9): weights = score * gamma ** abs(q_idx - kv_idx)",
    ),
    Mutant(
        "dropout counts queries for keys",
        "runtime/include/attnlang/cpu/philox.h",
        "philox((U)kv_idx, (U)q_idx, ",
        "philox((U)q_idx, (U)kv_idx, ",
        "attention a(p: float = 0.3): weights = softmax(score) * dropout(p)",
    ),
    Mutant(
        "what dropout keeps is not scaled up",
        "runtime/include/attnlang/cpu/philox.h",
        ".kept = 1 / (1 - p)};",
        ".kept = 1};",
        "attention a(p: float = 0.3): weights = sigmoid(score) * dropout(p)",
    ),
    Mutant(
        "a factor is counted in the softmax's own sum",
        "codegen/kernels/cpu_decode.h",
        "      sum += weight;\n      if constexpr (Variant::kFactor) {\n",
        "      sum += weight;\n      if constexpr (Variant::kFactor) {\n"
        "        sum += weight * load_f(factors + j) - weight;\n",
        "attention a: weights = softmax(score) * float(1 + kv_idx % 3)",
    ),
    # transforms
    Mutant(
        "rotary frequencies fall half as fast",
        "runtime/include/attnlang/cpu/vectors.h",
        "-static_cast<double>(t) / kPairs)",
        "-static_cast<double>(t) / (2 * kPairs))",
        "attention a: q = rope(q, q_idx) k = rope(k, kv_idx)",
    ),
    Mutant(
        "a pair turns on one side alone",
        "runtime/include/attnlang/cpu/vectors.h",
        "    out[i] = a * cosine[t] - b * sine[t];",
        "    out[i] = a * cosine[t];",
        "attention a: q = rope(q, q_idx, interleaved=true) k = rope(k, kv_idx, interleaved=true)",
    ),
    # the rewrites
    Mutant(
        "a quotient of exponentials becomes a sum",
        "attnlang/symbolic/rules/exponentials.py",
        "            inner = BinaryOp.ADD if op == BinaryOp.MUL else BinaryOp.SUB",
        "            inner = BinaryOp.ADD",
        "attention a: weights = exp(score) / exp(float(kv_idx % 4))",
    ),
    # the kernels
    Mutant(
        "the last keys of a tile are dropped",
        "codegen/kernels/cpu_tiles.h",
        "static_cast<int>(std::min(tile, b - k))",
        "static_cast<int>(std::min(tile, (b - k) / 2 * 2))",
        example("full"),
    ),
    Mutant(
        "sums are not rescaled when the maximum rises",
        "codegen/kernels/cpu_strips.h",
        "exp2_below_one(old - finite_reference(top[v])));",
        "splat_f(1.0f));",
        "attention a: score = score * 8",
    ),
    Mutant(
        "the sink is added in another frame than the sums",
        "codegen/kernels/cpu_forward.h",
        "exp2(sink - base)",
        "exp2(sink)",
        example("sink"),
    ),
    Mutant(
        "a sink is left out while decoding",
        "codegen/kernels/cpu_decode.h",
        "factor / (sum * factor + exp2(sink - base))",
        "factor / (sum * factor)",
        "attention a(sink: float[HQ]): weights = softmax(score, sink=sink[h] + 1)",
    ),
    Mutant(
        "lse stays in base 2",
        "codegen/kernels/cpu_forward.h",
        "kLn2 * (top + log2(sum) + shift)",
        "(top + log2(sum) + shift)",
        example("full"),
    ),
    Mutant(
        "values behind a padding mask are multiplied by zero",
        "codegen/kernels/cpu_problem.h",
        "return std::clamp<int64_t>(call.kv_lens[b], 0, keys);",
        "return std::clamp<int64_t>(call.kv_lens[b] + 1, 0, keys);",
        "attention a: score = score * 0.5",
    ),
    Mutant(
        "query heads are dealt to key heads in turn",
        "codegen/kernels/cpu_forward.h",
        "item.h / problem_.group()",
        "item.h % problem_.kv_heads",
        "attention a: mask = kv_idx <= q_idx + 5",
    ),
    Mutant(
        "positions of columns forget their offset",
        "codegen/module/variant/columns.j2",
        "    column.kv_idx = kv_col + int32_t(r.kv_offset);",
        "    column.kv_idx = kv_col;",
        "attention a: mask = kv_idx % 5 != 0",
    ),
    Mutant(
        "a coefficient of the exponential is a little wrong",
        "runtime/include/attnlang/cpu/math.h",
        "p[i] * f[i] + kTerms[t];",
        "p[i] * f[i] + kTerms[t] * (t == 2 ? 1.02f : 1.0f);",
        "attention a: score = score * 3",
    ),
)


SPECS = {m.spec: m.name for m in MUTANTS}  # each spec once, by a mutant that has it


def plant(mutant: Mutant, folder: Path) -> None:
    """Copy the compiler into `folder`, with the defect."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / mutant.file
    text = path.read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1, f"{mutant.name}: the passage is no longer there, once"
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def verify(folder: Path, spec: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run `attnlang verify` of the compiler in a folder."""
    file = tmp_path / "spec.attn"
    file.write_text(spec, encoding="utf-8")
    command = [sys.executable, "-m", "attnlang.cli", "verify", str(file)]
    path = [str(folder), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return subprocess.run(
        [*command, "--cases", str(CASES), "-x"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"},
    )


def test_there_are_enough_and_the_oracle_is_untouched() -> None:
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 20
    for mutant in MUTANTS:
        assert mutant.old != mutant.new
        assert not mutant.file.startswith(ORACLE)
        assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1, mutant.name


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name.replace(" ", "-"))
def test_a_defect_is_caught(mutant: Mutant, tmp_path: Path) -> None:
    plant(mutant, tmp_path / "compiler")
    done = verify(tmp_path / "compiler", mutant.spec, tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "WRONG" in done.stdout, done.stderr
    assert ", allowed " in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS.values(), ids=lambda name: name.replace(" ", "-"))
def test_the_compiler_without_a_defect_passes_the_same_spec(name: str, tmp_path: Path) -> None:
    (spec,) = (m.spec for m in MUTANTS if m.name == name)
    (tmp_path / "spec.attn").write_text(spec, encoding="utf-8")
    assert run_command(["verify", str(tmp_path), "--cases", "2"]) == 0
