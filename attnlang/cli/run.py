"""`attnlang run`: compile a variant for this machine, run it at a real size, check it, report.

The report is in `report`, what is measured in `trial`; here a command line becomes a call.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from attnlang.cli import console
from attnlang.cli.errors import InputError
from attnlang.cli.files import choose
from attnlang.cli.options import DType, add_file_and_name, add_set, torch_dtype
from attnlang.cli.outputs import check_writable
from attnlang.cli.shapes import DEFAULT, EMULATED, FORM, parse_shape
from attnlang.jit.units import Target

if TYPE_CHECKING:
    from attnlang.invent.inputs import Call
    from attnlang.invent.settings import Settings
    from attnlang.ir.nodes import Variant


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add_file_and_name(parser)
    parser.add_argument(
        "--shape", metavar=FORM, help=f"sizes of the call, by name: {FORM} (default: {DEFAULT})"
    )
    parser.add_argument(
        "--dtype", choices=[d.value for d in DType], help="of q, k and v (default: f32)"
    )
    parser.add_argument(
        "--target",
        choices=[t.value for t in Target],
        help="whose kernel to run; a GPU's runs there, or with ATTNLANG_EMULATE=1 in the emulator "
        "(default: cpu)",
    )
    add_set(parser)
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the inputs that are invented"
    )
    parser.add_argument(
        "--input",
        type=Path,
        metavar="IN",
        help="run on the q, k, v and parameters of a safetensors file instead",
    )
    parser.add_argument(
        "--output", type=Path, metavar="OUT", help="write out and lse to a safetensors file"
    )


def run(args: Namespace) -> int:
    """Compile a variant, run it, check it, and report."""
    variant = choose(args.file, args.name, args.include).variant
    output: Path | None = args.output
    if args.input is not None and (args.shape is not None or args.dtype is not None):
        raise InputError("--input brings its own shape and dtype: leave --shape and --dtype out")
    if output is not None:
        check_writable("--output", output)
        if args.input is not None and output.exists() and args.input.exists():
            _keep_input(args.input, output)
    with console.activity("loading torch") as activity:
        from attnlang.cli.places import place_of
        from attnlang.cli.report import report
        from attnlang.cli.settings import parse_settings
        from attnlang.cli.tensors import not_finite, read_call, write_tensors
        from attnlang.cli.trial import try_out

        place = place_of(args.target)
        if not place.is_cpu and args.dtype == DType.F32:
            raise InputError(f"--dtype: kernels for {place.target} take bf16 and f16, not f32")
        settings = parse_settings(variant, args.set)
        activity.now("making inputs")
        if args.input is not None:
            call = read_call(args.input, variant, settings)
            if not place.is_cpu and call.q.dtype.itemsize != 2:
                raise InputError(f"--input: kernels for {place.target} take bfloat16 and float16")
        else:
            dtype = DType(args.dtype or (DType.F32 if place.is_cpu else DType.BF16))
            small = EMULATED if place.emulated else DEFAULT
            call = _invented(variant, args.shape, small, dtype, settings, args.seed)
        trial = try_out(variant, call, args.seed, activity, place)
    if output is not None:
        write_tensors(output, trial.results)
    console.result(report(args.file, variant, call, trial, place))
    if output is not None:
        console.message(f"{', '.join(trial.results)} written to {output}")
    infinite = () if args.input is None else not_finite(call)
    if infinite:
        told = f"NaN or infinities in {', '.join(infinite)}: no number is promised where they reach"
        console.labelled("warning", told)
    if not trial.accuracy.fine and infinite:
        console.labelled("error", "the kernel and the reference differ on such inputs")
        return 1
    if not trial.accuracy.fine:
        console.labelled("error", "the kernel is less accurate than attnlang promises: a bug")
        return 2
    return 0


def _keep_input(path: Path, output: Path) -> None:
    if output.samefile(path):
        raise InputError(f"--output: {output} is the input")


def _invented(
    variant: Variant,
    shape: str | None,
    default: str,
    dtype: DType,
    settings: Settings,
    seed: int,
) -> Call:
    from attnlang.invent.inputs import invent
    from attnlang.invent.scalars import Request, fit_shape

    wanted = parse_shape(shape if shape is not None else default)
    if shape is None:
        wanted = fit_shape(variant, wanted, settings)
    return invent(variant, Request(wanted, torch_dtype(dtype), seed, settings))
