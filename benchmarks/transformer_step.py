"""A training step of the example's Transformer, beside the same model on eager attention.

    python benchmarks/transformer_step.py [--seconds 20] [--json FILE]

Both models begin alike and read the same batches, in turn, so a machine that drifts slows both; one
thread, in CPU time. The cases: the batches that `make transformer` learns from, and longer ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from attnlang.bench.clock import Timing, interleave, prepare_process

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "transformer-step.json"

prepare_process()
sys.path.insert(0, str(ROOT / "examples"))

import torch  # noqa: E402
from transformer.batches import Batch, Batches  # noqa: E402
from transformer.eager import eager  # noqa: E402
from transformer.gallery import Attention, compiled  # noqa: E402
from transformer.model import Shape  # noqa: E402
from transformer.tasks import TASKS  # noqa: E402
from transformer.train import Plan, new_run  # noqa: E402
from transformer.vocabulary import END, Vocabulary  # noqa: E402

from attnlang.bench.machine import Watch, this_machine  # noqa: E402

ATTENTIONS: Mapping[str, Attention] = {"attnlang": compiled, "eager": eager}
LONG = (8, 512)  # pairs, and tokens of the longest source and target


def learnt(task: str) -> tuple[Vocabulary, list[Batch]]:
    """Return the batches of a task's first steps."""
    plan = replace(TASKS[task].plan, pairs=3000)
    pairs = TASKS[task].pairs(plan.pairs, 0, plan.seed).train
    vocabulary = Vocabulary.learn((text for pair in pairs for text in pair), plan.pieces)
    batches = Batches(pairs, vocabulary, plan.batch, plan.seed)
    return vocabulary, [batches[step] for step in range(40)]


def long_batch(pieces: int) -> Batch:
    """Return random tokens: sequences of different lengths, at least half of the longest."""
    rng = torch.Generator().manual_seed(0)
    count, longest = LONG
    source, target = (torch.randint(END + 1, pieces, LONG, generator=rng) for _ in range(2))
    lengths = torch.linspace(longest / 2, longest, count).long()
    return Batch(source, lengths, target, target.roll(-1, 1))


def steps(shape: Shape, vocabulary: Vocabulary, batches: list[Batch]) -> dict[str, Timing]:
    """Time the training steps of both."""

    def trained(attention: Attention) -> Callable[[], float]:
        run = new_run(Plan(), shape, vocabulary, attention)
        return lambda: run.advance(batches[run.step % len(batches)])

    return interleave({n: trained(a) for n, a in ATTENTIONS.items()}, 1, ARGS.seconds)


def main() -> None:
    """Measure and write the file."""
    torch.set_num_threads(1)
    vocabulary, numbers = learnt("numbers")
    words, trees = learnt("trees")
    pieces = len(vocabulary)
    cases = {
        "numbers": (vocabulary, Shape(pieces), numbers),
        "numbers, no dropout": (vocabulary, Shape(pieces, dropout=0.0), numbers),
        "trees": (words, Shape(len(words)), trees),
        "512 tokens": (vocabulary, Shape(pieces, longest=LONG[1]), [long_batch(pieces)]),
    }
    watch, found = Watch(), {}
    for name, (vocabulary, shape, read) in cases.items():
        timings = steps(shape, vocabulary, read)
        ratio = timings["eager"].cpu.median / timings["attnlang"].cpu.median
        found[name] = {
            "shape": asdict(shape),
            "milliseconds": {n: round(t.cpu.median * 1e3, 2) for n, t in timings.items()},
            "quartiles": {
                n: [round(t.cpu.low * 1e3, 2), round(t.cpu.high * 1e3, 2)]
                for n, t in timings.items()
            },
            "steps": timings["attnlang"].cpu.runs,
            "speedup": round(ratio, 3),
        }
        told = ", ".join(f"{n} {t.cpu.median * 1e3:.1f} ms" for n, t in timings.items())
        print(f"{name}: {told}, {ratio:.2f} times as fast")
    record = {"machine": asdict(this_machine()), "others": watch.others(), "cases": found}
    ARGS.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of measuring, for each case")
    parser.add_argument("--json", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    ARGS = _arguments()
    main()
