"""The Hopper skeleton alone, without the compiler: right first, then its speed beside SDPA's.

    python benchmarks/sm90_probe.py [--check] [--time] [--dims 64,128,256] [--json out.json]

Hand-written functors (tests/kernels_cuda/variants.cuh) are built by nvcc, several tile shapes each,
and called through ctypes. `--check`: random shapes off every tile boundary against float32 on the
GPU, poisoned outputs, NaN beyond the lengths, both producers bit for bit. `--time`: forward passes
of 16k tokens and 2048 / D heads, inputs that rotate through more than the L2 cache, medians of CUDA
events, SDPA's cuDNN and flash backends in the same run. `--once`: one call of each kernel at the
first length, for a profiler (`ncu -k regex:forward --clock-control none`). Needs torch, nvcc and a
Hopper GPU.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import functools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "runtime"))
import cpu_harness  # noqa: E402

INCLUDES = ("runtime/include", "codegen", "tests/kernels_cuda")
TOKENS = 16384
WIDTH = 2048  # heads times head dimension
ROUNDS = 11
_CALL_HEADER = ROOT / "runtime" / "include" / "attnlang" / "host" / "call.h"

UNIT = """
#include "kernels/sm90_attention.cuh"
#include "variants.cuh"
namespace attnlang::cuda {{
struct Tiles {{
  static constexpr int kQueryTile = {rows}, kKeyTile = {keys}, kStages = {stages};
}};
}}
using namespace attnlang::cuda;
extern "C" int attnlang_run(const attnlang::Call* call, char* error) {{
  return sm90_run<{variant}, attnlang::{element}, {dim}, {dim}, Tiles>(*call, error);
}}
extern "C" int64_t attnlang_workspace(const attnlang::Call* call) {{
  return sm90_workspace<{variant}, attnlang::{element}, {dim}, {dim}, Tiles>(*call);
}}
"""


@functools.cache
def call_version() -> int:
    """Return kCallVersion, which kernels want to see in a call."""
    found = re.search(r"kCallVersion = (\d+);", _CALL_HEADER.read_text())
    if found is None:
        raise SystemExit(f"{_CALL_HEADER} has no kCallVersion")
    return int(found[1])


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One instance of the skeleton: functor, head dimension, rows x keys of a tile, stages."""

    variant: str
    dim: int
    rows: int
    keys: int
    stages: int = 2
    element: str = "Bf16"

    def __str__(self) -> str:
        tile = f"{self.rows}x{self.keys}/{self.stages}"
        return f"{self.variant} D {self.dim} {self.element} {tile}"

    def build(self, folder: Path) -> tuple[Kernel, ctypes.CDLL, str]:
        name = str(self)
        source = folder / (re.sub(r"\W", "_", name) + ".cu")
        source.write_text(UNIT.format(**dataclasses.asdict(self)))
        nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
        command = [
            nvcc, "-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC", "-shared",
            "-gencode=arch=compute_90a,code=sm_90a", "-Xptxas", "-v",
            *(f"-I{ROOT / i}" for i in INCLUDES), str(source), "-o", str(source.with_suffix(".so")),
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise SystemExit(f"{name}: {result.stderr[-4000:]}")
        log = " | ".join(
            line.removeprefix("ptxas info    : ").strip()
            for line in result.stderr.splitlines()
            if "spill" in line or "Used" in line or "C75" in line
        )
        return self, ctypes.CDLL(str(source.with_suffix(".so"))), log


CAUSAL = {
    64: [(192, 128, 2), (128, 128, 2), (192, 112, 2)],
    128: [(128, 128, 2), (128, 160, 2), (128, 176, 2), (192, 80, 2)],
    256: [(128, 80, 2), (128, 64, 2)],
}
FULL = {
    64: [(192, 128, 2), (128, 192, 2), (192, 128, 3)],
    128: [(128, 176, 2), (128, 160, 2), (128, 128, 2), (128, 128, 3)],
    256: [(128, 80, 2), (128, 64, 2)],
}


def kernels(dims: list[int]) -> list[Kernel]:
    found = []
    for dim in dims:
        found += [Kernel("Scaled<Plain>", dim, *tile) for tile in FULL[dim]]
        found += [Kernel("Scaled<Causal>", dim, *tile) for tile in CAUSAL[dim]]
    if 128 in dims:
        found += [Kernel("SoftCap", 128, 128, 128), Kernel("Slopes", 128, 128, 128)]
    return found


class Bound:
    """A kernel with one set of tensors: what a call costs beside it is ctypes alone."""

    def __init__(
        self,
        library: ctypes.CDLL,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        kv_lens: Tensor | None = None,
    ) -> None:
        self.kept = (q, k, v, kv_lens)
        self.out = torch.full(
            (*q.shape[:3], v.shape[3]), float("nan"), dtype=q.dtype, device="cuda"
        )
        self.lse = torch.full(q.shape[:3], float("nan"), device="cuda")
        self.scalars = (cpu_harness.CNumber * 2)()
        self.scalars[0].integer, self.scalars[1].real = 100, 30.0
        c = self.call = cpu_harness.CCall()
        c.version, c.default_q_offset, c.scale = call_version(), 1, q.shape[3] ** -0.5
        c.q, c.k, c.v, c.out = map(cpu_harness.tensor, (q, k, v, self.out))
        c.lse, c.scalars = cpu_harness.tensor(self.lse), self.scalars
        c.q_offset = c.kv_offset = cpu_harness.per_request(0)
        c.kv_lens = cpu_harness.per_request(k.shape[2] if kv_lens is None else kv_lens)
        library.attnlang_workspace.restype = ctypes.c_int64
        size = library.attnlang_workspace(ctypes.byref(c))
        self.workspace = torch.full((max(1, size),), 0x7F, dtype=torch.uint8, device="cuda")
        c.workspace, c.workspace_bytes = self.workspace.data_ptr(), size
        self.function, self.error = library.attnlang_run, ctypes.create_string_buffer(512)

    def __call__(self) -> None:
        self.call.stream = torch.cuda.current_stream().cuda_stream
        if self.function(ctypes.byref(self.call), self.error) != 0:
            raise SystemExit(self.error.value.decode())


def reference(
    kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, lens: Tensor
) -> tuple[Tensor, Tensor]:
    group = q.shape[1] // k.shape[1]
    k, v = (x.float().repeat_interleave(group, 1) for x in (k, v))
    column = torch.arange(k.shape[2], device="cuda")
    there = (column[None, :] < lens[:, None])[:, None, None, :]
    v = torch.where(there.mT, v, 0.0)
    score = q.float() @ k.mT * q.shape[3] ** -0.5
    row = torch.arange(q.shape[2], device="cuda")[None, :] + (lens[:, None] - q.shape[2])
    distance = (row[:, None, :, None] - column[None, None, None, :]).float()
    if kernel.variant == "SoftCap":
        score = 30 * torch.tanh(score / 30)
    if kernel.variant == "Slopes":
        heads = torch.arange(q.shape[1], device="cuda") + 1
        score = score - 30.0 / heads[None, :, None, None] * distance
    if kernel.variant != "Scaled<Plain>":
        there = there & (distance >= 0)
    score = torch.where(there, score, -torch.inf)
    return torch.softmax(score, -1).nan_to_num(0.0) @ v, torch.logsumexp(score, -1)


def error(got: Tensor, want: Tensor) -> float:
    got, want = got.double(), want.double()
    finite = want.abs() < torch.inf
    if not torch.equal(got[~finite], want[~finite]):
        return float("nan")
    return float((got - want)[finite].norm() / want[finite].norm().clamp_min(1e-30))


def pattern(got: Tensor, want: Tensor) -> str:
    """Say where a wrong result is wrong: heads, rows by tile and columns that have bad entries."""
    bad = ~((got.double() - want.double()).abs() < 0.05)
    parts = [
        f"{name} {sorted(set((at // unit).tolist()))[:24]}"
        for name, unit, at in (
            ("head", 1, bad.any(3).any(2).nonzero()[:, 1]),
            ("rows of 16", 16, bad.any(3).nonzero()[:, 2]),
            ("row of a tile", 1, bad.any(3).nonzero()[:, 2] % 64),
            ("columns of 8", 8, bad.any(2).nonzero()[:, 2]),
        )
    ]
    return f"{int(bad.sum())} of {bad.numel()} wrong: {'; '.join(parts)}"


def check(kernel: Kernel, library: ctypes.CDLL) -> str:
    """Tell the worst relative errors over random shapes; `nan` where something was not written."""
    torch.backends.cuda.matmul.allow_tf32 = False
    generator = torch.Generator().manual_seed(zlib.crc32(repr(kernel).encode()))
    worst, worst_lse, same = 0.0, 0.0, True
    shapes = [(2, 4, 2, 1, 1), (1, 2, 2, 128, 0), (3, 4, 1, 200, 333), (1, 8, 8, 1024, 1024)]
    for _ in range(8):
        batch, kv_heads, group, queries, keys = (
            int(torch.randint(low, high, (1,), generator=generator))
            for low, high in ((1, 4), (1, 4), (1, 4), (1, 700), (1, 1700))
        )
        shapes.append((batch, kv_heads * group, kv_heads, queries, keys))
    for batch, heads, kv_heads, queries, keys in shapes:
        dtype = torch.bfloat16 if kernel.element == "Bf16" else torch.float16
        q = torch.randn(batch, heads, queries, kernel.dim, device="cuda").to(dtype)
        k, v = (
            torch.randn(batch, kv_heads, keys, kernel.dim, device="cuda").to(dtype) for _ in "kv"
        )
        lens = torch.randint(0, keys + 1, (batch,), generator=generator).cuda()
        lens[0] = keys
        for b in range(batch):
            k[b, :, lens[b] :] = v[b, :, lens[b] :] = float("nan")
        bound = Bound(library, q, k, v, kv_lens=lens)
        bound()
        torch.cuda.synchronize()
        out, lse = reference(kernel, q, k.nan_to_num(0.0), v, lens)
        errors = error(bound.out, out), error(bound.lse, lse)
        if not (errors[0] < 0.01 and errors[1] < 0.001):
            shape = (batch, heads, kv_heads, queries, keys)
            print(f"  {shape} lengths {lens.tolist()}: {errors}; {pattern(bound.out, out)}")
        worst, worst_lse = max(worst, errors[0]), max(worst_lse, errors[1])
        if keys:
            wide = torch.zeros(*k.shape[:3], kernel.dim + 1, dtype=dtype, device="cuda")
            wide[..., 1:] = k
            gathered = Bound(library, q, wide[..., 1:], v, kv_lens=lens)
            gathered()
            torch.cuda.synchronize()
            same = same and torch.equal(gathered.out.view(torch.int16), bound.out.view(torch.int16))
    verdict = "right" if worst < 0.01 and worst_lse < 0.001 and same else "WRONG"
    producers = "agree" if same else "DIFFER"
    return f"{verdict}: out {worst:.1e}, lse {worst_lse:.1e}, producers {producers}"


def milliseconds(calls: list[Callable[[], object]]) -> float:
    """Time one call: medians of rounds through all of them, the host running ahead of the GPU."""
    times = []
    for i in range(ROUNDS + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(1_000_000)
        start.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        if i >= 2:
            times.append(start.elapsed_time(end) / len(calls))
    return statistics.median(times)


def inputs(dim: int, length: int, copies: int) -> list[list[Tensor]]:
    shape = (TOKENS // length, WIDTH // dim, length, dim)
    return [
        [torch.randn(shape, device="cuda").to(torch.bfloat16) for _ in "qkv"] for _ in range(copies)
    ]


def peers(dim: int, length: int, causal: bool) -> dict[str, float]:
    found = {}
    for name, backend in (
        ("cudnn", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION),
    ):  # fmt: skip
        sets = inputs(dim, length, 3)

        def call(q: Tensor, k: Tensor, v: Tensor, backend: SDPBackend = backend) -> Tensor:
            with sdpa_kernel(backend):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

        try:
            found[name] = milliseconds([lambda s=s: call(*s) for s in sets])
        except RuntimeError as refused:
            print(f"  {name} D {dim}: {str(refused).splitlines()[0]}")
    return found


def time(built: list[tuple[Kernel, ctypes.CDLL]], lengths: list[int]) -> list[dict[str, object]]:
    rows = []
    for dim in sorted({kernel.dim for kernel, _ in built}):
        for length in lengths:
            for causal in (False, True):
                flops = 4 * TOKENS * WIDTH * length / (2 if causal else 1)
                beside = {n: flops / t / 1e9 for n, t in peers(dim, length, causal).items()}
                shown = ", ".join(f"{n} {rate:.0f}" for n, rate in beside.items())
                print(f"D {dim} N {length} {'causal' if causal else 'full'}: {shown} TFLOP/s")
                for kernel, library in built:
                    if kernel.dim != dim or (kernel.variant != "Scaled<Plain>") != causal:
                        continue
                    sets = inputs(dim, length, 3)
                    took = milliseconds([Bound(library, *s) for s in sets])
                    rate = flops / took / 1e9
                    best = max(beside.values(), default=float("nan"))
                    print(f"    {kernel!s:50} {rate:5.0f} TFLOP/s  {rate / best:.2f}")
                    rows.append({
                        **dataclasses.asdict(kernel), "length": length, "ms": took,
                        "tflops": rate, "peers": beside,
                    })  # fmt: skip
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--dims", default="64,128,256")
    parser.add_argument("--lengths", default="2048,8192,16384")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wanted = kernels([int(d) for d in options.dims.split(",")])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            built = list(pool.map(lambda kernel: kernel.build(Path(folder)), wanted))
        for kernel, _, log in built:
            print(f"{kernel.variant} D {kernel.dim} {kernel.rows}x{kernel.keys}: {log}")
        print(torch.cuda.get_device_name(), flush=True)
        good = []
        for kernel, library, _ in built:
            verdict = check(kernel, library) if options.check else "right: not checked"
            print(f"{kernel}: {verdict}", flush=True)
            if verdict.startswith("right"):
                good.append((kernel, library))
        lengths = [int(n) for n in options.lengths.split(",")]
        if options.once:
            for kernel, library in good:
                Bound(library, *inputs(kernel.dim, lengths[0], 1)[0])()
            torch.cuda.synchronize()
        rows = time(good, lengths) if options.time else []
        if options.json:
            machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
            options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
        return 0 if len(good) == len(built) else 1


if __name__ == "__main__":
    sys.exit(main())
