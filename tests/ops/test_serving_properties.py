"""Random serving steps: lengths, pages, sharing, windows and parts against each request alone."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_scenes import assert_close, draw_scene, oracle
from support import EXAMPLES

import attnlang
from attnlang import PagedKV, Part
from attnlang.ops.variant import Variant

STEPS = {
    "seed": st.integers(0, 2**31),
    "name": st.sampled_from(["full", "causal", "sliding_window", "gemma2_local", "sink"]),
    "parts": st.integers(1, 3),
    "page": st.sampled_from([1, 2, 4, 7, 16]),
    "window": st.integers(1, 60),
    "share": st.booleans(),
    "most_rows": st.sampled_from([1, 5, 70]),
    "most_keys": st.sampled_from([3, 40, 150]),
}


def load(name: str) -> Variant:
    return attnlang.load(EXAMPLES / f"{name}.attn")


def _check(
    seed: int, name: str, parts: int, page: int, window: int, share: bool, most_rows: int,
    most_keys: int,
) -> None:  # fmt: skip
    variant = load(name)
    parts = 1 if share else parts
    scene = draw_scene(
        seed, parts=parts, page=page, same_prefix=share, most_rows=most_rows, most_keys=most_keys,
        paged=True if share else None,
    )  # fmt: skip
    planned = {"window_size": window} if name not in ("full", "causal") else {}
    given = {"sink": torch.randn(4)} if name == "sink" else {}
    plan = variant.plan(scene.q_indptr, scene.given, num_q_heads=4, share_prefixes=share, **planned)
    pools = scene.pools[0] if share else scene.pools
    out, lse = plan.run(scene.q, pools, return_lse=True, **given)
    assert_close(out, lse, *oracle(variant, scene, **planned, **given), 2e-5)


@settings(max_examples=200, deadline=None)
@given(**STEPS)
def test_a_step_is_each_request_alone(**step: object) -> None:
    _check(**step)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(**STEPS)
def test_ten_thousand_steps_are_each_request_alone(**step: object) -> None:
    _check(**step)


def _resident() -> int:
    """Return the memory that this process holds, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pages", "maxima", "parts"])
def test_no_step_leaks(kind: str) -> None:
    """Over 10,000 steps, nor does a plan that is made anew each hundred of them."""
    causal = load("causal")
    rows = 8
    pool = torch.randn(64, 4, 2, 16)
    q = torch.randn(rows, 4, 16)
    limits = {"max_requests": 9, "max_q_tokens": 12, "max_pages": 80} if kind != "pages" else {}
    plan = None
    held = 0
    for step in range(10_000):
        lens = [1 + (step * 7 + b * 3) % 30 for b in range(rows)]
        counts = [-(-n // 4) for n in lens]
        cache = PagedKV(
            pool, pool, torch.tensor([0, *counts]).cumsum(0),
            torch.arange(sum(counts)) % 64,
            torch.tensor([n - (c - 1) * 4 for n, c in zip(lens, counts, strict=True)]),
        )  # fmt: skip
        kv: object = cache
        if kind == "parts":
            pages = 1 + step % 5
            prompt = PagedKV(
                pool, pool, torch.tensor([0, pages]), torch.arange(pages), torch.tensor([4])
            )
            kv = [Part(prompt, torch.tensor([0, rows])), cache]
        if plan is None or step % 100 == 0:
            plan = causal.plan(torch.arange(rows + 1), kv, num_q_heads=4, **limits)
        else:
            plan.update(torch.arange(rows + 1), kv)
        plan.run(q)
        if step == 2000:
            gc.collect()
            held = _resident()
    gc.collect()
    assert _resident() - held < 8 << 20
