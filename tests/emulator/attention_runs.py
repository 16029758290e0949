"""Builds an attention kernel from a tree of headers, and compares causal calls with arithmetic.

The tree may be a copy of the project's with a mistake in it. What that does to a process is not to
be known beforehand, so `judge` runs in one of its own: this file as a script.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runtime"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels_cuda"))

import torch
from cpu_harness import Call, per_request
from device_harness import EMULATOR, ROOT, compile_unit
from packed_call import CPacked

_UNIT = """
#include "kernels/{door}_{header}.cuh"
#include "{variants}.cuh"
using namespace attnlang;
using namespace attnlang::cuda;
struct Tiles {{
  static constexpr int {tiles};
  static constexpr bool kLargeShared = true;
}};
extern "C" __attribute__((visibility("default"))) int attnlang_run(const Call* call, char* error) {{
  return {door}{packed}_run<{functor}, Bf16, {d}, {d}, Tiles{pages}>(*call, error);
}}
extern "C" __attribute__((visibility("default"))) int64_t attnlang_workspace(const Call* call) {{
  return {door}{packed}_workspace<{functor}, Bf16, {d}, {d}, Tiles{pages}>(*call);
}}
extern "C" __attribute__((visibility("default"))) void set_seed(uint64_t seed) {{
  emulator::set_seed(seed);
}}
"""


@dataclass(frozen=True)
class Kernel:
    """What to build: a door of the kernels, a functor of variants.cuh, a shape of tiles."""

    door: str
    d: int
    tiles: str
    functor: str = "Causal"
    packed: bool = False

    def build(self, root: Path = ROOT) -> tuple[Path | None, str]:
        """Compile it from the headers under `root`: the library, and what the compiler said."""
        text = _UNIT.format(
            door=self.door,
            header="packed" if self.packed else "attention",
            variants="packed_variants" if self.packed else "variants",
            packed="_packed" if self.packed else "",
            pages=", Bf16" if self.packed else "",
            functor=f"OfRequests<{self.functor}>" if self.packed else self.functor,
            d=self.d,
            tiles=self.tiles,
        )
        folder = ROOT / "tests" / "kernels_cuda"
        return compile_unit(EMULATOR, text, "-O1", f"-I{folder}", root=root)


@dataclass(frozen=True)
class Shape:
    """A causal call; `odd`: which of q, k and v have strides that no 16-byte copy takes.

    `missing`: how many of the last keys the call says are not there; they hold NaN. `page`: of a
    packed call of equal requests, whose keys lie in pages of so many slots (0: one after another)
    and whose `missing` keys are those of each request's last page.
    """

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    odd: str = ""
    missing: int = 0
    page: int | None = None


def run_causal(library: ctypes.CDLL, d: int, shape: Shape, seed: int) -> str:
    """Run a call on random data. Empty, or what is wrong: a report, or numbers."""
    generator = torch.Generator().manual_seed(seed)
    there = shape.keys - shape.missing

    def draw(name: str, heads: int, rows: int) -> torch.Tensor:
        wide = torch.full((shape.batch, heads, rows, d + (name in shape.odd)), float("nan"))
        wide[..., :d] = torch.randn(shape.batch, heads, rows, d, generator=generator)
        if name != "q":
            wide[:, :, there:] = float("nan")
        return wide.to(torch.bfloat16)[..., :d]

    q = draw("q", shape.heads, shape.queries)
    k, v = (draw(name, shape.kv_heads, shape.keys) for name in "kv")
    out, lse = _attention(q, k[:, :, :there], v[:, :, :there])
    if shape.page is None:
        call, kept = Call(q, k, v, kv_lens=there), ()
    else:
        call, kept = _pack(q, k, v, shape, generator)
    needed = library.attnlang_workspace(ctypes.byref(call.c))
    workspace = torch.full((needed // 4 + 64,), float("nan"))
    call.c.workspace = workspace.data_ptr() + (-workspace.data_ptr() % 256)
    call.c.workspace_bytes = needed
    library.set_seed(seed)
    error = ctypes.create_string_buffer(512)
    if library.attnlang_run(ctypes.byref(call.c), error) != 0:
        return error.value.decode(errors="replace") or "refused without a word"
    del kept
    if shape.page is not None:
        out, lse = (x.transpose(0, 1).flatten(1, 2)[None] for x in (out, lse))
    for name, got, want, bound in (("out", call.out, out, 2e-2), ("lse", call.lse, lse, 1e-3)):
        difference = torch.where(got == want, 0.0, got.double() - want).abs()
        if not bool((difference <= bound).all()):
            return f"{name} is wrong by {difference.max().item():.3g}"
    return ""


def _pack(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, shape: Shape, generator: torch.Generator
) -> tuple[Call, tuple[object, ...]]:
    """Make one packed call of a batch; and what it needs to stay."""
    count, there = shape.batch, shape.keys - shape.missing
    ends = torch.arange(count + 1, dtype=torch.int32)
    starts, lens = ends * shape.queries, torch.full((count,), there, dtype=torch.int32)
    q = q.transpose(0, 1).flatten(1, 2)[None]
    if not shape.page:
        k, v = (x[:, :, :there].transpose(0, 1).flatten(1, 2)[None] for x in (k, v))
        call = Call(q, k, v)
        offsets = ends * there
        packed = CPacked(count, per_request(starts), per_request(offsets))
        kept: tuple[object, ...] = (packed, starts, offsets)
    else:
        pages = shape.keys // shape.page
        numbers = torch.randperm(count * pages, generator=generator).int()
        k, v = (_pages(x, shape.page, numbers) for x in (k, v))
        call = Call(q, k, v, out=torch.empty_like(q), kv_lens=lens)
        first = ends * pages
        tables = map(per_request, (starts, first, numbers))
        begin, indptr, indices = tables
        packed = CPacked(count, begin, per_request(0), indptr, indices, len(numbers), shape.page)
        kept = (packed, starts, lens, numbers, first)
    for name in ("q", "out", "lse") if shape.page else ("q", "k", "v", "out", "lse"):
        getattr(call.c, name).stride[0] = 0
    call.c.packed = ctypes.addressof(packed)
    return call, kept


def _pages(rows: torch.Tensor, page: int, numbers: torch.Tensor) -> torch.Tensor:
    """Put each request's rows into the pages of its numbers, with their strides."""
    _, heads, count, d = rows.shape
    cut = rows.unflatten(2, (count // page, page)).permute(0, 2, 1, 3, 4).flatten(0, 1)
    pool = torch.full((len(numbers), heads, page, rows.stride(2)), torch.nan).to(rows.dtype)
    pool[numbers.long(), ..., :d] = cut
    return pool[..., :d]


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention in float64, the last query at the last key; and its log-sum-exp."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(group, 1) for x in (k, v))
    scores = q.double() @ k.mT * q.shape[3] ** -0.5
    rows, columns = scores.shape[2:]
    hidden = torch.ones(rows, columns, dtype=torch.bool).triu(columns - rows + 1)
    scores = scores.masked_fill(hidden, -torch.inf)
    lse = scores.logsumexp(3)
    weights = torch.where(lse[..., None] == -torch.inf, 0.0, (scores - lse[..., None]).exp())
    return weights @ v, lse


def judge(library: Path, d: int, shapes: list[Shape], seeds: int) -> str:
    """Run shapes under schedules in another process. Empty, or the first thing that is wrong."""
    arguments = [str(library), str(d), repr(shapes), str(seeds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        result = subprocess.run(
            [sys.executable, __file__, *arguments],
            capture_output=True, text=True, check=False, timeout=120, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "does not end"
    if result.returncode == 0:
        return ""
    return result.stdout.strip() or f"died: {result.returncode}, {result.stderr[-500:]}"


def _main(path: str, d: str, shapes: str, seeds: str) -> None:
    library = ctypes.CDLL(path)
    library.attnlang_workspace.restype = ctypes.c_int64
    library.set_seed.argtypes = [ctypes.c_uint64]
    for shape in eval(shapes):
        for seed in range(int(seeds)):
            wrong = run_causal(library, int(d), shape, seed)
            if wrong:
                print(f"{shape}, seed {seed}: {wrong}", flush=True)
                sys.exit(1)


if __name__ == "__main__":
    _main(*sys.argv[1:])
