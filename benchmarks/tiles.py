"""Which tiles the kernels visit, for every mask of the gallery, against a brute force.

    python benchmarks/tiles.py [NAME...] [--len 4096] [--json out.json]

One call a variant with parameters like the papers': the tiles that the kernel computes and skips,
and the time that finding them takes. Every tile's verdict is compared with the truth, which the
reference counts a stripe of rows at a time: with weights of 1 and values that mark their key tile,
`out` is the number of visible keys in each tile. A tile is decidable if it is wholly visible or
wholly hidden. Exit code 1 if a verdict is wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from gallery_calls import HEADS, PARAMS, QUERIES, WIDTHS
from numpy.typing import NDArray
from torch import Generator, Tensor

import attnlang
from attnlang.invent.inputs import Call
from attnlang.invent.masks import mask_env
from attnlang.invent.shape import ParamValue, Shape
from attnlang.ir import nodes as ir
from attnlang.jit.cpu import this_cpu
from attnlang.passes.lower import lower
from attnlang.reference import reference
from attnlang.symbolic.masks import EMPTY, FULL, UNKNOWN, tile_verdicts

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
STRIPE = 512  # rows of the brute force at a time

Verdicts = NDArray[np.int8]


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant, over its heads: the kernel's tiles, and the verdicts against the truth."""

    name: str
    tiles: int
    visited: int
    full: int
    partial: int
    decidable: int
    undecided: int  # decidable, but computed as if in part
    wrong: int  # tiles whose verdict, full or empty, is not the truth
    milliseconds: float  # of all verdicts of the call, in the kernel


def main() -> None:
    """Measure what the command line names, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="variants of examples/ (default: all with a mask)")
    parser.add_argument("--len", type=int, default=4096, help="queries and keys (default: 4096)")
    parser.add_argument("--json", type=Path, help="write the rows to a file, too")
    args = parser.parse_args()
    rows: list[Row] = []
    print(header())
    with torch.no_grad():
        for name in args.names or masked():
            rows.append(measure(name, args.len))
            print(line(rows[-1]), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(report(rows, args.len), indent=1) + "\n", encoding="utf-8")
    if any(r.wrong for r in rows):
        sys.exit("a tile was called full or empty that is not")


def masked() -> list[str]:
    """Return the names of the variants whose mask hides something."""
    names = sorted(p.stem for p in EXAMPLES.glob("*.attn"))
    return [n for n in names if not isinstance(load(n).ir.mask, ir.Const)]


def load(name: str) -> attnlang.Variant:
    """Load a variant of the gallery."""
    return attnlang.load(EXAMPLES / f"{name}.attn")


def make_call(variant: attnlang.Variant, name: str, length: int) -> Call:
    """Draw a call of one request."""
    g = Generator().manual_seed(0)
    given = PARAMS.get(name, lambda n, g: {})(length, g)
    defaults = {
        n: variant.signature.parameters[n].default for n in (p.name for p in variant.ir.params)
    }
    params: Mapping[str, ParamValue] = {**defaults, **given}
    d, dv = WIDTHS.get(name, (64, 64))
    hkv = 1 if name == "mla_absorbed" else HEADS
    shape = Shape(1, HEADS, hkv, QUERIES.get(name, length), length, d, dv)
    q = torch.randn(1, HEADS, shape.q, d, generator=g)
    k = torch.randn(1, hkv, length, d, generator=g)
    v = torch.randn(1, hkv, length, dv, generator=g)
    return Call(shape, q, k, v, params)


def measure(name: str, length: int) -> Row:
    """Count, compare and time one variant."""
    variant = load(name)
    call = make_call(variant, name, length)
    values = (call.q, call.k, call.v) if "v" in variant.signature.parameters else (call.q, call.k)
    found = variant.tiles(*values, **call.params)  # builds the kernel
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        variant.tiles(*values, **call.params)
        seconds.append(time.perf_counter() - start)
    true = truth(variant, call, found.query_tile, found.key_tile)
    said = verdicts(variant, call, found.query_tile, found.key_tile)
    full, empty = int((true == FULL).sum()), int((true == EMPTY).sum())
    # The kernel reports counts alone: beyond the truth's they are wrong whatever the verdicts are.
    beyond = max(0, found.full - full) + max(0, found.empty - empty)
    return Row(
        name=name,
        tiles=found.total,
        visited=found.visited,
        full=found.full,
        partial=found.partial,
        decidable=full + empty,
        undecided=full - found.full + empty - found.empty,
        wrong=int(((said != UNKNOWN) & (said != true)).sum()) + beyond,
        milliseconds=round(1e3 * min(seconds), 3),
    )


def verdicts(variant: attnlang.Variant, call: Call, query_tile: int, key_tile: int) -> Verdicts:
    """Return what the analysis says of each tile, [heads, row tiles, key tiles]."""
    given = frozenset(n for n, p in call.params.items() if isinstance(p, Tensor))
    consts = {
        p.name: call.scalars[p.name]
        for p in variant.ir.params
        if isinstance(p, ir.ScalarParam) and p.const
    }
    mask = lower(variant.ir, consts=consts, given=given).mask
    heads = (mask_env(variant.ir, call, 0, h) for h in range(call.shape.hq))
    return np.stack([tile_verdicts(mask, e, q_tile=query_tile, kv_tile=key_tile) for e in heads])


def truth(variant: attnlang.Variant, call: Call, query_tile: int, key_tile: int) -> Verdicts:
    """Return what each tile holds, from its elements, [heads, row tiles, key tiles]."""
    counting = counting_variant(variant.ir)
    owner = torch.arange(call.shape.kv) // key_tile
    marks = torch.nn.functional.one_hot(owner).float().expand(1, call.shape.hkv, -1, -1)
    widths = torch.bincount(owner)
    tiles = []
    stripe = max(query_tile, STRIPE // query_tile * query_tile)
    for first in range(0, call.shape.q, stripe):
        rows = torch.arange(first, min(first + stripe, call.shape.q))
        seen = reference(counting, call.q, call.k, marks, params=call.params, rows=rows)
        assert isinstance(seen, Tensor)
        for part in seen[0].round().long().split(query_tile, dim=1):
            every, some = (part == widths).all(1).numpy(), (part > 0).any(1).numpy()
            tiles.append(np.where(every, FULL, np.where(some, UNKNOWN, EMPTY)))
    return np.stack(tiles, axis=1)


def counting_variant(spec: ir.Variant) -> ir.Variant:
    """Return the variant that adds up the values of all visible keys, each with a weight of 1."""
    span = spec.mask.span
    return dataclasses.replace(
        spec,
        requires=(),
        q=ir.Vector(ir.VectorName.Q, span=span),
        k=ir.Vector(ir.VectorName.K, span=span),
        v=ir.Vector(ir.VectorName.V, span=span),
        score=ir.Raw(span=span),
        weights=ir.Weights(None, None, ir.Const(1.0, ir.FLOAT, span=span), None, span=span),
        out=ir.Vector(ir.VectorName.ACC, span=span),
    )


def report(rows: list[Row], length: int) -> dict[str, object]:
    """Put together what the file of results holds: the rows, and where they come from."""
    root = EXAMPLES.parent
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit.stdout.strip() or None,
        "machine": this_cpu().name,
        "length": length,
        "heads": HEADS,
        "rows": [dataclasses.asdict(r) for r in rows],
    }


def header() -> str:
    """Return the first line of the table."""
    return (
        f"{'variant':22}{'tiles':>8}{'visited':>9}{'full':>8}{'partial':>9}"
        f"{'undecided':>11}{'wrong':>7}{'ms':>9}"
    )


def line(r: Row) -> str:
    """Lay a row out as text; `undecided` is a share of the tiles that are decidable."""
    share = r.undecided / max(1, r.decidable)
    return (
        f"{r.name:22}{r.tiles:8}{r.visited:9}{r.full:8}{r.partial:9}"
        f"{share:11.2%}{r.wrong:7}{r.milliseconds:9.2f}"
    )


if __name__ == "__main__":
    main()
