"""A cache that rolls: endless decoding in the memory of the first few keys and the latest ones.

    python examples/serving/rolling_cache.py [--tokens 2000] [--sinks 4] [--window 252]

StreamingLLM (Xiao et al. 2024): the cache keeps the first keys, the sinks, and a window of the
latest. Keys are stored without rotation and turned by their places *in the cache*, in the kernel,
so that no distance ever grows beyond what the model was trained for. Here a page is one slot: the
oldest key of the window is overwritten by the newest, and only the page table moves.
"""

from __future__ import annotations

import argparse
from collections import deque
from pathlib import Path

import torch
from torch import Tensor

import attnlang
from attnlang.ops.serving_plan import Plan

SPEC = Path(__file__).resolve().parent.parent / "streaming_llm.attn"


class RollingCache:
    """The sinks and the window of one sequence, as slots of a pool that never grows."""

    def __init__(self, sinks: int, window: int, heads: int, width: int) -> None:
        self.sinks, self.window = sinks, window
        self.k = torch.zeros(sinks + window, 1, heads, width)
        self.v = torch.zeros_like(self.k)
        self._order: deque[int] = deque()  # the slots, oldest key first

    def add(self, k: Tensor, v: Tensor) -> attnlang.PagedKV:
        """Store a token's key and value [HKV, D]; return the cache as its query sees it."""
        slot = len(self._order)
        if slot == self.sinks + self.window:  # the oldest key behind the sinks goes
            slot = self._order[self.sinks]
            del self._order[self.sinks]
        self._order.append(slot)
        count = len(self._order)
        table = attnlang.PagedKV(
            self.k, self.v, torch.tensor([0, count]), torch.tensor(self._order), torch.tensor([1])
        )
        table.append(k.unsqueeze(0), v.unsqueeze(0), torch.tensor([count - 1]))
        return table


def decode(tokens: int, sinks: int, window: int, heads: int = 8, kv_heads: int = 2) -> Tensor:
    """Attend with `tokens` random queries, one after another; return their results."""
    streaming = attnlang.load(SPEC)
    cache = RollingCache(sinks, window, kv_heads, 64)
    q_indptr, outs = torch.tensor([0, 1]), []
    plan: Plan | None = None
    for _ in range(tokens):
        table = cache.add(torch.randn(kv_heads, 64), torch.randn(kv_heads, 64))
        if plan is None:
            made = streaming.plan(
                q_indptr, table, num_q_heads=heads, n_sink=sinks, window_size=window
            )
            assert isinstance(made, Plan)  # of pages
            plan = made
        else:
            plan.update(q_indptr, table)
        out = plan.run(torch.randn(1, heads, 64))
        assert isinstance(out, Tensor)
        outs.append(out)
    return torch.cat(outs)


def main() -> None:
    """Decode, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--sinks", type=int, default=4)
    parser.add_argument("--window", type=int, default=252)
    args = parser.parse_args()
    out = decode(args.tokens, args.sinks, args.window)
    print(f"{out.shape[0]} tokens behind {args.sinks + args.window} slots")


if __name__ == "__main__":
    main()
