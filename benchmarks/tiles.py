"""Which tiles the kernels visit, for every variant of the gallery, against a brute force.

    python benchmarks/tiles.py [NAME...] [--len 4096] [--json out.json]

One call a variant with parameters like the papers': the tiles that the kernel computes and skips,
how many of those it computes could have been skipped, or been computed without mask arithmetic, and
the time of the analysis. The truth is counted by the reference, a stripe of rows at a time: with
weights of 1 and values that mark their key tile, `out` is the number of visible keys in each tile.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator, Tensor

import attnlang
from attnlang.ir import nodes as ir
from attnlang.reference import reference

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
HEADS = 2
STRIPE = 512  # rows of the brute force at a time


def begins(length: int, mean: int, g: Generator) -> Tensor:
    """Draw the first positions of segments, bool [1, length]."""
    found = torch.rand(1, length, generator=g) < 1 / mean
    found[:, 0] = True
    return found


def since(found: Tensor, values: Tensor) -> Tensor:
    """Return values relative to those at the beginning of each segment."""
    first = torch.where(found, torch.arange(found.shape[1]), 0).cummax(1).values
    return values - values.gather(1, first)


def packed(n: int, g: Generator) -> dict[str, object]:
    """Documents of 512 tokens on average, and positions inside them."""
    found = begins(n, 512, g)
    return {"doc": found.cumsum(1), "position": since(found, torch.arange(n)[None])}


def questions(n: int, g: Generator) -> dict[str, object]:
    """Documents of 1024 tokens, each a question and answers of 200."""
    found = begins(n, 1024, g)
    return {"doc": found.cumsum(1), "answer": since(found, begins(n, 200, g).cumsum(1))}


def images(n: int, g: Generator) -> Tensor:
    """Spans of 256 image tokens in text: their numbers, -1 for text."""
    place = torch.arange(n)
    return torch.where(place % 700 < 256, place // 700, -1)[None]


def forest(n: int, g: Generator) -> Tensor:
    """Draw a random forest: the ancestors of each node, bool [1, n, n]."""
    found = torch.eye(n, dtype=torch.bool)
    for node in range(1, n):
        parent = int(torch.randint(-1, node, (), generator=g))
        if parent >= 0:
            found[node] |= found[parent]
    return found[None]


def sparse(*shape: int, share: float, g: Generator) -> Tensor:
    """Draw a bool table."""
    return torch.rand(*shape, generator=g) < share


def slash(n: int, g: Generator) -> Tensor:
    """Draw diagonals: the nearest 64 and some others."""
    found = sparse(HEADS, n, share=0.01, g=g)
    found[:, :64] = True
    return found


Maker = Callable[[int, Generator], dict[str, object]]

# What differs from the defaults; a variant that is not here has no parameter without one.
PARAMS: dict[str, Maker] = {
    "sliding_window": lambda n, g: {"window_size": 1024},
    "dilated_window": lambda n, g: {"window_size": 256, "dilation": 4},
    "longformer": lambda n, g: {"window_size": 256, "global_tokens": 16},
    "bigbird": lambda n, g: {"random": sparse(-(-n // 64), -(-n // 64), share=3 * 64 / n, g=g)},
    "prefix_lm": lambda n, g: {"prefix": torch.tensor([n // 3])},
    "document": lambda n, g: {"doc": packed(n, g)["doc"]},
    "padding": lambda n, g: {"length": torch.tensor([n * 5 // 8 + 3])},
    "block_causal": lambda n, g: {"block_size": 780},
    "chunked": lambda n, g: {"chunk_size": 1024},
    "tree": lambda n, g: {"ancestor": forest(256, g)},
    "tree_bits": lambda n, g: {
        "words": torch.where(forest(64, g), torch.tensor(1) << torch.arange(64), 0).sum(2)
    },
    "shared_question": questions,
    "flamingo": lambda n, g: {
        "last_image": begins(n, 500, g).cumsum(1) - 1,
        "image_of": torch.arange(n)[None] // 512,
    },
    "axial": lambda n, g: {"width": 64},
    "image_spans": lambda n, g: {"image": images(n, g), "window_size": 512},
    "packed_positions": lambda n, g: {**packed(n, g), "chunk_size": 256},
    "sliding_tile": lambda n, g: {"tile": 64, "height": 4, "width": 4},
    "vertical_slash": lambda n, g: {
        "vertical": sparse(HEADS, n, share=0.01, g=g),
        "slash": slash(n, g),
    },
    "block_sparse": lambda n, g: {
        "chosen": sparse(1, HEADS, -(-n // 64), -(-n // 64), share=0.1, g=g)
    },
    "alibi": lambda n, g: {"slopes": torch.tensor([0.25, 0.0625])},
    "t5_bias": lambda n, g: {"table": torch.randn(32, HEADS, generator=g)},
    "relative_table": lambda n, g: {"table": torch.randn(HEADS, 257, generator=g)},
    "music_rel": lambda n, g: {"srel": torch.randn(1, HEADS, n, n, generator=g)},
    "pair_bias": lambda n, g: {
        "bias": torch.randn(HEADS, n, n, generator=g),
        "gate": torch.randn(1, HEADS, n, 64, generator=g),
    },
    "swin_shifted": lambda n, g: {
        "table": torch.randn(15, 15, HEADS, generator=g),
        "width": 64,
        "shift": 4,
    },
    "swin_v2": lambda n, g: {
        "tau": torch.rand(HEADS, generator=g),
        "bias": torch.randn(HEADS, n, n, generator=g),
    },
    "graphormer": lambda n, g: {
        "spatial": torch.randn(64, HEADS, generator=g),
        "path": torch.randint(0, 64, (1, n, n), generator=g),
    },
    "gemma2_local": lambda n, g: {"window_size": 1024},
    "qk_norm": lambda n, g: {"q_weight": torch.ones(64), "k_weight": torch.ones(64)},
    "log_n_scale": lambda n, g: {"a": torch.ones(HEADS) / 4},
    "rope_partial": lambda n, g: {"freqs": torch.rand(32, generator=g)},
    "rope_alibi_cap": lambda n, g: {"slopes": torch.tensor([0.25, 0.0625])},
    "forgetting": lambda n, g: {"c": -torch.rand(1, HEADS, n, generator=g).cumsum(2)},
    "sink": lambda n, g: {"sink": torch.zeros(HEADS)},
    "retention": lambda n, g: {"gamma": torch.tensor([0.97, 0.99])},
    "dropout": lambda n, g: {"is_causal": True, "length": torch.tensor([n * 5 // 8 + 3])},
    "gated_output": lambda n, g: {"gate": torch.randn(1, HEADS, n, 64, generator=g)},
    "shared_kv": lambda n, g: {
        "q_weight": torch.ones(512),
        "k_weight": torch.ones(512),
        "freqs": torch.rand(256, generator=g),
    },
}
QUERIES = {"tree": 256, "tree_bits": 64}
WIDTHS = {"mla_prefill": (192, 128), "mla_absorbed": (576, 512), "shared_kv": (512, 512)}


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant: tiles as the kernel sees them, and as they are."""

    name: str
    tiles: int = 0
    visited: int = 0
    full: int = 0
    partial: int = 0
    truly_full: int = 0
    truly_empty: int = 0
    undecided: float = math.nan  # percent: computed in part, though wholly true or wholly false
    milliseconds: float = math.nan
    note: str = ""


def measure(name: str, length: int) -> Row:
    """Count and time one variant."""
    variant = attnlang.load(EXAMPLES / f"{name}.attn")
    g = torch.Generator().manual_seed(0)
    params = PARAMS.get(name, lambda n, g: {})(length, g)
    d, dv = WIDTHS.get(name, (64, 64))
    heads = 1 if name == "mla_absorbed" else HEADS
    q = torch.randn(1, HEADS, QUERIES.get(name, length), d, generator=g)
    k = torch.randn(1, heads, length, d, generator=g)
    v = torch.randn(1, heads, length, dv, generator=g)
    values = (q, k, v) if "v" in variant.signature.parameters else (q, k)
    try:
        variant.tiles(*values, **params)  # builds the kernel
    except (attnlang.SpecError, attnlang.CallError) as error:
        return Row(name, note=str(error).splitlines()[0])
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        found = variant.tiles(*values, **params)
        seconds.append(time.perf_counter() - start)
    full, empty = truth(variant, q, k, params, found.query_tile, found.key_tile)
    if found.full > full or found.empty > empty:
        raise SystemExit(f"{name}: a tile was called full or empty that is not: {found}")
    missed = (full - found.full) + (empty - found.empty)
    return Row(
        name, found.total, found.visited, found.full, found.partial, full, empty,
        100 * missed / max(found.total, 1), 1e3 * min(seconds),
    )  # fmt: skip


def truth(
    variant: attnlang.Variant,
    q: Tensor,
    k: Tensor,
    params: dict[str, object],
    query_tile: int,
    key_tile: int,
) -> tuple[int, int]:
    """Count the tiles in which every element is visible, and those in which none is."""
    spec = variant.ir
    span = spec.mask.span
    one = ir.Const(1.0, ir.FLOAT, span=span)
    counting = dataclasses.replace(
        spec,
        requires=(),
        q=ir.Vector(ir.VectorName.Q, span=span),
        k=ir.Vector(ir.VectorName.K, span=span),
        v=ir.Vector(ir.VectorName.V, span=span),
        score=ir.Raw(span=span),
        weights=ir.Weights(None, None, one, None, span=span),
        out=ir.Vector(ir.VectorName.ACC, span=span),
    )
    names = [p.name for p in spec.params]
    defaults = {n: variant.signature.parameters[n].default for n in names if n not in params}
    queries, keys = q.shape[2], k.shape[2]
    owner = torch.arange(keys) // key_tile
    marks = torch.nn.functional.one_hot(owner).float().expand(1, k.shape[1], -1, -1)
    widths = torch.bincount(owner)
    full = empty = 0
    stripe = max(query_tile, STRIPE // query_tile * query_tile)
    for first in range(0, queries, stripe):
        rows = torch.arange(first, min(first + stripe, queries))
        seen = reference(counting, q, k, marks, params={**defaults, **params}, rows=rows)
        assert isinstance(seen, Tensor)
        for part in seen.round().long().split(query_tile, dim=2):
            full += int((part == widths).all(2).sum())
            empty += int((part == 0).all(2).sum())
    return full, empty


def table(rows: list[Row]) -> str:
    """Lay the rows out as text."""
    lines = [
        f"{'variant':22}{'tiles':>8}{'visited':>9}{'full':>8}{'partial':>9}"
        f"{'undecided':>11}{'ms':>9}"
    ]
    for r in rows:
        if r.note:
            lines.append(f"{r.name:22}{r.note}")
            continue
        lines.append(
            f"{r.name:22}{r.tiles:8}{r.visited:9}{r.full:8}{r.partial:9}"
            f"{r.undecided:10.2f}%{r.milliseconds:9.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what the command line names, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="variants of examples/ (default: all)")
    parser.add_argument("--len", type=int, default=4096, help="queries and keys (default: 4096)")
    parser.add_argument("--json", type=Path, help="write the rows to a file, too")
    args = parser.parse_args()
    names = args.names or sorted(p.stem for p in EXAMPLES.glob("*.attn"))
    with torch.no_grad():
        rows = [measure(name, args.len) for name in names]
    print(table(rows))
    if args.json is not None:
        args.json.write_text(json.dumps([dataclasses.asdict(r) for r in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
