"""`attnlang bench`: variants beside what a user would run instead, on this machine.

Each variant becomes a case (`attnlang/bench`), measured, shown as a row, and recorded where asked.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from attnlang.cli import console
from attnlang.cli.errors import InputError
from attnlang.cli.files import check_file, spec_files
from attnlang.cli.options import DType, add_choice, add_files, add_set, torch_dtype
from attnlang.cli.outputs import check_writable, write_whole
from attnlang.cli.shapes import DEFAULT, FORM, parse_shape

if TYPE_CHECKING:
    from attnlang.bench.case import Case
    from attnlang.invent.shape import Shape
    from attnlang.ir.nodes import Variant

_PEERS = ("sdpa", "flex", "eager")
_SECONDS = 5.0
_FULL = "attention full:\n"
_SUFFIXES = (".png", ".svg", ".pdf")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add_files(parser)
    parser.add_argument(
        "--gallery",
        action="store_true",
        help="also compare with plain attention over as many tiles",
    )
    parser.add_argument(
        "--vs",
        default=",".join(_PEERS),
        metavar="PEER,...",
        help=f"what to run beside: {', '.join(_PEERS)} (default: all)",
    )
    parser.add_argument(
        "--shape", default=DEFAULT, metavar=FORM, help=f"sizes of the call (default: {DEFAULT})"
    )
    add_choice(parser, "--dtype", DType, DType.F32, "of q, k and v")
    add_set(parser)
    parser.add_argument(
        "--seconds",
        type=float,
        default=_SECONDS,
        help=f"of measuring, for each variant (default: {_SECONDS:g})",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="add the results to a JSON file")
    parser.add_argument(
        "--plot", type=Path, metavar="OUT", help="draw the results as PNG, SVG or PDF"
    )


def bench(args: Namespace) -> int:
    """Measure variants beside SDPA, FlexAttention and eager torch."""
    from attnlang.bench.clock import prepare_process

    prepare_process()
    peers = _peers(args.vs)
    if not 0 < args.seconds < 3600:
        raise InputError(f"--seconds: expected a time above 0, found {args.seconds:g}")
    for option, path in (("--json", args.json), ("--plot", args.plot)):
        if path is not None:
            check_writable(option, path)
    if args.plot is not None and args.plot.suffix.lower() not in _SUFFIXES:
        raise InputError(f"--plot: {args.plot} must end in .png, .svg or .pdf")
    found = [v for f in spec_files(args.files) for v in _variants(f, args.include)]
    if args.set and len(found) != 1:
        raise InputError("--set is for one variant; the files have several")
    with console.activity("loading torch", len(found)) as activity:
        from attnlang.bench.contest import run_case
        from attnlang.bench.machine import this_machine
        from attnlang.bench.record import OtherMachineError, as_json, read_record, record_text

        machine = this_machine()
        try:
            known = {} if args.json is None else read_record(args.json, machine)
        except OtherMachineError as error:
            raise InputError(f"--json: {error}") from None
        measured = {}
        for variant in found:
            case = _case(variant, args, peers)
            measured[case.name] = as_json(run_case(case, args.seconds, activity.now))
            activity.step()
            if args.json is not None:
                text = record_text(machine, known | measured)
                write_whole(args.json, partial(_write, text))
    from attnlang.cli.bench_table import print_table

    print_table(measured)
    if args.plot is not None:
        _draw(machine.cpu, measured, args.plot)
    _warn_if_busy(measured)
    return 0


def _peers(text: str) -> frozenset[str]:
    names = frozenset(p for p in text.split(",") if p)
    unknown = sorted(names - set(_PEERS))
    if unknown:
        raise InputError(f"--vs: expected some of {', '.join(_PEERS)}, found {unknown[0]}")
    return names


def _variants(path: Path, include: Sequence[Path]) -> tuple[Variant, ...]:
    result = check_file(path, include)
    result.raise_errors()
    return result.variants


def _case(variant: Variant, args: Namespace, peers: frozenset[str]) -> Case:
    from attnlang.bench.case import Case
    from attnlang.bench.clock import Clock
    from attnlang.cli.settings import parse_settings
    from attnlang.compiler import check_source
    from attnlang.invent.inputs import invent
    from attnlang.invent.scalars import Request, fit_shape
    from attnlang.invent.settings import Settings
    from attnlang.sources import Source

    settings = parse_settings(variant, args.set)
    shape = fit_shape(variant, parse_shape(args.shape), settings)
    dtype = torch_dtype(DType(args.dtype))
    call = invent(variant, Request(shape, dtype, 0, settings))
    beside = {}
    if args.gallery:
        (full,) = check_source(Source("<plain>", _FULL)).variants
        plain = invent(full, Request(shape, dtype, 0, Settings({}, {}, {})))
        beside["plain"] = (full, plain)
    clock = Clock.WALL if _reads(shape) else Clock.CPU
    name = f"{variant.name} {args.dtype} {args.shape}"
    return Case(name, variant, call, peers, clock, beside)


def _reads(shape: Shape) -> bool:
    """Whether a call is bound by reading keys and values: few rows share them."""
    return shape.q * (shape.hq // max(1, shape.hkv)) <= 16


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _draw(title: str, measured: Mapping[str, object], path: Path) -> None:
    from attnlang.bench.plot import draw

    try:
        write_whole(path, lambda part: draw(title, measured, part, path.suffix))
    except ModuleNotFoundError as error:
        raise InputError(f"--plot: {error}") from None
    console.message(f"drawn in {path}")


def _warn_if_busy(measured: Mapping[str, Mapping[str, object]]) -> None:
    from attnlang.bench.machine import BUSY_SHARE

    shares = [s for m in measured.values() if isinstance(s := m["others"], float)]
    if shares and max(shares) > BUSY_SHARE:
        told = f"other processes took up to {100 * max(shares):.0f}% of the machine"
        console.labelled("warning", f"{told}: measure again when it is quiet")
