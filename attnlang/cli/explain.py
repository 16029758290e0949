"""`attnlang explain`: what a variant computes, which tiles of it, and a picture of them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from attnlang.cli import console
from attnlang.cli.errors import InputError
from attnlang.cli.files import choose
from attnlang.cli.options import add_file_and_name, add_set, positive
from attnlang.cli.outputs import check_writable

if TYPE_CHECKING:
    from attnlang.cli.grid import Grid
    from attnlang.invent.inputs import Call
    from attnlang.ir.nodes import Variant
    from attnlang.passes import Lowered

TILE = 64
_DEFAULT_LENGTH = 4096
# Tiles that are judged at once.
_MAX_TILES = 1 << 22
_PICTURES = (".png", ".svg", ".pdf")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add_file_and_name(parser)
    parser.add_argument(
        "--q-len",
        type=positive,
        default=_DEFAULT_LENGTH,
        metavar="N",
        help=f"queries (default: {_DEFAULT_LENGTH})",
    )
    parser.add_argument(
        "--kv-len", type=positive, metavar="N", help="keys (default: as many as queries)"
    )
    add_set(parser)
    parser.add_argument(
        "--plot", type=Path, metavar="OUT", help="draw the mask's tiles as PNG, SVG or PDF"
    )


def explain(args: Namespace) -> int:
    """Say what a variant computes; count and draw its tiles."""
    variant = choose(args.file, args.name, args.include).variant
    q_len: int = args.q_len
    kv_len: int = args.kv_len or q_len
    plot: Path | None = args.plot
    if q_len * kv_len > _MAX_TILES * TILE * TILE:
        raise InputError(f"--q-len, --kv-len: at most {_MAX_TILES:,} tiles of {TILE} x {TILE}")
    if plot is not None:
        check_writable("--plot", plot)
        if plot.suffix.lower() not in _PICTURES:
            raise InputError(f"--plot: {plot} must end in {', '.join(_PICTURES)}")
    with console.activity("loading torch") as activity:
        from attnlang.cli.grid import tile_grid
        from attnlang.invent.masks import mask_env

        activity.now("making inputs")
        call = _call(variant, q_len, kv_len, args.set)
        activity.now("looking at the mask")
        lowered = _lowered(variant, call)
        grid = None
        if not _reads_score(variant):
            grid = tile_grid(lowered.mask, mask_env(variant, call, 0, 0), TILE)
        if plot is not None and grid is not None:
            from attnlang.cli.picture import draw

            activity.now("drawing")
            draw(plot, grid, _title(variant, call), _text(variant, "mask"))
    console.result(_explanation(variant, call, lowered, grid))
    if plot is not None:
        told = "the mask reads scores: it has no picture" if grid is None else f"drawn in {plot}"
        console.message(told)
    return 0


def _call(variant: Variant, q_len: int, kv_len: int, settings: list[str]) -> Call:
    import torch

    from attnlang.cli.settings import parse_settings
    from attnlang.invent.inputs import invent
    from attnlang.invent.scalars import Request, fit_shape
    from attnlang.invent.shape import Shape

    parsed = parse_settings(variant, settings)
    shape = fit_shape(variant, Shape(1, 4, 4, q_len, kv_len, 64, 64), parsed)
    return invent(variant, Request(shape, torch.float32, 0, parsed))


def _lowered(variant: Variant, call: Call) -> Lowered:
    from attnlang.compiler import lower
    from attnlang.ops.specialised import const_values, given_tensors

    values = dict(call.params)
    return lower(variant, dict(const_values(variant, values)), given_tensors(variant, values))


def _reads_score(variant: Variant) -> bool:
    from attnlang.ir.nodes import Dot, Raw, Vector
    from attnlang.ir.traverse import walk

    return any(isinstance(e, Raw | Dot | Vector) for e in walk(variant.mask))


def _title(variant: Variant, call: Call) -> str:
    values = ", ".join(f"{n} = {v:g}" for n, v in call.scalars.items())
    return f"{variant.name}({values})" if values else variant.name


def _text(variant: Variant, name: str) -> str:
    from attnlang.ir.printer import print_expr

    return print_expr(getattr(variant, name))


def _explanation(variant: Variant, call: Call, lowered: Lowered, grid: Grid | None) -> str:
    weights = variant.weights
    facts = [("variant", _title(variant, call))]
    if variant.doc:
        facts.append(("", variant.doc))
    facts += [(n, _text(variant, n)) for n in ("scale", "score", "mask")]
    facts.append(("weights", _weights(variant)))
    facts.append(("out", _text(variant, "out")))
    if weights.softmax is None:
        facts.append(("", "no softmax: there is no lse, and a row's weights need not sum to 1"))
    facts += _tiles(grid)
    facts.append(("kernels", _kernels(lowered)))
    return "\n".join(f"{label:<8} {text}" for label, text in facts)


def _weights(variant: Variant) -> str:
    from attnlang.ir.printer import print_expr

    weights = variant.weights
    parts = []
    if weights.softmax is not None:
        sink = f", sink={print_expr(weights.sink)}" if weights.sink is not None else ""
        parts.append(f"softmax({print_expr(weights.softmax)}{sink})")
    if weights.factor is not None:
        parts.append(print_expr(weights.factor))
    if weights.dropout is not None:
        parts.append(f"dropout({print_expr(weights.dropout)})")
    return " * ".join(parts)


def _tiles(grid: Grid | None) -> list[tuple[str, str]]:
    if grid is None:
        return [("tiles", "not known before the scores are: the mask reads them")]
    from attnlang.cli.grid import Verdict

    def share(verdict: Verdict) -> str:
        return f"{grid.count(verdict):,} ({100 * grid.share(verdict):.1f}%)"

    lengths = f"Q {grid.q_len:,} x KV {grid.kv_len:,} in tiles of {grid.tile} x {grid.tile}"
    return [
        ("tiles", f"{grid.verdicts.size:,} of a request and head: {lengths}"),
        ("full", f"{share(Verdict.FULL)}, computed without the mask"),
        ("partial", f"{share(Verdict.PARTIAL)}, computed with it"),
        ("empty", f"{share(Verdict.EMPTY)}, skipped"),
    ]


def _kernels(lowered: Lowered) -> str:
    """Say whether the CPU kernels run it, and if not, why."""
    from attnlang.plan.support import unsupported

    refused = unsupported(lowered)
    return "; ".join(dict.fromkeys(d.headline for d in refused)) if refused else "cpu"
