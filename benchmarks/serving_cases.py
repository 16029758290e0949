"""The cases of `benchmarks/serving.py`: works to compare, the first of which is the measure.

decode, prefill   contiguous keys beside pages of several sizes, and bfloat16 pages beside fp8
dense             equal lengths as a dense call, which knows nothing of requests, beside a plan
prefix            sequences behind one prompt: one format beside parts
window            a window over skewed lengths, beside all keys
plan              what a plan and an update cost, beside one layer's run
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

import attnlang
from attnlang import PagedKV, Part
from attnlang.ops.variant import Variant

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
HEADS, KV_HEADS, WIDTH = 32, 8, 128
DTYPE = torch.bfloat16

Work = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Works to compare, and what else there is to say."""

    works: dict[str, Work]
    facts: dict[str, object] = field(default_factory=dict)


def starts(lens: Sequence[int]) -> Tensor:
    """Return where each request begins, and the end."""
    return torch.tensor(list(accumulate(lens, initial=0)))


def paged(lens: Sequence[int], page: int, dtype: torch.dtype = DTYPE) -> PagedKV:
    """Return a cache of random keys whose pages lie in random order."""
    counts = [-(-n // page) for n in lens]
    total = sum(counts)
    pool = torch.randn(total, 2, page, KV_HEADS, WIDTH, dtype=DTYPE).to(dtype)
    last = torch.tensor([n - (c - 1) * page if c else 0 for n, c in zip(lens, counts, strict=True)])
    return PagedKV(pool[:, 0], pool[:, 1], starts(counts), torch.randperm(total), last)


def rows(q_lens: Sequence[int]) -> Tensor:
    """Return query rows."""
    return torch.randn(sum(q_lens), HEADS, WIDTH, dtype=DTYPE)


def skewed(count: int, least: int, most: int) -> list[int]:
    """Return lengths of which few are long."""
    rng = random.Random(0)
    return [min(most, int(least * rng.paretovariate(0.8))) for _ in range(count)]


LENGTHS: dict[str, list[int]] = {
    "constant": [1024] * 16,
    "uniform": [random.Random(1).randint(512, 1536) for _ in range(16)],
    "skewed": skewed(16, 256, 8192),
}


def load(name: str) -> Variant:
    """Return a variant of the gallery."""
    return attnlang.load(EXAMPLES / f"{name}.attn")


def _ragged(variant: Variant, q_lens: Sequence[int], kv_lens: Sequence[int]) -> Work:
    q, total = rows(q_lens), sum(kv_lens)
    k, v = (torch.randn(total, KV_HEADS, WIDTH, dtype=DTYPE) for _ in "kv")
    plan = variant.plan(starts(q_lens), starts(kv_lens), num_q_heads=HEADS)
    return lambda: plan.run(q, (k, v))


def _paged(variant: Variant, q_lens: Sequence[int], cache: PagedKV, **planned: object) -> Work:
    q = rows(q_lens)
    plan = variant.plan(starts(q_lens), cache, num_q_heads=HEADS, **planned)
    return lambda: plan.run(q)


def _pages(q_len: int, lens: list[int], sizes: Sequence[int]) -> Case:
    causal, q_lens = load("causal"), [q_len] * len(lens)
    works = {"contiguous": _ragged(causal, q_lens, lens)}
    for page in sizes:
        works[f"page {page}"] = _paged(causal, q_lens, paged(lens, page))
    return Case(works)


def _dense(count: int, length: int) -> Case:
    causal, q = load("causal"), rows([1] * count).unsqueeze(2)
    shape = (count, length, KV_HEADS, WIDTH)
    k, v = (torch.randn(shape, dtype=DTYPE).transpose(1, 2) for _ in "kv")
    return Case(
        {
            "dense": lambda: causal(q, k, v),
            "planned": _ragged(causal, [1] * count, [length] * count),
        }
    )


def _fp8(lens: list[int]) -> Case:
    causal, q_lens = load("causal"), [1] * len(lens)
    works = {"bf16": _paged(causal, q_lens, paged(lens, 16))}
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        name = str(dtype).removeprefix("torch.float8_")
        works[name] = _paged(causal, q_lens, paged(lens, 16, dtype))
    return Case(works)


def _prefix(shared: int, own: int, count: int) -> Case:
    causal, page = load("causal"), 16
    pages = (shared + count * own) // page
    pool = torch.randn(pages, 2, page, KV_HEADS, WIDTH, dtype=DTYPE)
    numbers = torch.randperm(pages)
    prompt, rest = numbers[: shared // page], numbers[shared // page :].reshape(count, -1)
    each = torch.cat([prompt.expand(count, -1), rest], dim=1)
    last = torch.full((count,), page)

    def cache(table: Tensor) -> PagedKV:
        indptr = torch.arange(table.shape[0] + 1) * table.shape[1]
        return PagedKV(pool[:, 0], pool[:, 1], indptr, table.flatten(), last[: table.shape[0]])

    q, q_indptr = rows([1] * count), torch.arange(count + 1)
    one = causal.plan(q_indptr, cache(each), num_q_heads=HEADS)
    found = causal.plan(q_indptr, cache(each), num_q_heads=HEADS, share_prefixes=True)
    head = Part(cache(prompt.unsqueeze(0)), torch.tensor([0, count]))
    parts = causal.plan(q_indptr, [head, cache(rest)], num_q_heads=HEADS)
    works: dict[str, Work] = {
        "one format": lambda: one.run(q),
        "parts": lambda: parts.run(q),
        "parts found": lambda: found.run(q),
    }
    return Case(works)


def _window(lens: list[int]) -> Case:
    window, cache, q_lens = load("sliding_window"), paged(lens, 16), [1] * len(lens)
    return Case(
        {
            "all keys": _paged(load("causal"), q_lens, cache),
            "window 512": _paged(window, q_lens, cache, window_size=512),
        }
    )


def _plan(lens: list[int]) -> Case:
    causal, cache, count = load("causal"), paged(lens, 16), len(lens)
    q, q_indptr = rows([1] * count), torch.arange(count + 1)
    plan = causal.plan(q_indptr, cache, num_q_heads=HEADS)
    return Case(
        {
            "run": lambda: plan.run(q),
            "plan": lambda: causal.plan(q_indptr, cache, num_q_heads=HEADS),
            "plan, prefixes": lambda: causal.plan(
                q_indptr, cache, num_q_heads=HEADS, share_prefixes=True
            ),
            "update": lambda: plan.update(q_indptr, cache),
        }
    )


def _all() -> Iterator[tuple[str, Callable[[], Case]]]:
    for name, lens in LENGTHS.items():
        yield f"decode/{name}", lambda lens=lens: _pages(1, lens, (1, 16, 64))
        yield f"fp8/{name}", lambda lens=lens: _fp8(lens)
    yield "dense/16x1024", lambda: _dense(16, 1024)
    yield "prefill/4x512", lambda: _pages(512, [512] * 4, (1, 16, 64))
    yield "prefill/chunk", lambda: _pages(128, [2048] * 4, (1, 16))
    yield "prefix/32k x 64", lambda: _prefix(32768, 128, 64)
    yield "prefix/2k x 16", lambda: _prefix(2048, 128, 16)
    yield "window/skewed", lambda: _window(skewed(64, 1024, 16384))
    yield "plan/16", lambda: _plan(LENGTHS["skewed"])
    yield "plan/256", lambda: _plan(skewed(256, 256, 2048))


CASES = dict(_all())
