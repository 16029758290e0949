"""`codegen/kernels/cpu_backward.h` over hand-written functors, against float64 autograd.

Results start as NaN; shapes lie off every tile boundary; hidden keys and values hold NaN.
"""

from __future__ import annotations

import ctypes
import math
from functools import cache

import pytest
import torch
from cpu_harness import Call, CTensor, build, tensor

F32, BF16 = torch.float32, torch.bfloat16
ELEMENTS = {F32: "float", BF16: "attnlang::Bf16"}
# (functor, dtype, D, DV): every functor, and one in bfloat16; the others are slow to build.
QUICK = (
    ("PlainGradient", F32, 64, 64),
    ("SinkGradient", F32, 32, 40),
    ("CapAlibiGradient", F32, 80, 16),
    ("BiasesGradient", F32, 16, 33),
    ("PaddingGradient", BF16, 23, 17),
)
SLOW = (
    ("PlainGradient", BF16, 40, 72),
    ("PaddingGradient", F32, 24, 16),
    ("CapAlibiGradient", BF16, 31, 45),
)


class CGradients(ctypes.Structure):
    """`attnlang::Gradients`."""

    _fields_ = [
        *((name, CTensor) for name in ("out", "lse", "out_grad", "lse_grad", "q", "k", "v")),
        ("scalars", ctypes.POINTER(CTensor)),
        ("tensors", ctypes.POINTER(CTensor)),
    ]


@cache
def library(functor: str, dtype: torch.dtype, d: int, dv: int) -> ctypes.CDLL:
    """Build the kernels of an instance: several in one unit would all be built for one."""
    args = f"cpu::{functor}, {ELEMENTS[dtype]}, {d}, {dv}"
    return build(f"""
#include "gradient_variants.h"
using namespace attnlang;
extern "C" int forward(const Call* c, char* e) {{
  return cpu::run<{args}>(*c, e);
}}
extern "C" int backward(const Call* c, const Gradients* g, char* e) {{
  return cpu::run_backward<{args}>(*c, *g, e);
}}
""")


class Case:
    """Inputs of one functor."""

    def __init__(self, functor, dtype, d, dv, b, heads, kv_heads, queries, keys, seed) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.functor, self.d = functor, d
        self.library = library(functor, dtype, d, dv)

        def draw(*shape):
            return torch.randn(*shape, generator=generator)

        self.q = draw(b, queries, heads, d).to(dtype).transpose(1, 2)
        self.k = draw(b, kv_heads, keys, d).to(dtype)
        self.v = draw(b, kv_heads, keys, dv).to(dtype)
        self.grad = draw(b, heads, queries, dv).to(dtype)
        self.lse_grad = draw(b, heads, queries) if functor != "BiasesGradient" else None
        self.scalars, self.tensors, self.hidden = (), (), None
        i = torch.arange(queries)[:, None] + keys - queries
        j = torch.arange(keys)
        self.keep = torch.ones(b, heads, queries, keys, dtype=torch.bool)
        match functor:
            case "PaddingGradient":
                present = torch.rand(b, keys, generator=generator) < 0.7
                limit = torch.randint(-1, keys, (b, queries), generator=generator).int()
                self.tensors = (present, limit)
                self.keep &= (present[:, None] & (j <= limit[:, :, None]))[:, None]
                self.hidden = ~present
            case "SinkGradient":
                self.scalars, self.tensors = (29,), (draw(heads),)
                self.keep &= (i - j >= 0) & (i - j < 29)
            case "CapAlibiGradient":
                self.scalars, self.tensors = (2.5,), (0.1 * draw(heads).abs(),)
                self.keep &= j <= i
            case "BiasesGradient":
                self.tensors = (draw(b, queries), draw(keys), draw(heads, 9))
                self.keep &= j <= i
        self.distance = (j - i).expand(b, heads, queries, keys)
        if self.hidden is not None:
            nothing = self.hidden[:, None, :, None]
            self.k = self.k.masked_fill(nothing, math.nan)
            self.v = self.v.masked_fill(nothing, math.nan)

    def expected(self) -> dict[str, torch.Tensor]:
        """Differentiate the formula in float64."""
        leaves = {"q": self.q, "k": self.k, "v": self.v}
        leaves |= {f"t{n}": t for n, t in enumerate(self.tensors) if t.dtype == F32}
        leaves |= {f"s{n}": torch.tensor(s) for n, s in enumerate(self.scalars) if s == 2.5}
        x = {n: t.double().nan_to_num().requires_grad_() for n, t in leaves.items()}
        group = self.q.shape[1] // self.k.shape[1]
        k, v = (x[n].repeat_interleave(group, 1) for n in "kv")
        score = self.d**-0.5 * (x["q"] @ k.transpose(-1, -2))
        if self.functor == "CapAlibiGradient":
            cap = x["s0"]
            score = cap * torch.tanh(score / cap) + x["t0"][:, None, None] * self.distance
        roots = []
        if self.functor == "BiasesGradient":
            place = (self.distance + 3).clamp(0, 8)
            heads = torch.arange(self.q.shape[1])[:, None, None]
            score = score + x["t0"][:, None, :, None] + x["t1"] + x["t2"][heads, place]
            weights = torch.sigmoid(score) * self.keep
        else:
            seen = self.keep.any(-1, keepdim=True)
            score = torch.where(seen, score.masked_fill(~self.keep, -math.inf), 0.0)
            lse = score.logsumexp(-1)
            total = lse
            if self.functor == "SinkGradient":
                total = torch.logaddexp(lse, x["t0"][:, None].expand_as(lse))
            weights = torch.where(seen, (score - total[..., None]).exp(), 0.0)
            roots.append((torch.where(seen[..., 0], lse, 0.0) * self.lse_grad.double()).sum())
        roots.append(((weights @ v) * self.grad.double()).sum())
        grads = torch.autograd.grad(sum(roots), list(x.values()))
        return dict(zip(x, grads, strict=True))

    def actual(self, *, expanded=False, unwanted=()) -> dict[str, torch.Tensor]:
        wide = torch.full((*self.q.shape[:3], self.v.shape[3]), math.nan)
        call = Call(self.q, self.k, self.v, out=wide, scalars=self.scalars, tensors=self.tensors)
        call.run(self.library.forward)
        results = {n: torch.full_like(getattr(self, n), math.nan) for n in "qkv"}
        sums = {f"t{n}": torch.zeros_like(t) for n, t in enumerate(self.tensors) if t.dtype == F32}
        sums |= {f"s{n}": torch.zeros(()) for n, s in enumerate(self.scalars) if s == 2.5}
        sums = {n: t for n, t in sums.items() if n not in unwanted}
        grad = self.grad.float()
        grad = grad[:1, :1, :1].expand_as(grad) if expanded else grad
        c = CGradients()
        c.out, c.out_grad = tensor(call.out), tensor(grad)
        c.lse, c.lse_grad = tensor(call.lse), tensor(self.lse_grad)
        c.q, c.k, c.v = (tensor(results[n]) for n in "qkv")
        pointers = [
            (CTensor * 4)(*(tensor(sums.get(f"{kind}{n}")) for n in range(4))) for kind in "st"
        ]
        c.scalars, c.tensors = pointers
        error = ctypes.create_string_buffer(512)
        function = self.library.backward
        assert function(ctypes.byref(call.c), ctypes.byref(c), error) == 0, error.value.decode()
        return results | sums


def compare(case: Case, actual, expected, tolerance) -> None:
    for name, got in actual.items():
        wanted = expected[name]
        error = (got.double() - wanted).abs().max().item() if got.numel() else 0.0
        scale = max(1.0, wanted.abs().max().item()) if got.numel() else 1.0
        assert error <= tolerance * scale, f"{name}: {error:.3g} of {scale:.3g}"


SHAPES = [(2, 4, 2, 70, 130), (1, 2, 2, 33, 33), (1, 3, 1, 129, 200), (2, 2, 1, 1, 65)]
SHAPES += [(1, 2, 1, 1610, 70), (1, 2, 2, 70, 2100)]  # blocks of queries; parts of keys


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("functor", "dtype", "d", "dv"),
    [*QUICK, *(pytest.param(*x, marks=pytest.mark.slow) for x in SLOW)],
)
def test_gradients(functor, dtype, d, dv, shape):
    case = Case(functor, dtype, d, dv, *shape, seed=d + shape[3])
    compare(case, case.actual(), case.expected(), 2e-5 if dtype == F32 else 3e-2)


def test_more_queries_than_keys():
    case = Case("CapAlibiGradient", F32, 80, 16, 1, 2, 1, 100, 30, seed=1)
    compare(case, case.actual(), case.expected(), 2e-5)


def test_many_keys_are_split_and_repeat_bitwise():
    case = Case("SinkGradient", F32, 32, 40, 1, 2, 1, 65, 2100, seed=2)
    first = case.actual()
    compare(case, first, case.expected(), 2e-5)
    for name, again in case.actual().items():
        assert torch.equal(again, first[name]), name


def test_an_expanded_gradient():
    case = Case("PlainGradient", F32, 64, 64, 1, 2, 2, 40, 50, seed=3)
    actual = case.actual(expanded=True)
    case.grad = case.grad[:1, :1, :1].expand_as(case.grad)
    compare(case, actual, case.expected(), 2e-5)


def test_what_is_not_wanted_is_not_computed():
    case = Case("BiasesGradient", F32, 16, 33, 1, 2, 1, 40, 50, seed=4)
    actual = case.actual(unwanted=("t0", "t2"))
    assert set(actual) == {"q", "k", "v", "t1"}
    compare(case, actual, case.expected(), 2e-5)


def test_no_keys():
    case = Case("PlainGradient", F32, 64, 64, 1, 2, 2, 5, 0, seed=5)
    assert torch.equal(case.actual()["q"], torch.zeros_like(case.q))
