"""Attention forward and backward on the CPU, beside SDPA; ragged calls beside dense ones.

    python benchmarks/training.py [--case 'full/*' ...] [--seconds 4] [--json FILE] [--again]

Contenders take turns and are timed in CPU time, with our forward alone between them, so that what a
backward costs beside it can be told; none is timed whose gradients differ. A ragged case
has as many requests as the dense one, of its length, so that both visit the same tiles. What the
file already holds is not measured again. Let nothing else run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from attnlang.bench.clock import interleave, prepare_process

prepare_process()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn.functional import scaled_dot_product_attention  # noqa: E402

import attnlang  # noqa: E402
from attnlang.bench.machine import BUSY_SHARE, Watch, this_machine  # noqa: E402
from attnlang.bench.record import read_record, record_text  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "training.json"
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
TOLERANCES = {"f32": 1e-4, "bf16": 3e-2}  # of the largest gradient
TARGETS = {"f32": 1.3, "bf16": 2.0, "ragged": 1 / 1.1}
HEADS, TOKENS = 8, 2048

Gradients = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """`batch` requests of `length` tokens."""

    variant: str
    dtype: str
    length: int
    width: int
    ragged: bool = False

    @property
    def name(self) -> str:
        """What the file calls it."""
        kind = "ragged/" if self.ragged else ""
        return f"{kind}{self.variant}/{self.dtype}/N{self.length}/D{self.width}"

    @property
    def batch(self) -> int:
        """As many requests as make all cases equally long."""
        return TOKENS // self.length

    @property
    def target(self) -> float:
        """At least so many times as fast as the peer."""
        return TARGETS["ragged" if self.ragged else self.dtype]

    def contenders(self) -> dict[str, Gradients]:
        """Return ours and the peer, which give the gradients of q, k and v; our forward is last."""
        variant = attnlang.load(ROOT / "examples" / f"{self.variant}.attn")
        g = torch.Generator().manual_seed(0)
        shape = (self.batch, self.length, HEADS, self.width)
        dense = [torch.randn(*shape, generator=g).to(DTYPES[self.dtype]) for _ in range(4)]
        q, k, v, grad = (x.transpose(1, 2) for x in dense)
        causal = self.variant == "causal"
        if not self.ragged:
            peer = lambda *x: scaled_dot_product_attention(*x, is_causal=causal)  # noqa: E731
            return {
                "attnlang": _differentiated(variant, (q, k, v), grad),
                "sdpa": _differentiated(peer, (q, k, v), grad),
                "forward": _recorded(variant, (q, k, v)),
            }
        ends = torch.arange(0, TOKENS + 1, self.length)
        ragged = lambda *x: variant.ragged(*x, ends, ends)  # noqa: E731
        rows = [x.flatten(0, 1) for x in dense]
        return {
            "attnlang": _differentiated(ragged, rows[:3], rows[3]),
            "dense": _differentiated(variant, (q, k, v), grad),
            "forward": _recorded(ragged, rows[:3]),
        }


def _differentiated(attend: Callable[..., Tensor], vectors: object, grad: Tensor) -> Gradients:
    leaves = [x.detach().requires_grad_() for x in vectors]
    return lambda: torch.autograd.grad(attend(*leaves), leaves, grad)


def _recorded(attend: Callable[..., Tensor], vectors: object) -> Gradients:
    leaves = [x.detach().requires_grad_() for x in vectors]
    return lambda: (attend(*leaves),)


def all_cases() -> dict[str, Case]:
    """Return every case by name."""
    places = [(v, t) for v in ("full", "causal") for t in DTYPES]
    cases = [Case(*at, n, d) for at in places for n in (512, 2048) for d in (64, 128)]
    cases += [Case(*at, 512, 64, ragged=True) for at in places]
    return {case.name: case for case in cases}


def compare(case: Case, contenders: Mapping[str, Gradients]) -> None:
    """Raise where the contenders' gradients differ."""
    ours, peer = (run() for name, run in contenders.items() if name != "forward")
    for at, a, b in zip("qkv", ours, peer, strict=True):
        dense = b.transpose(1, 2).flatten(0, 1) if a.dim() == 3 else b
        error, size = (x.float().abs().max().item() for x in (a.float() - dense.float(), dense))
        if not error <= TOLERANCES[case.dtype] * size:
            raise RuntimeError(f"{case.name}: d{at} differs by {error:.2g} of {size:.2g}")


def measure(case: Case, seconds: float) -> dict[str, object]:
    """Return the times of a case, in milliseconds."""
    contenders = case.contenders()
    compare(case, contenders)
    watch = Watch()
    timings = interleave(contenders, torch.get_num_threads(), seconds)
    ours, peer, forward = (t.cpu.median for t in timings.values())
    ratio = peer / ours
    return {
        "milliseconds": {n: round(1e3 * t.cpu.median, 3) for n, t in timings.items()},
        "quartiles": {
            n: [round(1e3 * t.cpu.low, 3), round(1e3 * t.cpu.high, 3)] for n, t in timings.items()
        },
        "runs": timings["attnlang"].cpu.runs,
        "speedup": round(ratio, 3),
        "backward by forward": round(ours / forward - 1, 2),
        "target": round(case.target, 3),
        "others": watch.others(),
    }


def main() -> None:
    """Measure some cases and add them to the file."""
    start, args, cases = time.monotonic(), _arguments(), all_cases()
    machine = this_machine()
    done = read_record(args.json, machine)
    names = [n for n in cases if any(fnmatch(n, p) for p in args.case or ["*"])]
    if not names:
        sys.exit(f"no case matches {', '.join(args.case)}")
    for name in [n for n in names if args.again or n not in done]:
        if time.monotonic() - start > args.until:
            print(f"{sum(n not in done for n in names)} cases are left: run it again")
            return
        found = done[name] = measure(cases[name], args.seconds)
        args.json.write_text(record_text(machine, done), encoding="utf-8")
        busy = (found["others"] or 0) > BUSY_SHARE
        print(
            f"{name}: {found['milliseconds']}, {found['speedup']} times as fast, "
            f"a backward {found['backward by forward']} forwards (target {found['target']})"
            f"{', but others worked too' if busy else ''}",
            flush=True,
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--seconds", type=float, default=4.0, help="of measuring, for each case")
    parser.add_argument("--until", type=float, default=70.0, help="start no case after SECONDS")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="measure what the file has, too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
