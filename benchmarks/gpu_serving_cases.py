"""The serving cases of `benchmarks/gpu.py`: planned calls over pages and rows of any lengths.

decode    one row for each request: pages beside contiguous rows, a plan beside an unplanned call
fp8       decoding from pages of one byte, whose values bfloat16 holds exactly
window    decoding under a window, of which the plan knows
prefill   rows of prompts: a plan beside one dense call of equal lengths
prefix    64 sequences behind one prompt: parts beside one format

Invariant: contenders of a case have the same keys, so their results agree.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from cpu_cases import EXAMPLES
from gpu_cases import OURS, Case, Lazy, Run
from torch import Tensor

import attnlang
from attnlang import PagedKV, Part

HEADS, KV_HEADS, DIM = 32, 8, 128
_WORKSPACE = 128 << 20  # what FlashInfer's wrappers ask for


def skewed(count: int, least: int, most: int) -> list[int]:
    """Return lengths of which few are long."""
    rng = random.Random(0)
    return [min(most, int(least * rng.paretovariate(0.8))) for _ in range(count)]


def uniform(count: int, least: int, most: int) -> list[int]:
    """Return lengths between two."""
    rng = random.Random(1)
    return [rng.randint(least, most) for _ in range(count)]


DECODE: dict[str, list[int]] = {
    "B1/32768": [32768],
    "B16/1024": [1024] * 16,
    "B16/8192": [8192] * 16,
    "B16/uniform": uniform(16, 1024, 16384),
    "B16/skewed": skewed(16, 1024, 65536),
    "B64/8192": [8192] * 64,
    "B64/uniform": uniform(64, 1024, 16384),
    "B64/skewed": skewed(64, 1024, 65536),
}


@dataclass(frozen=True)
class Step:
    """Query rows and keys of requests, one after another."""

    q: Tensor
    k: Tensor
    v: Tensor
    q_indptr: Tensor
    kv_indptr: Tensor
    lens: list[int]

    def cache(self, page: int, dtype: torch.dtype = torch.bfloat16) -> PagedKV:
        """Return the keys in pages that lie in random order."""
        counts = [-(-n // page) for n in self.lens]
        total, indptr = sum(counts), starts(counts)
        numbers = torch.randperm(total, generator=torch.Generator().manual_seed(page))
        last = torch.tensor([n - (c - 1) * page for n, c in zip(self.lens, counts, strict=True)])
        pool = torch.zeros(total, 2, page, KV_HEADS, DIM, device="cuda", dtype=dtype)
        cache = PagedKV(pool[:, 0], pool[:, 1], indptr, numbers, last)
        positions = torch.cat([torch.arange(n) for n in self.lens])
        cache.append(self.k, self.v, positions, self.kv_indptr)
        return cache


def starts(lens: Sequence[int]) -> Tensor:
    """Return where each request begins, and the end."""
    return torch.tensor(list(accumulate(lens, initial=0)), dtype=torch.int32)


def draw(q_lens: Sequence[int], lens: list[int]) -> Step:
    """Draw a step; keys and values are such that pages of one byte hold them."""

    def rows(count: int, heads: int) -> Tensor:
        return torch.randn(count, heads, DIM, device="cuda", dtype=torch.bfloat16)

    k, v = (rows(sum(lens), KV_HEADS).to(torch.float8_e4m3fn).bfloat16() for _ in "kv")
    return Step(rows(sum(q_lens), HEADS), k, v, starts(q_lens), starts(lens), lens)


def serving() -> Iterator[tuple[str, Lazy]]:
    """Yield the cases."""
    for name, lens in DECODE.items():
        yield f"decode/{name}", partial(_decode, lens)
    for name in ("B16/8192", "B64/uniform"):
        yield f"fp8/{name}", partial(_fp8, DECODE[name])
    yield "window/B64/skewed", partial(_window, DECODE["B64/skewed"])
    for count, rows, length in ((8, 2048, 2048), (8, 512, 8192)):
        yield f"prefill/{count}x{rows}/{length}", partial(_prefill, count, rows, length)
    yield "prefill/uniform", partial(_prompts, uniform(16, 64, 2048))
    yield "prefix/32768x64", partial(_prefix, 32768, 128, 64)


def _load(name: str) -> attnlang.Variant:
    return attnlang.load(EXAMPLES / f"{name}.attn", name)


def _planned(
    step: Step,
    page: int | None,
    name: str = "causal",
    dtype: torch.dtype = torch.bfloat16,
    **planned: object,
) -> Run:
    """Plan a step over pages of a dtype, or over rows; `page` None."""
    variant = _load(name)
    if page is None:
        plan = variant.plan(step.q_indptr, step.kv_indptr, num_q_heads=HEADS, **planned)
        return lambda: plan.run(step.q, (step.k, step.v))
    plan = variant.plan(step.q_indptr, step.cache(page, dtype), num_q_heads=HEADS, **planned)
    return lambda: plan.run(step.q)


def _unplanned(step: Step) -> Run:
    variant = _load("causal")
    indptr = [x.cuda() for x in (step.q_indptr, step.kv_indptr)]
    return lambda: variant.ragged(step.q, step.k, step.v, *indptr)


def _dense(step: Step) -> Run:
    """Return the same as one call, for equal lengths."""
    variant, count = _load("causal"), len(step.lens)
    q, k, v = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in (step.q, step.k, step.v))
    rows = step.q.shape

    def attend() -> Tensor:
        return variant(q, k, v).transpose(1, 2).reshape(rows)

    return attend


def _flashinfer(step: Step, *, tensor_cores: bool) -> Run:
    import flashinfer

    cache = step.cache(16)
    room = torch.zeros(_WORKSPACE, dtype=torch.uint8, device="cuda")
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        room, "NHD", use_tensor_cores=tensor_cores
    )
    tables = (x.int().cuda() for x in (cache.indptr, cache.indices, cache.last_page_len))
    wrapper.plan(
        *tables, HEADS, KV_HEADS, DIM, 16, q_data_type=torch.bfloat16, data_type=torch.bfloat16
    )
    pools = (cache.k_pages, cache.v_pages)
    return lambda: wrapper.run(step.q, pools)


def _bytes(lens: Sequence[int]) -> float:
    return float(2 * sum(lens) * KV_HEADS * DIM * 2)


def _decode(lens: list[int]) -> Case:
    step = draw([1] * len(lens), lens)
    contenders: dict[str, Callable[[], Run]] = {
        OURS: partial(_planned, step, 16),
        "page 1": partial(_planned, step, 1),
        "page 64": partial(_planned, step, 64),
        "contiguous": partial(_planned, step, None),
        "unplanned": partial(_unplanned, step),
    }
    if len(set(lens)) == 1:
        contenders["dense"] = partial(_dense, step)
    contenders["flashinfer"] = partial(_flashinfer, step, tensor_cores=False)
    return Case(_bytes(lens), "GB/s", contenders)


def _fp8(lens: list[int]) -> Case:
    step = draw([1] * len(lens), lens)
    small = partial(_planned, step, 16, dtype=torch.float8_e4m3fn)
    # Both in bytes of bfloat16: what one byte is worth shows as a higher rate.
    return Case(_bytes(lens), "GB/s", {OURS: small, "bf16": partial(_planned, step, 16)})


def _window(lens: list[int]) -> Case:
    step, size = draw([1] * len(lens), lens), 1024
    seen = [min(n, size) for n in lens]
    planned = partial(_planned, step, name="sliding_window", window_size=size)
    contenders = {OURS: partial(planned, 16), "contiguous": partial(planned, None)}
    return Case(_bytes(seen), "GB/s", contenders)


def _causal_work(q_lens: Sequence[int], lens: Sequence[int]) -> float:
    pairs = sum(q * (kv - (q - 1) / 2) for q, kv in zip(q_lens, lens, strict=True))
    return 4.0 * DIM * HEADS * pairs


def _prefill(count: int, rows: int, length: int) -> Case:
    q_lens, lens = [rows] * count, [length] * count
    step = draw(q_lens, lens)
    contenders = {
        OURS: partial(_planned, step, 16),
        "page 1": partial(_planned, step, 1),
        "page 64": partial(_planned, step, 64),
        "fp8": partial(_planned, step, 16, dtype=torch.float8_e4m3fn),
        "contiguous": partial(_planned, step, None),
        "unplanned": partial(_unplanned, step),
        "dense": partial(_dense, step),
    }
    return Case(_causal_work(q_lens, lens), "TFLOP/s", contenders)


def _prompts(lens: list[int]) -> Case:
    step = draw(lens, lens)
    contenders = {
        OURS: partial(_planned, step, 16),
        "contiguous": partial(_planned, step, None),
        "unplanned": partial(_unplanned, step),
    }
    return Case(_causal_work(lens, lens), "TFLOP/s", contenders)


def _prefix(shared: int, own: int, count: int) -> Case:
    page = 16
    pages = (shared + count * own) // page
    pool = torch.randn(pages, 2, page, KV_HEADS, DIM, device="cuda", dtype=torch.bfloat16)
    numbers = torch.randperm(pages, generator=torch.Generator().manual_seed(1))
    prompt, rest = numbers[: shared // page], numbers[shared // page :].reshape(count, -1)
    variant, q_indptr = _load("causal"), torch.arange(count + 1)
    q = torch.randn(count, HEADS, DIM, device="cuda", dtype=torch.bfloat16)

    def cache(table: Tensor) -> PagedKV:
        indptr = torch.arange(table.shape[0] + 1) * table.shape[1]
        last = torch.full((table.shape[0],), page)
        return PagedKV(pool[:, 0], pool[:, 1], indptr, table.flatten(), last)

    def parts() -> Run:
        head = Part(cache(prompt.unsqueeze(0)), torch.tensor([0, count]))
        plan = variant.plan(q_indptr, [head, cache(rest)], num_q_heads=HEADS)
        return lambda: plan.run(q)

    def one() -> Run:
        each = torch.cat([prompt.expand(count, -1), rest], dim=1)
        plan = variant.plan(q_indptr, cache(each), num_q_heads=HEADS)
        return lambda: plan.run(q)

    # In bytes of one format: what sharing is worth shows as a higher rate.
    return Case(_bytes([shared + own] * count), "GB/s", {OURS: parts, "one format": one})
