"""What rules of the compiler are worth: kernels beside the same kernels without one rule.

    python benchmarks/rules.py [--len 2048] [--runs 9] [--json out.json]

Each pair is built from one spec, once as always and once with the rule switched off, and called in
turn on the same tensors, one thread; the figure is the ratio of the medians. Both results are
compared with the float64 reference first. Quiet the machine before: the ratio is of wall times.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import patch

import torch
from gallery_calls import PARAMS
from torch import Tensor

import attnlang
from attnlang.emit.functor import TileText
from attnlang.invent.shape import Shape
from attnlang.jit.cpu import this_cpu
from attnlang.ops.variant import Variant

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

Off = Callable[[], AbstractContextManager[object]]


def _without_tiles() -> AbstractContextManager[object]:
    """Visit every tile, each with the mask: nothing is known of it."""
    return patch.multiple(
        "attnlang.emit.functor.Functor",
        _tile=lambda *_: TileText("Verdict::unknown", '1 "off"'),
        _ranges=lambda *_: TileText("Coverage::unknown()", '1 "off"'),
    )


RULES: dict[str, Off] = {
    "tiles": _without_tiles,
    "hoisting": lambda: patch("attnlang.plan.plan.hoist", lambda _: ()),
    "power-by-exponential": lambda: patch(
        "attnlang.passes.lower.powers_by_exponentials", lambda root: (root, ())
    ),
    "shift-invariance": lambda: patch("attnlang.passes.shift.split_row", lambda _: None),
}

PAIRS = (
    ("sliding_window", "tiles"),
    ("causal", "tiles"),
    ("document", "tiles"),
    ("retention", "power-by-exponential"),
    ("log_n_scale", "hoisting"),
    ("alibi", "hoisting"),
    ("alibi", "shift-invariance"),
    ("forgetting", "shift-invariance"),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One pair: medians in milliseconds, and how many times longer it takes without the rule."""

    variant: str
    rule: str
    with_rule: float
    without: float
    ratio: float


def _call(variant: Variant, q: Tensor, name: str, length: int) -> Callable[[], Tensor]:
    maker = PARAMS.get(name, lambda n, g: {})
    params = maker(length, torch.Generator().manual_seed(1))
    attend: Callable[..., Tensor] = variant
    return lambda: attend(q, q, q, **params)


def _agree(variant: Variant, q: Tensor, name: str, found: Tensor) -> None:
    """Compare some rows with the reference: a fast wrong kernel is no result."""
    length = q.shape[2]
    params = PARAMS.get(name, lambda n, g: {})(length, torch.Generator().manual_seed(1))
    rows = torch.tensor([0, length // 2, length - 1])
    interpret: Callable[..., Tensor] = variant.reference
    exact = interpret(q, q, q, rows=rows, dtype=torch.float64, **params)
    torch.testing.assert_close(found[:, :, rows].double(), exact, atol=2e-4, rtol=2e-4)


def measure(name: str, rule: str, shape: Shape, runs: int) -> Row:
    """Measure one pair."""
    q = torch.randn(shape.b, shape.hq, shape.q, shape.d, generator=torch.Generator().manual_seed(0))
    whole = attnlang.load(EXAMPLES / f"{name}.attn")
    off = Variant(dataclasses.replace(whole.ir, name=f"{name}_without_{rule.replace('-', '_')}"))
    calls = [_call(v, q, name, shape.q) for v in (whole, off)]
    _agree(whole, q, name, calls[0]())
    with RULES[rule]():
        _agree(off, q, name, calls[1]())
    times: list[list[float]] = [[], []]
    for _ in range(runs):
        for call, spent in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            spent.append(1e3 * (time.perf_counter() - start))
    first, second = (statistics.median(t) for t in times)
    return Row(name, rule, first, second, second / first)


def main() -> None:
    """Measure every pair, print a table, and write the result file where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--len", type=int, default=2048, help="queries and keys")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    shape = Shape(1, 2, 2, args.len, args.len, 64, 64)
    print(f"{'variant':16} {'rule':22} {'with ms':>9} {'without':>9} {'ratio':>6}")
    rows = []
    for name, rule in PAIRS:
        row = measure(name, rule, shape, args.runs)
        rows.append(dataclasses.asdict(row))
        print(
            f"{name:16} {rule:22} {row.with_rule:9.2f} {row.without:9.2f} {row.ratio:6.2f}",
            flush=True,
        )
    if args.json is not None:
        result = {
            "machine": this_cpu().name,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "threads": 1,
            "shape": dataclasses.asdict(shape),
            "dtype": "float32",
            "runs": args.runs,
            "pairs": rows,
        }
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
