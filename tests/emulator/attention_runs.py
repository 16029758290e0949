"""Builds an attention kernel from a tree of headers, and compares a causal call with arithmetic.

The tree may be a copy of the project's with a mistake in it; hence no cache of kernels here.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from device_harness import EMULATOR, ROOT, compile_unit

sys.path.insert(0, str(ROOT / "tests" / "runtime"))

from cpu_harness import Call

_UNIT = """
#include "kernels/{door}_attention.cuh"
#include "variants.cuh"
using namespace attnlang;
using namespace attnlang::cuda;
struct Tiles {{ static constexpr int {tiles}; }};
extern "C" __attribute__((visibility("default"))) int attnlang_run(const Call* call, char* error) {{
  return {door}_run<{functor}, Bf16, {d}, {d}, Tiles>(*call, error);
}}
extern "C" __attribute__((visibility("default"))) int64_t attnlang_workspace(const Call* call) {{
  return {door}_workspace<{functor}, Bf16, {d}, {d}, Tiles>(*call);
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

    def build(self, root: Path = ROOT) -> ctypes.CDLL:
        """Compile it from the headers under `root`."""
        text = _UNIT.format(door=self.door, functor=self.functor, d=self.d, tiles=self.tiles)
        folder = ROOT / "tests" / "kernels_cuda"
        path, said = compile_unit(EMULATOR, text, f"-I{folder}", root=root)
        assert path is not None, said[-6000:]
        library = ctypes.CDLL(str(path))
        library.attnlang_workspace.restype = ctypes.c_int64
        library.set_seed.argtypes = [ctypes.c_uint64]
        return library


@dataclass(frozen=True)
class Shape:
    """A causal call; `odd`: strides that no 16-byte copy takes."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    odd: bool = False


def run_causal(library: ctypes.CDLL, d: int, shape: Shape, seed: int) -> str:
    """Run a call on random data. Empty, or what is wrong: a report, or numbers."""
    generator = torch.Generator().manual_seed(seed)

    def draw(heads: int, rows: int) -> torch.Tensor:
        wide = torch.full((shape.batch, heads, rows, d + shape.odd), float("nan"))
        wide[..., :d] = torch.randn(shape.batch, heads, rows, d, generator=generator)
        return wide.to(torch.bfloat16)[..., :d]

    q = draw(shape.heads, shape.queries)
    k, v = draw(shape.kv_heads, shape.keys), draw(shape.kv_heads, shape.keys)
    call = Call(q, k, v)
    needed = library.attnlang_workspace(ctypes.byref(call.c))
    workspace = torch.full((needed // 4 + 64,), float("nan"))
    call.c.workspace = workspace.data_ptr() + (-workspace.data_ptr() % 256)
    call.c.workspace_bytes = needed
    library.set_seed(seed)
    error = ctypes.create_string_buffer(512)
    if library.attnlang_run(ctypes.byref(call.c), error) != 0:
        return error.value.decode(errors="replace") or "refused without a word"
    out, lse = _attention(q, k, v)
    for name, got, want, bound in (("out", call.out, out, 2e-2), ("lse", call.lse, lse, 1e-3)):
        difference = torch.where(got == want, 0.0, got.double() - want).abs()
        if not bool((difference <= bound).all()):
            return f"{name} is wrong by {difference.max().item():.3g}"
    return ""


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
