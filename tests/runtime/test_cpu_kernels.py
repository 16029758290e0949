"""`codegen/kernels/cpu_*.h` over hand-written functors, against a float64 oracle in torch.

Outputs start as NaN, shapes lie off every tile boundary, hidden keys and values hold NaN. Each
kernel runs the forward skeleton and, with few queries, the decoding one.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from cpu_harness import HERE, INCLUDES, Call, CTileCounts, build

ELEMENTS = {torch.float32: "float", torch.bfloat16: "Bf16", torch.float16: "Half"}
F32, BF16, F16 = ELEMENTS

# (functor, dtype, D, DV): what the default tests instantiate.
INSTANCES = [
    ("Plain", F32, 64, 64),
    ("Plain", BF16, 128, 40),
    ("CausalWindowSink", F32, 40, 24),
    ("CausalWindowSink", BF16, 64, 64),
    ("CapAlibi", F32, 16, 128),
    ("CapAlibi", F16, 64, 16),
    ("Padding", F32, 64, 41),
    ("Padding", BF16, 33, 64),
    ("SigmoidCausal", F32, 16, 33),
]


def _name(functor: str, dtype: torch.dtype, d: int, dv: int) -> str:
    return f"{functor}_{ELEMENTS[dtype]}_{d}_{dv}"


def _source(instances) -> str:
    lines = ['#include "variants.h"', "using namespace attnlang;"]
    for functor, dtype, d, dv in instances:
        name = _name(functor, dtype, d, dv)
        args = f"cpu::{functor}, {'' if dtype == F32 else 'attnlang::'}{ELEMENTS[dtype]}, {d}, {dv}"
        lines += [
            f'extern "C" int run_{name}(const Call* c, char* e) {{',
            f"  return cpu::run<{args}>(*c, e); }}",
            f'extern "C" int count_{name}(const Call* c, TileCounts* n, char* e) {{',
            f"  return cpu::count_tiles<{args}>(*c, n, e); }}",
        ]
    return "\n".join(lines)


class Kernels:
    """Functions of several libraries by name."""

    def __init__(self, instances, units: int) -> None:
        parts = [instances[i::units] for i in range(units)]
        with ThreadPoolExecutor(units) as pool:
            self.libraries = list(pool.map(lambda part: build(_source(part)), parts))

    def __getattr__(self, name: str):
        for library in self.libraries:
            if hasattr(library, name):
                return getattr(library, name)
        raise AttributeError(name)


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return Kernels(INSTANCES, 2)


def _mask(functor, q, k, call, b_lens, offsets, tensors, scalars) -> torch.Tensor:
    """Which (b, h, i, j) are kept, [B, HQ, Q, KV]."""
    batch, heads, queries, _ = q.shape
    keys = k.shape[2]
    rows, columns = torch.arange(queries)[:, None], torch.arange(keys)
    keep = torch.ones(batch, heads, queries, keys, dtype=torch.bool)
    for b in range(batch):
        kv_offset = offsets[1][b]
        q_offset = kv_offset + b_lens[b] - queries if offsets[0] is None else offsets[0][b]
        i, j = rows + q_offset, columns + kv_offset
        if functor == "CausalWindowSink":
            keep[b] &= (i - j >= 0) & (i - j < scalars[0])
        elif functor in ("CapAlibi", "SigmoidCausal"):
            keep[b] &= j <= i
        elif functor == "Padding":
            keep[b] &= tensors[0][b] & (columns <= tensors[1][b][:, None])
        keep[b] &= columns < b_lens[b]
    return keep


def oracle(functor, q, k, v, *, scale, b_lens, offsets, tensors, scalars, keep):
    """Out and lse in float64."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (t.double() for t in (q, k, v))
    hidden = ~keep.any(2).any(1)  # [B, KV]: what may hold NaN
    k = k.masked_fill(hidden[:, None, :, None], 0).repeat_interleave(group, 1)
    v = v.masked_fill(hidden[:, None, :, None], 0).repeat_interleave(group, 1)
    score = scale * (q @ k.transpose(-1, -2))
    if functor == "CapAlibi":
        cap, slopes = scalars[0], tensors[0].double()
        distance = torch.empty(keep.shape, dtype=torch.float64)
        for b in range(q.shape[0]):
            kv_offset = offsets[1][b]
            q_offset = kv_offset + b_lens[b] - q.shape[2] if offsets[0] is None else offsets[0][b]
            i = torch.arange(q.shape[2])[:, None] + q_offset
            distance[b] = (torch.arange(k.shape[2]) + kv_offset - i).double()
        score = cap * torch.tanh(score / cap) + slopes[:, None, None] * distance
    top = (
        score.masked_fill(~keep, -math.inf).abs().nan_to_num(posinf=0).amax(-1, keepdim=True)
        if (keep.shape[-1])
        else score.new_zeros(*score.shape[:3], 1)
    )
    if functor == "SigmoidCausal":
        weights = torch.sigmoid(score + scalars[0]).masked_fill(~keep, 0)
        return weights @ v, None, top, (weights @ v.abs())
    score = score.masked_fill(~keep, -math.inf)
    lse = score.logsumexp(-1) if keep.shape[-1] else score.new_full(score.shape[:3], -math.inf)
    total = lse
    if functor == "CausalWindowSink":
        total = torch.logaddexp(lse, tensors[0].double()[None, :, None].expand_as(lse))
    weights = torch.exp(score - total.masked_fill(total == -math.inf, 0)[..., None])
    return weights @ v, lse, top, weights @ v.abs()


def check(kernels, instance, b, h, hk, queries, keys, *, offsets=(None, None), lens=None, layout=0):
    """Run one call and compare; return its out and lse."""
    functor, dtype, d, dv = instance
    generator = torch.Generator().manual_seed(hash((queries, keys, h)) % 2**31)

    def random(*shape: int) -> torch.Tensor:
        shape = (shape[0], shape[2], shape[1], shape[3]) if layout == 1 else shape
        if layout == 2:  # an odd inner stride, and rows apart
            x = torch.randn(*shape[:3], 2 * shape[3] + 1, generator=generator).to(dtype)
            return x[..., : 2 * shape[3] : 2]
        x = torch.randn(*shape, generator=generator).to(dtype)
        return x.transpose(1, 2) if layout == 1 else x

    q, k, v = random(b, h, queries, d), random(b, hk, keys, d), random(b, hk, keys, dv)
    b_lens = [keys] * b if lens is None else [min(max(n, 0), keys) for n in lens.tolist()]
    scalars: tuple = ()
    tensors: tuple = ()
    if functor == "CausalWindowSink":
        scalars, tensors = (37,), (torch.randn(h, generator=generator),)
    elif functor == "CapAlibi":
        scalars, tensors = (5.0,), (torch.rand(h, generator=generator),)
    elif functor == "SigmoidCausal":
        scalars = (-1.5,)
    elif functor == "Padding":
        flags = torch.rand(b, keys, generator=generator) < 0.7
        flags[:, keys // 2 : keys // 2 + 70] = False  # a wholly hidden tile, visible ones after
        limits = torch.randint(-2, keys + 3, (b, queries), generator=generator, dtype=torch.int32)
        tensors = (flags, limits)
    q_offset, kv_offset = offsets
    kv_offsets = [0] * b if kv_offset is None else kv_offset.tolist()
    q_offsets = None if q_offset is None else q_offset.tolist()
    keep = _mask(functor, q, k, None, b_lens, (q_offsets, kv_offsets), tensors, scalars)
    if functor in ("Padding", "Plain"):  # columns past the length, or hidden: NaN in k and v
        hidden = torch.arange(keys) >= torch.tensor(b_lens)[:, None]
        if functor == "Padding":
            hidden = hidden | ~tensors[0]
        k = k.clone().masked_fill(hidden[:, None, :, None], math.nan) if layout == 0 else k
        v = v.clone().masked_fill(hidden[:, None, :, None], math.nan) if layout == 0 else v
    scale = 0.7 * d**-0.5
    call = Call(
        q, k, v, scale=scale, q_offset=q_offset, scalars=scalars, tensors=tensors, kv_lens=lens,
        kv_offset=0 if kv_offset is None else kv_offset,
        out=torch.full((b, queries, h, dv), math.nan, dtype=dtype).transpose(1, 2)
        if layout == 1 else None,
    )  # fmt: skip
    out, lse = call.run(getattr(kernels, f"run_{_name(*instance)}"))
    wanted, wanted_lse, top, weight = oracle(
        functor, q, k, v, scale=scale, b_lens=b_lens, offsets=(q_offsets, kv_offsets),
        tensors=tensors, scalars=scalars, keep=keep,
    )  # fmt: skip
    error = (out.double() - wanted).abs()
    # float32 arithmetic, then the rounding of weights and outputs to the dtype.
    eps = 2.0**-24 if dtype == F32 else torch.finfo(dtype).eps
    allowed = (1e-5 + 4 * 2.0**-23 * top) * (1 + weight)
    if dtype != F32:
        allowed = allowed + eps * (weight + wanted.abs())
    assert (error <= allowed).all(), (instance, error.max(), (error - allowed).max())
    empty = ~keep.any(-1)
    assert (out[empty] == 0).all()
    if wanted_lse is not None:
        assert torch.equal(lse == -math.inf, empty)
        difference = (lse.double() - wanted_lse).masked_fill(empty, 0).abs()
        assert (difference <= 1e-5 + 4 * 2.0**-23 * top[..., 0]).all(), difference.max()
    return out, lse


FORWARD = [
    # b, h, hk, queries, keys
    (2, 4, 2, 100, 133),
    (1, 2, 1, 64, 64),
    (1, 3, 3, 65, 1),
    (1, 2, 2, 130, 31),
    (2, 1, 1, 17, 257),
    (1, 1, 1, 193, 192),
    (1, 2, 1, 70, 1300),  # keys in parts
]
DECODE = [
    (3, 4, 2, 1, 133),
    (1, 20, 1, 1, 65),
    (2, 6, 2, 2, 257),
    (1, 1, 1, 1, 1),
    (1, 8, 2, 2, 2100),  # keys in parts
]


@pytest.mark.parametrize("instance", INSTANCES, ids=lambda i: _name(*i))
@pytest.mark.parametrize("shape", FORWARD + DECODE, ids=str)
def test_shapes(kernels, instance, shape) -> None:
    check(kernels, instance, *shape)


@pytest.mark.parametrize("instance", INSTANCES, ids=lambda i: _name(*i))
@pytest.mark.parametrize("layout", [1, 2])
def test_strides(kernels, instance, layout) -> None:
    for shape in (FORWARD[0], FORWARD[4], DECODE[0], DECODE[2]):
        check(kernels, instance, *shape, layout=layout)


@pytest.mark.parametrize("instance", INSTANCES, ids=lambda i: _name(*i))
@pytest.mark.parametrize("queries", [1, 77])
def test_lengths_and_offsets(kernels, instance, queries) -> None:
    for kind in (torch.int32, torch.int64):
        lens = torch.tensor([0, 5, 64, 999, -3, 130], dtype=kind)
        check(kernels, instance, 6, 2, 1, queries, 200, lens=lens)
        q_offset = torch.tensor([0, -30, 7, 300, 64, 100000], dtype=kind)
        kv_offset = torch.tensor([0, 0, 13, -5, 64, 99950], dtype=kind)
        check(kernels, instance, 6, 2, 2, queries, 90, offsets=(q_offset, kv_offset), lens=lens)
        check(kernels, instance, 6, 1, 1, queries, 90, offsets=(None, kv_offset), lens=lens)


@pytest.mark.parametrize("instance", INSTANCES, ids=lambda i: _name(*i))
def test_nothing_to_do(kernels, instance) -> None:
    for shape in ((0, 2, 1, 5, 5), (1, 2, 1, 0, 5), (2, 2, 2, 70, 0), (2, 2, 2, 1, 0)):
        check(kernels, instance, *shape)


def test_bitwise_equal_on_any_number_of_threads(kernels) -> None:
    before = torch.get_num_threads()
    try:
        for instance, shape in itertools.product(INSTANCES, (FORWARD[0], FORWARD[6], *DECODE[::4])):
            results = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                results.append(check(kernels, instance, *shape))
            for out, lse in results[1:]:
                assert torch.equal(out, results[0][0])
                assert torch.equal(lse, results[0][1]) or instance[0] == "SigmoidCausal"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("queries", [1, 80])
def test_nan_reaches_its_row_only(kernels, queries) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 2, queries, 64), torch.randn(1, 2, 100, 64), torch.randn(1, 2, 100, 64)
    q[0, 1, queries // 2, 3] = math.nan
    out, lse = Call(q, k, v).run(kernels.run_Plain_float_64_64)
    bad = torch.zeros(1, 2, queries, dtype=torch.bool)
    bad[0, 1, queries // 2] = True
    assert torch.equal(out.isnan().all(-1), bad)
    assert torch.equal(out.isnan().any(-1), bad)
    assert torch.equal(lse.isnan(), bad)


@pytest.mark.parametrize("queries", [1, 80])
def test_scores_of_minus_infinity_are_masked(kernels, queries) -> None:
    torch.manual_seed(0)
    q, k, v = torch.ones(1, 1, queries, 64), torch.randn(1, 1, 100, 64), torch.randn(1, 1, 100, 64)
    k[0, 0, ::2, 0] = -math.inf
    out, lse = Call(q, k, v).run(kernels.run_Plain_float_64_64)
    wanted, wanted_lse = Call(q, k[:, :, 1::2], v[:, :, 1::2]).run(kernels.run_Plain_float_64_64)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lse, wanted_lse)
    k[..., 0] = -math.inf
    out, lse = Call(q, k, v).run(kernels.run_Plain_float_64_64)
    assert (out == 0).all()
    assert (lse == -math.inf).all()


@pytest.mark.parametrize("queries", [1, 80])
def test_scores_past_the_end_of_float32_are_masked(kernels, queries) -> None:
    """Scores are float32 times log2(e): -FLT_MAX, which models write for "hidden", is -inf."""
    q, k, v = torch.zeros(1, 1, queries, 64), torch.zeros(1, 1, 100, 64), torch.randn(1, 1, 100, 64)
    q[..., 0], k[..., 0] = 1.0, -torch.finfo(torch.float32).max
    out, lse = Call(q, k, v, scale=1.0).run(kernels.run_Plain_float_64_64)
    assert (out == 0).all()
    assert (lse == -math.inf).all()
    k[..., 0] = -2e38
    out, lse = Call(q, k, v, scale=1.0).run(kernels.run_Plain_float_64_64)
    torch.testing.assert_close(out, v.mean(2, keepdim=True).expand_as(out))
    torch.testing.assert_close(lse, torch.full_like(lse, -2e38))


@pytest.mark.parametrize("queries", [1, 80])
def test_an_infinite_sink_takes_all_of_the_weight(kernels, queries) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, queries, 40), torch.randn(1, 2, 90, 40), torch.randn(1, 2, 90, 24)
    sinks = torch.tensor([math.inf, -math.inf, 3e38, 0.5])

    def run(sinks: torch.Tensor):
        call = Call(q, k, v, scalars=(37,), tensors=(sinks,))
        return call.run(kernels.run_CausalWindowSink_float_40_24)

    (out, lse), (finite, same_lse) = run(sinks), run(sinks.clamp(-1e4, 1e4))
    assert torch.equal(out, finite)
    assert torch.equal(lse, same_lse)
    assert not out[:, ::2].any()


@pytest.mark.parametrize("queries", [1, 80])
def test_large_scores_do_not_overflow(kernels, queries) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 64) for n in (queries, 200, 200))
    call = Call(q, k, v, scale=40.0)
    out, lse = call.run(kernels.run_Plain_float_64_64)
    score = 40 * q.double() @ k.double().transpose(-1, -2)
    top = score.abs().amax(-1)
    assert ((lse - score.logsumexp(-1)).abs() <= 1e-5 + 4 * 2.0**-23 * top).all()
    error = (out - score.softmax(-1) @ v.double()).abs()
    assert (error <= (1e-5 + 4 * 2.0**-23 * top)[..., None] * (1 + v.abs().max())).all()


def test_reads_and_writes_stay_inside(kernels) -> None:
    """Each tensor ends where an unreadable page begins."""
    script = """
import ctypes, math, mmap, sys, torch
sys.path.insert(0, sys.argv[1])
from test_cpu_kernels import INSTANCES, Call, Kernels, _name, F32
libc = ctypes.CDLL(None, use_errno=True)
def fenced(*shape, dtype):
    t = torch.randn(*shape).to(dtype)
    size = t.numel() * t.element_size()
    pages = -(-size // 4096) * 4096
    memory = mmap.mmap(-1, pages + 4096)
    buffer = torch.frombuffer(memory, dtype=torch.uint8)
    end = buffer.data_ptr() + pages
    assert libc.mprotect(ctypes.c_void_p(end), ctypes.c_size_t(4096), 0) == 0
    inside = buffer[pages - size : pages].view(dtype).view(t.shape)
    inside.copy_(t)
    return inside
kernels = Kernels(INSTANCES, 2)
for instance in INSTANCES:
    functor, dtype, d, dv = instance
    for queries, keys in ((1, 3), (1, 66), (2, 129), (65, 67), (7, 1), (130, 190)):
        q, k, v = (fenced(1, 1, *s, dtype=dtype) for s in ((queries, d), (keys, d), (keys, dv)))
        out = fenced(1, 1, queries, dv, dtype=dtype)
        real = functor in ("CapAlibi", "SigmoidCausal")
        tensors = (fenced(1, dtype=F32),)
        if functor == "Padding":
            tensors = (fenced(1, keys, dtype=torch.bool), fenced(1, queries, dtype=torch.int32))
        Call(q, k, v, out=out, scalars=(5.0,) if real else (37,), tensors=tensors).run(
            getattr(kernels, "run_" + _name(*instance)))
print("inside")
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", script, str(HERE)], capture_output=True, text=True,
        env=environment, check=False,
    )  # fmt: skip
    assert result.stdout == "inside\n", (result.returncode, result.stderr[-2000:])


def test_a_forked_child_runs_serially(kernels) -> None:
    script = """
import os, signal, sys, torch
sys.path.insert(0, sys.argv[1])
from test_cpu_kernels import INSTANCES, Call, Kernels
torch.set_num_threads(2)
kernels = Kernels(INSTANCES, 2)
q = torch.randn(1, 2, 100, 64)  # too small for torch to go parallel in the child
wanted = Call(q, q, q).run(kernels.run_Plain_float_64_64)[0]
child = os.fork()
if child == 0:
    signal.alarm(20)
    call = Call(q, q, q)
    os._exit(0 if torch.equal(call.run(kernels.run_Plain_float_64_64)[0], wanted) else 3)
print(os.waitpid(child, 0)[1])
"""
    result = subprocess.run(
        [sys.executable, "-c", script, str(HERE)], capture_output=True, text=True, check=False
    )
    assert result.stdout == "0\n", (result.stdout, result.stderr[-2000:])


def _brute_force(keep: torch.Tensor, tile: int = 64) -> tuple[int, int, int]:
    full = partial = empty = 0
    for head in keep.flatten(0, 1):
        for rows in head.split(tile, 0):
            for part in rows.split(tile, 1):
                full += bool(part.all())
                partial += bool(part.any() and not part.all())
                empty += not part.any()
    return full, partial, empty


@pytest.mark.parametrize("window", [1, 37, 64, 65, 500, 10**12])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1000), (64, 64), (200, 333), (513, 129)])
def test_tile_counts_of_a_window_are_exact(kernels, window, queries, keys) -> None:
    q, k = torch.zeros(2, 2, queries, 40), torch.zeros(2, 1, keys, 40)
    v = torch.zeros(2, 1, keys, 24)
    lens = torch.tensor([keys, keys // 3])
    call = Call(q, k, v, kv_lens=lens, scalars=(window,), tensors=(torch.zeros(2),))
    counts = call.count(kernels.count_CausalWindowSink_float_40_24)
    keep = _mask("CausalWindowSink", q, k, None, lens.tolist(), (None, [0, 0]), (), (window,))
    full, partial, empty = _brute_force(keep)
    assert (counts.query_tile, counts.key_tile) == (64, 64)
    # A tile that the length cuts runs without a mask where what is left of it is full.
    cut = 0
    for b, n in enumerate(lens.tolist()):
        if n % 64 and n < keys:
            edge = keep[b, :, :, n // 64 * 64 : n]
            for head in edge:
                cut += sum(bool(rows.all()) for rows in head.split(64, 0))
    assert (counts.full, counts.partial, counts.empty) == (full + cut, partial - cut, empty)


def test_tile_counts_of_tensors_are_sound(kernels) -> None:
    torch.manual_seed(0)
    q, k, v = torch.zeros(1, 1, 300, 64), torch.zeros(1, 1, 500, 64), torch.zeros(1, 1, 500, 41)
    flags = torch.ones(1, 500, dtype=torch.bool)
    flags[0, 128:256] = False
    flags[0, 300] = False
    limits = torch.arange(300, dtype=torch.int32)[None] + 200
    counts = Call(q, k, v, tensors=(flags, limits)).count(kernels.count_Padding_float_64_41)
    keep = flags[0] & (torch.arange(500) <= limits[0][:, None])
    assert (counts.full, counts.partial, counts.empty) == _brute_force(keep[None, None])


def test_plain_attention_visits_everything_unmasked(kernels) -> None:
    q, k = torch.zeros(2, 4, 130, 64), torch.zeros(2, 2, 65, 64)
    counts = Call(q, k, k).count(kernels.count_Plain_float_64_64)
    assert (counts.full, counts.partial, counts.empty) == (2 * 4 * 3 * 2, 0, 0)


def test_refusals(kernels) -> None:
    run = kernels.run_Plain_float_64_64
    q, k = torch.zeros(1, 2, 3, 64), torch.zeros(1, 1, 5, 64)

    def refused(**changes) -> str:
        call = Call(changes.pop("q", q), changes.pop("k", k), changes.pop("v", k), **changes)
        return call.error(run)

    assert "last dimension of 32, the kernel was built for 64" in refused(
        v=torch.zeros(1, 1, 5, 32)
    )
    assert "no multiple" in refused(q=torch.zeros(1, 3, 3, 64), k=torch.zeros(1, 2, 5, 64),
                                    v=torch.zeros(1, 2, 5, 64))  # fmt: skip
    assert "do not agree" in refused(v=torch.zeros(1, 1, 6, 64))
    assert "dtype" in refused(q=q.double())
    assert "positions" in refused(kv_offset=2**30 + 1)
    assert "positions" in refused(q_offset=-(2**40))
    call = Call(q, k, k)
    call.c.v.rank = 3
    assert "v has rank 3, expected 4" in call.error(run)
    call = Call(q, k, k)
    call.c.version = 99
    assert "version" in call.error(run)
    counts, error = CTileCounts(), ctypes.create_string_buffer(512)
    assert kernels.count_Plain_float_64_64(ctypes.byref(call.c), ctypes.byref(counts), error) == -1


def test_a_functor_that_lacks_a_part_is_told_so(tmp_path: Path) -> None:
    text = (
        '#include "variants.h"\nnamespace attnlang::cpu { struct Sinking : Plain '
        "{ static constexpr bool kSink = true; }; static_assert(check_variant<Sinking>()); }"
    )
    source = tmp_path / "unit.cpp"
    source.write_text(text)
    command = ["g++", "-std=c++20", "-fsyntax-only", *(f"-I{i}" for i in INCLUDES), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "a Variant with kSink has sink(Request, Row) -> F" in result.stderr
    assert result.stderr.count("static assertion failed") == 1
