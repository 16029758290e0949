"""What calls cost the host: the `host` target of `benchmarks/gpu.py`.

Each call is repeated while the GPU sleeps, so that nothing waits for it. `dispatch` is a call of
the op on a batch of no requests, which launches nothing; `op` is the op without `Variant`'s checks.
Beside them stand SDPA and the least that torch does with a tensor on a GPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from cpu_cases import EXAMPLES
from gpu_serving_cases import DIM, HEADS, KV_HEADS, draw
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import attnlang
from attnlang.ops.serving_plan import Plan

Call = Callable[[], object]

_SLEEP = 40_000_000  # cycles, some 20 ms: longer than the host takes for a round
_CALLS, _ROUNDS = 20, 25
_MICRO = 1e6


def host_calls() -> dict[str, Call]:
    """Return the calls by name."""
    causal = attnlang.load(EXAMPLES / "causal.attn", "causal")
    gemma = attnlang.load(EXAMPLES / "gemma2_local.attn", "gemma2_local")
    q, k, v = (_rows(4, heads, 2048) for heads in (HEADS, KV_HEADS, KV_HEADS))
    one, keys = _rows(16, HEADS, 1), [_rows(16, KV_HEADS, 1024) for _ in "kv"]
    op, none = causal.op, [x[:0] for x in (q, k, v)]
    step = draw([1] * 16, [1024] * 16)
    cache = step.cache(16)
    indptr = [x.cuda() for x in (step.q_indptr, step.kv_indptr)]
    most = {"max_requests": 16, "max_q_tokens": 16, "max_pages": 2048}
    plan = causal.plan(step.q_indptr, cache, num_q_heads=HEADS)
    held = causal.plan(step.q_indptr, cache, num_q_heads=HEADS, **most)
    rows = causal.plan(step.q_indptr, step.kv_indptr, num_q_heads=HEADS)
    few = torch.zeros(8, device="cuda")

    def next_step(which: Plan) -> None:
        which.update(step.q_indptr, cache)
        which.run(step.q)

    return {
        "torch: empty": lambda: torch.empty_like(few),
        "torch: one kernel": few.zero_,
        "SDPA, causal": lambda: scaled_dot_product_attention(q, q, q, is_causal=True),
        "SDPA, decoding": lambda: scaled_dot_product_attention(one, *keys, enable_gqa=True),
        "dispatch": lambda: op(*none),
        "op, causal": lambda: op(q, k, v),
        "op, decoding": lambda: op(one, *keys),
        "call, causal": lambda: causal(q, k, v),
        "call, decoding": lambda: causal(one, *keys),
        "call, gemma2_local": lambda: gemma(q, k, v, cap=30.0, window_size=256),
        "ragged": lambda: causal.ragged(step.q, step.k, step.v, *indptr),
        "plan.run, pages": lambda: plan.run(step.q),
        "plan.run, pages of a layer": lambda: plan.run(step.q, kv=(cache.k_pages, cache.v_pages)),
        "plan.run, rows": lambda: rows.run(step.q, (step.k, step.v)),
        "plan.run, maxima": lambda: held.run(step.q),
        "plan": lambda: causal.plan(step.q_indptr, cache, num_q_heads=HEADS),
        "plan.update": lambda: plan.update(step.q_indptr, cache),
        "plan.update and run": lambda: next_step(plan),
        "plan.update and run, maxima": lambda: next_step(held),
    }


def measure_host(calls: Mapping[str, Call]) -> dict[str, Any]:
    """Return the microseconds of each call; rounds of all calls take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for turn in range(_ROUNDS):
            for name, call in calls.items():
                call()
                torch.cuda.synchronize()
                torch.cuda._sleep(_SLEEP)
                start = time.perf_counter()
                for _ in range(_CALLS):
                    call()
                elapsed = time.perf_counter() - start
                torch.cuda.synchronize()
                if turn:  # kernels are built and caches settle
                    times[name].append(elapsed / _CALLS)
    return {
        name: {
            "microseconds": statistics.median(t) * _MICRO,
            "least": min(t) * _MICRO,
            "quartiles": [x * _MICRO for x in statistics.quantiles(t, n=4)[::2]],
        }
        for name, t in times.items()
    }


def print_host(record: Mapping[str, Any]) -> None:
    """Print what was measured."""
    machine = record["machine"]
    print(f"\nhost microseconds beside {machine['gpu']}, commit {machine['commit']}")
    print(f"{'':30}{'median':>10}{'least':>10}")
    for name, entry in record["cases"].items():
        print(f"{name:30}{entry['microseconds']:10.1f}{entry['least']:10.1f}")


def _rows(batch: int, heads: int, length: int) -> Tensor:
    return torch.randn(batch, heads, length, DIM, device="cuda", dtype=torch.bfloat16)
