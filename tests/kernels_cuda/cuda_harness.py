"""Builds CUDA kernels over hand-written functors for the emulator, runs them, and knows the answer.

`Problem` draws a call: any lengths, offsets and layouts, NaN wherever a key does not exist or is
hidden from every row. `expected` is the float64 oracle of the functors in variants.cuh.
"""

from __future__ import annotations

import ctypes
import math
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from device_harness import EMULATOR, build

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "runtime"))

from cpu_harness import Call, tensor  # noqa: E402

ELEMENTS = {torch.bfloat16: "Bf16", torch.float16: "Half"}
EPSILON = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}

_UNIT = """
#include "kernels/{door}_attention.cuh"
#include "variants.cuh"
using namespace attnlang;
using namespace attnlang::cuda;
struct Tiles {{ static constexpr int {tiles}; }};
extern "C" __attribute__((visibility("default"))) int attnlang_run(const Call* call, char* error) {{
  return {door}_run<{functor}, {element}, {d}, {dv}, Tiles>(*call, error);
}}
extern "C" __attribute__((visibility("default"))) int64_t attnlang_workspace(const Call* call) {{
  return {door}_workspace<{functor}, {element}, {d}, {dv}, Tiles>(*call);
}}
extern "C" __attribute__((visibility("default"))) void set_seed(uint64_t seed) {{
  emulator::set_seed(seed);
}}
"""


@dataclass(frozen=True)
class Instance:
    """A functor of variants.cuh with the dimensions and tiles that it is compiled for."""

    functor: str
    dtype: torch.dtype
    d: int
    dv: int
    tiles: tuple[tuple[str, int], ...]
    door: str = "sm80"

    @property
    def formula(self) -> str:
        """The functor without the trait that changes no result."""
        return self.functor.removeprefix("Scaled<").removesuffix(">")

    @cache  # noqa: B019 - instances are few, and live as long as the tests
    def kernel(self) -> Kernel:
        """The instance, built."""
        text = _UNIT.format(
            door=self.door, functor=self.functor, element=ELEMENTS[self.dtype], d=self.d,
            dv=self.dv, tiles=", ".join(f"{name} = {value}" for name, value in self.tiles),
        )  # fmt: skip
        library = build(EMULATOR, text, f"-I{HERE}")
        library.attnlang_workspace.restype = ctypes.c_int64
        library.set_seed.argtypes = [ctypes.c_uint64]
        return Kernel(library)


@dataclass(frozen=True)
class Kernel:
    """A built instance."""

    library: ctypes.CDLL

    def run(self, call: Call, seed: int) -> None:
        """Run one call in the emulator under a schedule; its workspace starts as NaN."""
        needed = self.library.attnlang_workspace(ctypes.byref(call.c))
        workspace = torch.full((needed // 4 + 64 + 1024,), math.nan)
        start = -workspace.data_ptr() % 256 // 4
        call.c.workspace = workspace[start:].data_ptr()
        call.c.workspace_bytes = needed
        self.library.set_seed(seed)
        call.run(self.library.attnlang_run)
        assert workspace[start + needed // 4 :].isnan().all(), "past the workspace's end"


@dataclass(frozen=True)
class Problem:
    """The shape of a call; `lens`, `q_offsets`: of each request."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    number: int = 0
    real: float = 0.0
    lens: tuple[int, ...] | None = None
    q_offsets: tuple[int, ...] | None = None
    kv_offset: int = 0
    layout: str = "plain"  # or "heads last", "odd", "expanded"
    selected: int = 0  # blocks of `block` columns that each row selects
    block: int = 1
    wants_max: bool = False
    scale: float | None = None

    def length(self, b: int) -> int:
        """Keys of a request."""
        return self.keys if self.lens is None else min(max(self.lens[b], 0), self.keys)

    def q_offset(self, b: int) -> int:
        """The position of a request's row 0."""
        if self.q_offsets is not None:
            return self.q_offsets[b]
        return self.kv_offset + self.length(b) - self.queries


@dataclass
class Drawn:
    """The tensors of a call and what it gives."""

    call: Call
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    keep: torch.Tensor
    selection: torch.Tensor | None
    largest: torch.Tensor | None
    alive: list[torch.Tensor] = field(default_factory=list)


def _strided(x: torch.Tensor, layout: str) -> torch.Tensor:
    match layout:
        case "heads last":
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        case "odd":
            wide = torch.full((*x.shape[:3], 2 * x.shape[3] + 1), math.nan, dtype=x.dtype)
            wide[..., : 2 * x.shape[3] : 2] = x
            return wide[..., : 2 * x.shape[3] : 2]
        case "expanded":
            return x[:, :1].expand(x.shape)
    return x


def draw(instance: Instance, problem: Problem, seed: int) -> Drawn:
    """Draw a call's tensors."""
    p, generator = problem, torch.Generator().manual_seed(seed)

    def random(heads: int, rows: int, width: int) -> torch.Tensor:
        x = torch.randn(p.batch, heads, rows, width, generator=generator)
        return x.to(instance.dtype)

    q = _strided(random(p.heads, p.queries, instance.d), p.layout)
    k = random(p.kv_heads, p.keys, instance.d)
    v = random(p.kv_heads, p.keys, instance.dv)
    if instance.formula == "ValueOfKey":
        v = k[..., : instance.dv]
    if p.layout == "expanded":
        k, v = k[:, :1].expand(k.shape).clone(), v[:, :1].expand(v.shape).clone()
    for b in range(p.batch):
        hidden = torch.arange(p.keys) >= p.length(b)
        if instance.formula == "Padded":
            hidden |= torch.arange(p.keys) >= p.number
        k[b, :, hidden] = math.nan
        v[b, :, hidden] = math.nan
    clean_k, clean_v = k, v
    k, v = _strided(k, p.layout), _strided(v, p.layout)
    selection = None
    if p.selected:
        blocks = max(1, -(-p.keys // p.block))
        selection = torch.randint(
            -1, blocks, (p.batch, p.kv_heads, p.queries, p.selected), generator=generator
        ).to(torch.int32)
    call = Call(
        q, k, k[..., : instance.dv] if instance.formula == "ValueOfKey" else v,
        out=_strided(torch.full((p.batch, p.heads, p.queries, instance.dv), math.nan,
                                dtype=instance.dtype), "heads last"),
        lse=instance.functor != "Relu",
        q_offset=None if p.q_offsets is None else torch.tensor(p.q_offsets),
        kv_offset=p.kv_offset, scale=p.scale,
        kv_lens=None if p.lens is None else torch.tensor(p.lens, dtype=torch.int32),
        scalars=(p.number, p.real),
    )  # fmt: skip
    largest = torch.full((p.batch, p.heads), math.nan) if p.wants_max else None
    call.c.max = tensor(largest)
    call.c.kv_indices, call.c.kv_block = tensor(selection), p.block
    keep = _keep(instance.formula, p, selection)
    return Drawn(call, q, clean_k, clean_v, keep, selection, largest)


def _keep(functor: str, p: Problem, selection: torch.Tensor | None) -> torch.Tensor:
    """Which (b, h, i, j) are kept."""
    keep = torch.ones(p.batch, p.heads, p.queries, p.keys, dtype=torch.bool)
    columns = torch.arange(p.keys)
    for b in range(p.batch):
        i = torch.arange(p.queries)[:, None] + p.q_offset(b)
        j = columns + p.kv_offset
        match functor:
            case "Plain":
                pass
            case "Window" | "Sink":
                keep[b] &= (i - j >= 0) & (i - j < p.number)
            case "Scattered":
                keep[b] &= (i + j) % 3 != 0
            case "Padded":
                keep[b] &= columns < p.number
            case _:
                keep[b] &= j <= i
        keep[b] &= columns < p.length(b)
    if selection is not None:
        wanted = torch.zeros(p.batch, p.kv_heads, p.queries, p.keys, dtype=torch.bool)
        for at in range(selection.shape[3]):
            block = selection[..., at, None]
            wanted |= (block >= 0) & (columns // p.block == block)
        keep &= wanted.repeat_interleave(p.heads // p.kv_heads, 1)
    return keep


@dataclass(frozen=True)
class Expected:
    """The oracle's answer, and the size of what rounding may disturb."""

    out: torch.Tensor
    lse: torch.Tensor
    largest: torch.Tensor
    scale: torch.Tensor


def expected(instance: Instance, p: Problem, drawn: Drawn) -> Expected:
    """Compute the call in float64."""
    functor = instance.formula
    group = p.heads // p.kv_heads
    q, k, v = (t.double().nan_to_num(0) for t in (drawn.q, drawn.k, drawn.v))
    if functor == "Transformed":
        q = (2 * q).to(instance.dtype).double()
        k = (k * (torch.arange(p.keys) % 3)[:, None]).to(instance.dtype).double()
        v = (v + 1).to(instance.dtype).double()
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    score = q @ k.transpose(-1, -2) * (instance.d**-0.5 if p.scale is None else p.scale)
    position = torch.zeros_like(score)  # j - i
    for b in range(p.batch):
        i = torch.arange(p.queries)[:, None] + p.q_offset(b)
        position[b] = torch.arange(p.keys) + p.kv_offset - i
    if functor == "SoftCap":
        score = p.real * torch.tanh(score / p.real)
    if functor == "Slopes":
        score = score + p.real / torch.arange(1, p.heads + 1)[:, None, None] * position
    masked = score.masked_fill(~drawn.keep, -math.inf)
    largest = masked.flatten(2).amax(2) if masked.shape[3] else masked.new_full((), -math.inf)
    if functor == "Relu":
        weights = score.relu().masked_fill(~drawn.keep, 0)
        none = score.new_full(score.shape[:3], -math.inf)
        return Expected(weights @ v, none, largest, weights @ v.abs())
    if not masked.shape[3]:
        empty = q.new_zeros(*q.shape[:3], instance.dv)
        return Expected(empty, q.new_full(q.shape[:3], -math.inf), largest, empty)
    lse = masked.logsumexp(-1)
    total = lse
    if functor == "Sink":
        sinks = p.real * torch.arange(1, p.heads + 1, dtype=torch.float64)[None, :, None]
        total = torch.logaddexp(lse, sinks.expand_as(lse))
    weights = torch.exp(masked - total.masked_fill(total == -math.inf, 0)[..., None])
    if functor == "Factor":
        parity = (position + 2 * torch.arange(p.queries)[:, None]).long()  # j - i + 2 row
        for b in range(p.batch):
            parity[b] += 2 * p.q_offset(b)
        weights = weights * (1 + parity % 2)
        row_sum = weights.sum(-1, keepdim=True)
        return Expected(weights @ v / (1 + row_sum), lse, largest, weights @ v.abs())
    return Expected(weights @ v, lse, largest, weights @ v.abs())


def check(instance: Instance, problem: Problem, seed: int = 0) -> Drawn:
    """Run one call under one schedule and compare; return it."""
    drawn = draw(instance, problem, seed)
    instance.kernel().run(drawn.call, seed)
    want = expected(instance, problem, drawn)
    rounding = EPSILON[instance.dtype]
    error = (drawn.call.out.double() - want.out).abs()
    bound = 2e-5 + 1.5 * rounding * (want.scale + want.out.abs())
    worst = (error - bound).nan_to_num(math.inf).max().item() if error.numel() else 0.0
    assert worst <= 0, f"out is off by {error.nan_to_num(math.inf).max().item()}"
    if drawn.call.lse is not None:
        torch.testing.assert_close(drawn.call.lse.double(), want.lse, atol=3e-4, rtol=1e-5)
    if drawn.largest is not None:
        wanted = want.largest.expand(drawn.largest.shape)
        torch.testing.assert_close(drawn.largest.double(), wanted, atol=3e-4, rtol=1e-5)
    return drawn
