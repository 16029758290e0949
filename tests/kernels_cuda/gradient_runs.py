"""Builds CUDA backward kernels over hand-written functors for the emulator, and knows the answer.

`Shape` draws a call: any lengths and layouts, NaN wherever a key does not exist or is hidden from
every row. out and lse come from the float64 oracle, so that no forward kernel is in the way. The
headers may be a copy with a mistake in it, which `judge` runs in a process of its own: this file as
a script.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE.parent / "runtime"))

import torch  # noqa: E402
from cpu_harness import Call, CTensor, tensor  # noqa: E402
from device_harness import EMULATOR, ROOT, compile_unit  # noqa: E402
from torch import Tensor  # noqa: E402

ELEMENTS = {torch.bfloat16: "Bf16", torch.float16: "Half"}
NAN = float("nan")

UNIT = """
#include "gradient_variants.cuh"
#include "kernels/{sides}_backward_sides.cuh"
using namespace attnlang;
using namespace attnlang::cuda;
struct Tiles {{
  static constexpr int kKeyRows = {keys[0]}, kQueryTile = {keys[1]}, kKeySplit = {keys[2]},
                       kQueryRows = {queries[0]}, kKeyTile = {queries[1]},
                       kQuerySplit = {queries[2]};
  static constexpr int kHopperRows = {hopper_block[0]}, kHopperTile = {hopper_block[1]},
                       kHopperStages = {hopper_block[2]};
}};
using Kernels = Backward<{functor}, {element}, {d}, {dv},
                         {Sides}<{functor}, {element}, {d}, {dv}, Tiles>>;
#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT int backward(const Call* call, const Gradients* gradients, char* error) {{
  return Kernels::run(*call, *gradients, error);
}}
EXPORT int64_t workspace(const Call* call, const Gradients* gradients) {{
  return Kernels::workspace(*call, *gradients);
}}
"""
_SEED = "EXPORT void set_seed(uint64_t seed) { emulator::set_seed(seed); }\n"


class CGradients(ctypes.Structure):
    """`attnlang::Gradients`."""

    _fields_ = [
        *((name, CTensor) for name in ("out", "lse", "out_grad", "lse_grad", "q", "k", "v")),
        ("scalars", ctypes.POINTER(CTensor)),
        ("tensors", ctypes.POINTER(CTensor)),
    ]


@dataclass(frozen=True)
class Kernel:
    """A functor of gradient_variants.cuh; rows, tile and split of each side.

    `hopper`: on wgmma, with keys of a block, queries of a tile and stages.
    """

    functor: str
    d: int = 32
    dv: int = 32
    dtype: torch.dtype = torch.bfloat16
    keys: tuple[int, int, int] = (32, 16, 1)
    queries: tuple[int, int, int] = (32, 32, 1)
    hopper: bool = False
    hopper_block: tuple[int, int, int] = (64, 64, 2)

    @property
    def text(self) -> str:
        """The unit's source."""
        return UNIT.format(
            functor=f"{self.functor}Gradient", element=ELEMENTS[self.dtype], d=self.d, dv=self.dv,
            keys=self.keys, queries=self.queries, hopper_block=self.hopper_block,
            sides="sm90" if self.hopper else "sm80",
            Sides="Sm90Sides" if self.hopper else "Sm80Sides",
        )  # fmt: skip

    def build(self, root: Path = ROOT) -> tuple[Path | None, str]:
        """Compile it from the headers under `root`: the library, and what the compiler said."""
        return compile_unit(EMULATOR, self.text + _SEED, "-O1", f"-I{HERE}", root=root)

    def load(self) -> ctypes.CDLL:
        """Return the library, which must compile without a word."""
        path, said = self.build()
        assert path is not None, said[-6000:]
        assert not said.strip(), said[-6000:]
        return load(path)


def load(path: Path) -> ctypes.CDLL:
    """Open a built library."""
    library = ctypes.CDLL(str(path))
    library.workspace.restype = ctypes.c_int64
    library.set_seed.argtypes = [ctypes.c_uint64]
    return library


@dataclass(frozen=True)
class Shape:
    """A call. `missing`: how many of the last keys of each request are not there."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    missing: tuple[int, ...] = ()
    number: int = 0
    layout: str = "plain"  # or "odd": strides that no 16-byte copy takes
    unwanted: tuple[int, ...] = ()  # tensors whose gradients nobody wants


EXACT = ("t0", "t1")  # of Biased: read by rows, and by columns


class Case:
    """The tensors of one call."""

    def __init__(self, kernel: Kernel, shape: Shape, seed: int) -> None:
        self.kernel, self.shape = kernel, shape
        generator = torch.Generator().manual_seed(seed)

        def draw(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator)

        b, h, h_kv, n, m = shape.batch, shape.heads, shape.kv_heads, shape.queries, shape.keys
        self.lens = torch.tensor([m - x for x in shape.missing] or [m] * b, dtype=torch.int64)
        columns = torch.arange(m)
        there = columns < self.lens[:, None]
        i = torch.arange(n)[:, None] + (self.lens - n)[:, None, None]
        self.position = (columns - i)[:, None]  # j - i
        self.keep = there[:, None, None, :].expand(b, h, n, m).clone()
        hidden = ~there
        match kernel.functor:
            case "Plain" | "Scaled":
                pass
            case "Scattered":
                self.keep &= ((i + columns) % 3 != 0)[:, None]
            case "Padded":
                self.keep &= columns < shape.number
                hidden = hidden | (columns >= shape.number)
            case "HeadPadded":
                ends = shape.number * (torch.arange(h)[:, None, None] + 1)
                self.keep &= columns < ends
                hidden = hidden | (columns >= shape.number * h)
            case "Window":
                self.keep &= (self.position <= 0) & (self.position > -shape.number)
            case _:
                self.keep &= self.position <= 0
        self.empty = ~self.keep.any(-1)
        q, k, v = draw(b, h, n, kernel.d), draw(b, h_kv, m, kernel.d), draw(b, h_kv, m, kernel.dv)
        told = kernel.functor != "Relu"  # without a softmax nothing tells that a row is empty
        if told:
            q = q.masked_fill(self.empty[..., None], NAN)
        k, v = (x.masked_fill(hidden[:, None, :, None], NAN) for x in (k, v))
        self.vectors = {
            name: _strided(x.to(kernel.dtype), shape.layout)
            for name, x in (("q", q), ("k", k), ("v", v))
        }
        self.out_grad = draw(b, h, n, kernel.dv).to(kernel.dtype)
        if told:
            self.out_grad[self.empty] = NAN
        self.lse_grad = draw(b, h, n) if told else None
        self.tensors: tuple[Tensor, ...] = ()
        if kernel.functor == "Biased":
            sizes = ((b, n), (m,), (h, 9), (h, n, m), (h,))
            self.tensors = tuple(draw(*size) for size in sizes)

    def solve(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return out, lse and the gradients in float64, which round no weight."""
        kernel, shape = self.kernel, self.shape
        x = {n: t.double().nan_to_num(0).requires_grad_() for n, t in self.vectors.items()}
        t = [y.double().requires_grad_() for y in self.tensors]
        group = shape.heads // max(shape.kv_heads, 1)
        k, v = (x[n].repeat_interleave(group, 1) for n in "kv")
        score = x["q"] @ k.mT * kernel.d**-0.5
        h = torch.arange(shape.heads)[:, None, None]
        if kernel.functor == "Slopes":
            score = score + 0.5 / (h + 1) * self.position
        if kernel.functor == "Biased":
            place = (self.position + 3).clamp(0, 8)
            score = score + t[0][:, None, :, None] + t[1] + t[2][h, place] + t[3]
        seen = ~self.empty[..., None]
        masked = torch.where(seen, score.masked_fill(~self.keep, -torch.inf), 0.0)
        lse = total = masked.logsumexp(-1)
        if kernel.functor == "Biased":
            total = torch.logaddexp(lse, t[4][:, None].expand_as(lse))
        weights = (masked - total[..., None]).exp() * self.keep
        if kernel.functor == "Factor":
            offsets = (self.lens - shape.queries)[:, None, None, None]
            i = torch.arange(shape.queries)[:, None] + offsets
            weights = weights * (1 + (i + torch.arange(shape.keys)) % 2)
        if kernel.functor == "Relu":
            weights = score.relu() * self.keep
        out = weights @ v
        what = (out * self.out_grad.double().nan_to_num(0)).sum()
        if self.lse_grad is not None:
            what = what + (lse * seen[..., 0] * self.lse_grad.double()).sum()
        grads = torch.autograd.grad(what, [*x.values(), *t], allow_unused=True)
        names = [*x, *(f"t{n}" for n in range(len(t)))]
        found = {n: g for n, g in zip(names, grads, strict=True) if g is not None}
        return out.detach(), lse.detach().masked_fill(self.empty, -torch.inf), found

    def run(self, library: ctypes.CDLL, seed: int, out: Tensor, lse: Tensor) -> dict[str, Tensor]:
        """Run the kernels under a schedule, results and workspace full of NaN."""
        call = Call(
            *self.vectors.values(),
            kv_lens=self.lens,
            scalars=(self.shape.number, 0.5),
            tensors=self.tensors,
        )
        results = {n: torch.full(x.shape, NAN, dtype=x.dtype) for n, x in self.vectors.items()}
        wanted = [n for n in range(len(self.tensors)) if n not in self.shape.unwanted]
        sums = {f"t{n}": torch.full(self.tensors[n].shape, NAN) for n in wanted}
        kept = out.float(), lse.float()
        c = CGradients()
        c.out, c.lse = (tensor(x) for x in kept)
        c.out_grad, c.lse_grad = tensor(self.out_grad), tensor(self.lse_grad)
        c.q, c.k, c.v = (tensor(results[n]) for n in "qkv")
        c.scalars = (CTensor * 1)()
        c.tensors = (CTensor * 6)(*(tensor(sums.get(f"t{n}")) for n in range(6)))
        needed = library.workspace(ctypes.byref(call.c), ctypes.byref(c))
        workspace = torch.full((needed // 4 + 64,), NAN)
        call.c.workspace = workspace.data_ptr() + -workspace.data_ptr() % 256
        call.c.workspace_bytes = needed
        library.set_seed(seed)
        error = ctypes.create_string_buffer(512)
        if library.backward(ctypes.byref(call.c), ctypes.byref(c), error) != 0:
            raise RuntimeError(error.value.decode(errors="replace") or "refused without a word")
        return results | sums


def _strided(x: Tensor, layout: str) -> Tensor:
    if layout != "odd":
        return x
    wide = torch.full((*x.shape[:3], 2 * x.shape[3] + 1), NAN, dtype=x.dtype)
    wide[..., : 2 * x.shape[3] : 2] = x
    return wide[..., : 2 * x.shape[3] : 2]


def wrong(kernel: Kernel, library: ctypes.CDLL, shape: Shape, seeds: int = 1) -> str:
    """Run a call under schedules. Empty, or what is wrong: a report, numbers, or other bits.

    Where there are parameters, out is off by more than a kernel's is, whose weights are rounded.
    What those of rows and of columns gather must not feel it.
    """
    case = Case(kernel, shape, seed=shape.queries)
    out, lse, want = case.solve()
    if case.tensors:
        out = out * (1 + torch.finfo(kernel.dtype).eps / 2)
    first: dict[str, Tensor] = {}
    for seed in range(seeds):
        try:
            got = case.run(library, seed, out, lse)
        except RuntimeError as report:
            return str(report)
        for name, g in got.items():
            error = (g.double() - want[name]).abs()
            scale = max(1.0, want[name].abs().max().item()) if g.numel() else 1.0
            bound = 1e-4 if name in EXACT else 4 * torch.finfo(kernel.dtype).eps
            if not bool((error <= bound * scale).all()):
                return f"{name} is wrong by {error.nan_to_num(torch.inf).max():.3g} of {scale:.3g}"
            if first and not torch.equal(g, first[name]):
                return f"{name} differs from schedule to schedule"
        first = first or got
    return ""


def judge(kernel: Kernel, library: Path, shapes: list[Shape], seeds: int, threads: int = 1) -> str:
    """Run shapes in another process, CTAs on CPU threads. Empty, or the first wrong thing."""
    arguments = [repr(kernel), str(library), repr(shapes), str(seeds)]
    try:
        result = subprocess.run(
            [sys.executable, __file__, *arguments],
            capture_output=True, text=True, check=False, timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "does not end"
    if result.returncode == 0:
        return ""
    return result.stdout.strip() or f"died: {result.returncode}, {result.stderr[-500:]}"


def _main(kernel: str, path: str, shapes: str, seeds: str) -> None:
    library = load(Path(path))
    for shape in eval(shapes):
        found = wrong(eval(kernel), library, shape, int(seeds))
        if found:
            print(f"{shape}: {found}", flush=True)
            sys.exit(1)


if __name__ == "__main__":
    _main(*sys.argv[1:])
