"""How evenly decoding is spread over workers: by schedule, by uncut requests, by other costs.

    python benchmarks/balance.py [--requests 16 64] [--workers 2 16 132] [--json out.json]

Nothing is timed: the load of a worker is the key tiles that the mask shows in its pieces, and what
is compared is the busiest worker's over the mean. Lengths are skewed, 1k to 16k. `in order` deals
uncut items out in turn, `uncut` the longest first, `balanced` is what a plan does. With a window of
512, `lengths` is the schedule that lengths alone would make (that of the causal variant), and
`balanced` the one that knows the window.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import torch
from serving_cases import DTYPE, HEADS, KV_HEADS, WIDTH, load, skewed, starts
from torch import Tensor

from attnlang.ops.variant import Variant

RESULTS = Path(__file__).resolve().parent / "results" / "balance.json"
UNCUT = 1 << 30  # tokens
WINDOW = 512
_HEADER, _CHUNK = 8, 5  # ints; a chunk is (item, first, count, worker, slot)


def chunks(variant: Variant, lens: list[int], workers: int, split: int, *window: int) -> Tensor:
    """Return the chunks of the schedule of one query a request, in the order of their items."""
    q = torch.empty(len(lens), HEADS, WIDTH, dtype=DTYPE)
    k, v = (torch.empty(sum(lens), KV_HEADS, WIDTH, dtype=DTYPE) for _ in "kv")
    values = dict(zip(("window_size",), window, strict=False))
    make = variant.registered_op(values, "schedule")
    tables = {"q_indptr": starts([1] * len(lens)), "kv_indptr": starts(lens)}
    schedule, _ = make(q, k, v, *window, **tables, workers=workers, split_tokens=split)
    found = schedule[_HEADER:].reshape(-1, _CHUNK).long()
    return found[(found[:, 0] * (1 << 32) + found[:, 1]).argsort()]


def unevenness(worker: Tensor, tiles: Tensor, workers: int) -> float:
    """Return the busiest worker's tiles over the mean."""
    loads = torch.zeros(workers, dtype=torch.int64).index_add_(0, worker, tiles)
    return round(float(loads.max() / loads.double().mean()), 3)


def compared(lens: list[int], workers: int) -> dict[str, dict[str, float]]:
    """Return the unevenness of each way to spread the work."""
    causal, window = load("causal"), load("sliding_window")
    whole = chunks(causal, lens, workers, UNCUT)
    seen = chunks(window, lens, workers, UNCUT, WINDOW)[:, 2]
    by_length = chunks(causal, lens, workers, 0)
    balanced = chunks(window, lens, workers, 0, WINDOW)
    item, first, count, worker = by_length[:, :4].T
    # A decoder's window shows the last tiles of its request.
    hidden = (whole[:, 2] - seen)[item]
    under_window = (first + count - torch.maximum(first, hidden)).clamp(min=0)
    turns = torch.arange(whole.shape[0]) % workers
    return {
        "all keys": {
            "in order": unevenness(turns, whole[:, 2], workers),
            "uncut": unevenness(whole[:, 3], whole[:, 2], workers),
            "balanced": unevenness(worker, count, workers),
        },
        f"window {WINDOW}": {
            "in order": unevenness(turns, seen, workers),
            "lengths": unevenness(worker, under_window, workers),
            "balanced": unevenness(balanced[:, 3], balanced[:, 2], workers),
        },
    }


def main() -> None:
    """Compare, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 16, 132])
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    # Building a kernel takes a call.
    for variant, known in ((load("causal"), {}), (load("sliding_window"), {"window_size": WINDOW})):
        variant.plan(starts([1]), starts([1]), num_q_heads=HEADS, **known).run(
            torch.empty(1, HEADS, WIDTH, dtype=DTYPE),
            (torch.empty(1, KV_HEADS, WIDTH, dtype=DTYPE),) * 2,
        )
    found = {}
    for requests, workers in product(args.requests, args.workers):
        ways = compared(skewed(requests, 1024, 16384), workers)
        found[f"{requests} requests, {workers} workers"] = ways
        for case, ratios in ways.items():
            shown = ", ".join(f"{way} {ratio:.2f}" for way, ratio in ratios.items())
            print(f"{requests} requests, {workers} workers, {case}: {shown}")
    text = json.dumps({"kv_heads": KV_HEADS, "cases": found}, indent=1)
    args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
