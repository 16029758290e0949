"""The command line: `python -m serving`, from the folder above."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from attnlang.bench.machine import Watch, this_machine
from serving.caches import Cache
from serving.engine import Engine, Outcome
from serving.flex import FlexCache
from serving.model import Decoder, Shape
from serving.padded import PaddedCache
from serving.paged import PagedCache
from serving.requests import Load, Request, random_load

_PERCENTILES = (50, 90, 99)
_DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}

results = Console(highlight=False)
messages = Console(stderr=True, highlight=False)


def caches(args: argparse.Namespace, shape: Shape, longest: int) -> dict[str, Callable[[], Cache]]:
    """Return what makes the cache of each loop; `longest` is the most tokens of a sequence."""
    sizes = (shape, args.sequences, longest, _DTYPES[args.dtype])
    return {
        "attnlang": lambda: PagedCache(*sizes, args.page, share_prefixes=args.share_prefixes),
        "padded": lambda: PaddedCache(*sizes),
        "flex": lambda: FlexCache(*sizes, args.chunk),
    }


def serve(
    name: str,
    model: Decoder,
    make: Callable[[], Cache],
    loads: tuple[Load, Load],
    args: argparse.Namespace,
) -> Outcome:
    """Run two loads: a short one, after which all is compiled, and the one that counts."""
    short, load = loads
    total = sum(r.new_tokens for r in load.requests) * load.samples
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=messages) as bar:
        task = bar.add_task("", total=total)
        sizes = {"sequences": args.sequences, "chunk": args.chunk}
        cache = make()
        Engine(model, cache, short, **sizes).run()
        engine = Engine(model, cache, load, **sizes)
        return engine.run(lambda tokens: bar.advance(task, tokens))


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return the figures of a run: tokens a second, and milliseconds."""
    gaps, first = (torch.tensor(x) * 1e3 for x in (outcome.gaps, outcome.first))
    return {
        "tokens": sum(map(len, outcome.tokens.values())),
        "steps": outcome.steps,
        "seconds": round(outcome.seconds, 3),
        "tokens_per_second": round(outcome.rate, 1),
        "between_tokens_ms": {f"p{p}": round(_at(gaps, p), 2) for p in _PERCENTILES},
        "first_token_ms": {f"p{p}": round(_at(first, p), 1) for p in _PERCENTILES},
    }


def _at(values: torch.Tensor, percent: int) -> float:
    return float(values.quantile(percent / 100))


def show(found: dict[str, dict[str, Any]], same: dict[str, str]) -> None:
    """Print a table of all loops."""
    table = Table(title="the same requests, three loops")
    for column in ("loop", "tokens/s", *(f"p{p} ms" for p in _PERCENTILES), "first, p50 ms", ""):
        table.add_column(column, justify="left" if column in ("loop", "") else "right")
    for name, x in found.items():
        gaps = (f"{ms:.1f}" for ms in x["between_tokens_ms"].values())
        first = f"{x['first_token_ms']['p50']:.0f}"
        table.add_row(name, f"{x['tokens_per_second']:.0f}", *gaps, first, same[name])
    results.print(table)


def main() -> None:
    """Run the loops, one after another, and compare them."""
    args = _arguments()
    torch.manual_seed(0)
    shape = Shape(**{f.name: getattr(args, f.name) for f in fields(Shape)})
    model = Decoder(shape, dtype=_DTYPES[args.dtype])
    load = random_load(
        requests=args.requests, vocabulary=shape.vocabulary, common=args.common,
        prompts=tuple(args.prompts), new_tokens=tuple(args.new_tokens), samples=args.samples,
        temperature=args.temperature,
    )  # fmt: skip
    short = Load(load.common, (Request((1,) * (args.chunk + 3), 2),), load.samples, 0.0)
    longest = max(short.longest, load.longest)
    chosen = {n: make for n, make in caches(args, shape, longest).items() if n in args.loop}
    watch = Watch()
    outcomes = {n: serve(n, model, make, (short, load), args) for n, make in chosen.items()}
    others = watch.others()
    first = next(iter(outcomes.values())).tokens
    same, found = {}, {}
    for name, outcome in outcomes.items():
        equal = sum(outcome.tokens[key] == tokens for key, tokens in first.items())
        found[name] = as_json(outcome) | {"samples": len(first), "samples_equal": equal}
        same[name] = f"{equal} of {len(first)} samples equal"
    show(found, same)
    if args.json is not None:
        asked = {n: v for n, v in vars(args).items() if n not in ("json", "loop")}
        content = {"machine": asdict(this_machine()), "others": others, "asked": asked}
        text = json.dumps(content | {"loops": found}, indent=1)
        args.json.write_text(text + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="serving", description=__doc__)
    loops = ("attnlang", "padded", "flex")
    parser.add_argument("--loop", nargs="+", choices=loops, default=loops)
    parser.add_argument("--requests", type=_positive, default=12)
    parser.add_argument("--samples", type=_positive, default=4, help="of each request")
    parser.add_argument("--sequences", type=_positive, default=16, help="that run at once")
    parser.add_argument(
        "--common", type=int, default=512, help="tokens that all prompts begin with"
    )
    for name, default, help in (
        ("--prompts", (64, 1024), "further tokens of a prompt"),
        ("--new-tokens", (16, 64), "of a sample"),
    ):
        parser.add_argument(
            name, type=_positive, nargs=2, metavar=("LEAST", "MOST"), default=default, help=help
        )
    parser.add_argument("--temperature", type=float, default=0.8, help="0: the likeliest token")
    parser.add_argument("--chunk", type=_positive, default=128, help="tokens of a prompt in a step")
    parser.add_argument("--page", type=_positive, default=16, help="slots of a page")
    parser.add_argument(
        "--share-prefixes", action="store_true", help="read what sequences share once for all"
    )
    parser.add_argument("--dtype", choices=sorted(_DTYPES), default="bf16")
    for f in fields(Shape):
        parser.add_argument("--" + f.name.replace("_", "-"), type=_positive, default=f.default)
    parser.add_argument("--json", type=Path, help="write the figures to a file")
    args = parser.parse_args()
    for name in ("prompts", "new_tokens"):
        least, most = getattr(args, name)
        if least > most:
            parser.error(f"--{name.replace('_', '-')}: {least} is more than {most}")
    if args.new_tokens[0] < 2:
        parser.error("--new-tokens: 2 or more, for the time between them is measured")
    if args.common < 0:
        parser.error("--common: 0 or more tokens")
    if args.samples > args.sequences:
        parser.error(f"--samples: {args.samples} do not fit into {args.sequences} sequences")
    return args


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("1 or more")
    return value


if __name__ == "__main__":
    main()
