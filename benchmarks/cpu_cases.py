"""The cases of `benchmarks/cpu.py`, and what each must reach.

plain, causal     beside SDPA; short and long ones may reach a share of the peak instead
flex              variants that SDPA cannot say, beside compiled FlexAttention
mask              masks that SDPA takes written out
decode            few queries, beside the rate of reading the keys and values
gallery           every variant of the gallery, beside plain attention over as many tiles
ragged            odd lengths, cut requests and strided inputs, beside the aligned call
lowered           in place of all of these where kernels are built for fewer instructions
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from gallery_calls import HEADS, PARAMS, QUERIES, WIDTHS
from torch import Tensor

from attnlang.bench.case import EAGER, FLEX, PEAK, READ, SDPA, Case, Target
from attnlang.bench.clock import Clock
from attnlang.compiler import check_source
from attnlang.invent.inputs import Call, invent
from attnlang.invent.scalars import Request, fit_shape
from attnlang.invent.settings import Settings
from attnlang.invent.shape import ParamValue, Shape
from attnlang.ir.nodes import Variant
from attnlang.options import CpuTarget, options
from attnlang.sources import Source

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

Lazy = Callable[[], Case]
_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
_HEADS = ((16, 16), (16, 4))
_GALLERY_LENGTH = 4096
_PLAIN = {("f32", 64): 1.3, ("f32", 128): 1.2, ("bf16", 64): 2.2, ("bf16", 128): 2.2}
_CAUSAL = {"f32": 1.5, "bf16": 2.7}
_FLEX = {"f32": 2.2, "bf16": 5.0}
_OF_PEAK = {"f32": 0.9, "bf16": 0.8}
_READ = 0.85
_WITHIN_PLAIN, _WITHIN_ALIGNED = 1.15, 1.10
_FLEX_VARIANTS: Mapping[str, Mapping[str, ParamValue]] = {
    "sliding_window": {"window_size": 512},
    "soft_cap": {"cap": 50.0},
    "alibi": {},
    "document": {},
    "relative_table": {},
    "gemma2_local": {"cap": 50.0, "window_size": 512},
}


def all_cases() -> dict[str, Lazy]:
    """Return every case by name; making one draws its inputs."""
    found: dict[str, Lazy] = {}
    native = options().cpu is CpuTarget.NATIVE
    everything = (_prefill, _flex, _masks, _decode, _gallery, _ragged)
    for group in everything if native else (_lowered,):
        found.update(group())
    return found


def load_variant(name: str) -> Variant:
    """Check one spec of the gallery."""
    path = EXAMPLES / f"{name}.attn"
    result = check_source(Source(path.name, path.read_text(encoding="utf-8")), folder=EXAMPLES)
    result.raise_errors()
    return next(v for v in result.variants if v.name == name)


def make_call(
    variant: Variant, shape: Shape, dtype: torch.dtype, params: Mapping[str, object] | None = None
) -> Call:
    """Invent a call with some parameters given."""
    given = params or {}
    tensors = {n: p for n, p in given.items() if isinstance(p, Tensor)}
    numbers = {n: p for n, p in given.items() if isinstance(p, bool | int | float)}
    settings = Settings(numbers, {}, {}, tensors)
    return invent(variant, Request(fit_shape(variant, shape, settings), dtype, 0, settings))


def _square(heads: tuple[int, int], n: int, d: int) -> Shape:
    return Shape(1, *heads, n, n, d, d)


def _prefill() -> Iterator[tuple[str, Lazy]]:
    for name in ("full", "causal"):
        for dtype in _DTYPES:
            for heads, n, d in _prefill_sizes():
                title = f"{name}/{dtype}/{heads[0]}-{heads[1]}/N{n}/D{d}"
                yield title, lambda a=(title, name, dtype, heads, n, d): _prefill_case(*a)


def _prefill_sizes() -> Iterator[tuple[tuple[int, int], int, int]]:
    for heads in _HEADS:
        for d in (64, 128, 256):
            yield heads, 2048, d
    for n in (512, 8192):
        for d in (64, 128, 256):
            yield _HEADS[1], n, d


def _prefill_case(
    title: str, name: str, dtype: str, heads: tuple[int, int], n: int, d: int
) -> Case:
    variant = load_variant(name)
    call = make_call(variant, _square(heads, n, d), _DTYPES[dtype])
    least = _PLAIN.get((dtype, d)) if name == "full" else _CAUSAL[dtype]
    targets: tuple[Target, ...] = ()
    if least is not None and d <= 128:  # nothing is promised for D = 256
        targets = (Target(SDPA, least),)
        if n != 2048:
            targets += (Target(PEAK, _OF_PEAK[dtype]),)
    peers = {SDPA, FLEX, EAGER} if n == 2048 and d == 64 else {SDPA}
    return Case(title, variant, call, frozenset(peers), targets=targets)


def _lowered() -> Iterator[tuple[str, Lazy]]:
    for name in ("full", "causal"):
        for dtype in _DTYPES:
            for d in (64, 128):
                title = f"lowered/{name}/{dtype}/16-16/N2048/D{d}"
                yield title, lambda a=(title, name, dtype, d): _lowered_case(*a)


def _lowered_case(title: str, name: str, dtype: str, d: int) -> Case:
    variant = load_variant(name)
    call = make_call(variant, _square(_HEADS[0], 2048, d), _DTYPES[dtype])
    return Case(title, variant, call, frozenset({SDPA}), targets=(Target(SDPA, 1.0),))


def _flex() -> Iterator[tuple[str, Lazy]]:
    for name in _FLEX_VARIANTS:
        for dtype in _DTYPES:
            for heads, n, d in (
                (_HEADS[0], 2048, 64),
                (_HEADS[1], 2048, 64),
                (_HEADS[0], 2048, 128),
                (_HEADS[1], 512, 64),
                (_HEADS[1], 8192, 64),
            ):
                title = f"flex/{name}/{dtype}/{heads[0]}-{heads[1]}/N{n}/D{d}"
                yield title, lambda a=(title, name, dtype, heads, n, d): _flex_case(*a)
    for dtype in _DTYPES:  # FlexAttention has no sigmoid: beside eager torch
        title = f"flex/sigmoid/{dtype}/16-16/N2048/D64"
        yield title, lambda a=(title, "sigmoid", dtype, _HEADS[0], 2048, 64): _flex_case(*a)


def _flex_case(title: str, name: str, dtype: str, heads: tuple[int, int], n: int, d: int) -> Case:
    variant = load_variant(name)
    params: dict[str, object] = dict(_FLEX_VARIANTS.get(name, {}))
    g = torch.Generator().manual_seed(1)
    if name == "document":
        params["doc"] = PARAMS["document"](n, g)["doc"]
    if name == "alibi":
        params["slopes"] = 2.0 ** -torch.arange(1.0, heads[0] + 1)
    if name == "relative_table":
        params["table"] = torch.randn(heads[0], 257, generator=g)
    call = make_call(variant, _square(heads, n, d), _DTYPES[dtype], params)
    if name == "sigmoid":
        return Case(title, variant, call, frozenset({EAGER}))
    targets: tuple[Target, ...] = (Target(FLEX, _FLEX[dtype]),)
    if n != 2048:
        targets += (Target(PEAK, _OF_PEAK[dtype]),)
    return Case(title, variant, call, frozenset({FLEX}), targets=targets)


def _masks() -> Iterator[tuple[str, Lazy]]:
    for name in ("sliding_window", "document"):
        for dtype in _DTYPES:
            title = f"mask/{name}/{dtype}/16-16/N2048/D64"
            yield title, lambda a=(title, name, dtype): _mask_case(*a)


def _mask_case(title: str, name: str, dtype: str) -> Case:
    case = _flex_case(title, name, dtype, _HEADS[0], 2048, 64)
    return dataclasses.replace(case, peers=frozenset({SDPA}), targets=())


def _decode() -> Iterator[tuple[str, Lazy]]:
    for name, params in (("full", {}), ("soft_cap", {"cap": 50.0}), ("sigmoid", {})):
        for dtype in _DTYPES:
            for d in (64, 128):
                for b, kv in ((8, 8192), (1, 131072)):
                    title = f"decode/{name}/{dtype}/B{b}/KV{kv}/D{d}"
                    shape = Shape(b, 32, 8, 1, kv, d, d)
                    arguments = (title, name, dtype, shape, params)
                    yield title, lambda a=arguments: _decode_case(*a)


def _decode_case(
    title: str, name: str, dtype: str, shape: Shape, params: Mapping[str, ParamValue]
) -> Case:
    variant = load_variant(name)
    call = make_call(variant, shape, _DTYPES[dtype], params)
    peers = {SDPA} if name == "full" else {FLEX} if name == "soft_cap" and shape.b > 1 else set()
    return Case(title, variant, call, frozenset(peers), Clock.WALL, targets=(Target(READ, _READ),))


def _gallery() -> Iterator[tuple[str, Lazy]]:
    for path in sorted(EXAMPLES.glob("*.attn")):
        for dtype in _DTYPES:
            title = f"gallery/{path.stem}/{dtype}"
            yield title, lambda a=(title, path.stem, dtype): _gallery_case(*a)


def _gallery_case(title: str, name: str, dtype: str) -> Case:
    variant, plain = load_variant(name), load_variant("full")
    n = _GALLERY_LENGTH
    d, dv = WIDTHS.get(name, (64, 64))
    shape = Shape(1, HEADS, HEADS, QUERIES.get(name, n), n, d, dv)
    params = PARAMS[name](n, torch.Generator().manual_seed(1)) if name in PARAMS else {}
    call = make_call(variant, shape, _DTYPES[dtype], params)
    beside = {"plain": (plain, make_call(plain, call.shape, _DTYPES[dtype]))}
    target = Target("plain", 1 / _WITHIN_PLAIN)
    return Case(title, variant, call, frozenset(), beside=beside, targets=(target,))


_Change = Callable[[Call], Call]


def _ragged() -> Iterator[tuple[str, Lazy]]:
    for name in ("full", "causal"):
        for dtype in _DTYPES:
            for label in _CHANGES:
                title = f"ragged/{name}/{dtype}/{label}"
                yield title, lambda a=(title, name, dtype, label): _ragged_case(*a)


def _transposed(call: Call) -> Call:
    """Return a call on [B, N, H, D] memory, as models have it."""
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (call.q, call.k, call.v))
    return dataclasses.replace(call, q=q, k=k, v=v)


def _lengths(call: Call) -> Call:
    return dataclasses.replace(call, options={"kv_lens": torch.tensor([call.shape.kv - 37])})


_CHANGES: Mapping[str, tuple[int, _Change]] = {
    "2047": (2047, lambda call: call),
    "2017": (2017, lambda call: call),
    "1999": (1999, lambda call: call),
    "strided": (2048, _transposed),
    "kv_lens": (2048, _lengths),
}


def _ragged_case(title: str, name: str, dtype: str, label: str) -> Case:
    variant = load_variant(name)
    n, change = _CHANGES[label]
    aligned = make_call(variant, _square(_HEADS[1], 2048, 64), _DTYPES[dtype])
    call = change(make_call(variant, _square(_HEADS[1], n, 64), _DTYPES[dtype]))
    target = Target("aligned", 1 / _WITHIN_ALIGNED)
    beside = {"aligned": (variant, aligned)}
    return Case(title, variant, call, frozenset(), beside=beside, targets=(target,))
