"""`attnlang run`: compile a variant for this machine, run it at a real size, check it, report.

The report is in `report`, what is measured in `trial`; here a command line becomes a call.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnlang.cli import console
from attnlang.cli.errors import InputError
from attnlang.cli.files import choose
from attnlang.cli.options import DType, File, Include, Name, Set, torch_dtype
from attnlang.cli.shapes import DEFAULT, FORM, parse_shape

if TYPE_CHECKING:
    from attnlang.cli.inputs import Call
    from attnlang.cli.settings import Settings
    from attnlang.ir.nodes import Variant


def run(
    file: File,
    name: Name = None,
    shape: Annotated[
        str | None, typer.Option(metavar=FORM, help=f"Sizes of the call; by default {DEFAULT}.")
    ] = None,
    dtype: Annotated[DType | None, typer.Option(help="Of q, k and v; by default f32.")] = None,
    set_: Set = None,
    seed: Annotated[int, typer.Option(help="Of the inputs that are invented.")] = 0,
    input_: Annotated[
        Path | None,
        typer.Option("--input", help="A safetensors file with q, k, v and parameters."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where to write out and lse, as safetensors.")
    ] = None,
    include: Include = None,
) -> int:
    """Compile a variant, run it, check it, and report."""
    variant = choose(file, name, include or ()).variant
    if input_ is not None and (shape is not None or dtype is not None):
        raise InputError("--input brings its own shape and dtype: leave --shape and --dtype out")
    with console.activity("loading torch") as activity:
        from attnlang.cli.report import report
        from attnlang.cli.settings import parse_settings
        from attnlang.cli.tensors import check_writable, read_call, write_tensors
        from attnlang.cli.trial import try_out

        if output is not None:
            check_writable(output)
        settings = parse_settings(variant, set_ or ())
        activity.now("making inputs")
        if input_ is not None:
            call = read_call(input_, variant, settings)
        else:
            call = _invented(variant, shape, dtype or DType.F32, settings, seed)
        trial = try_out(variant, call, seed, activity)
    if output is not None:
        write_tensors(output, trial.results)
    console.result(report(file, variant, call, trial))
    if output is not None:
        console.message(f"{', '.join(trial.results)} written to {output}")
    if not trial.accuracy.fine:
        console.labelled("error", "the kernel is less accurate than attnlang promises: a bug")
        return 2
    return 0


def _invented(
    variant: Variant, shape: str | None, dtype: DType, settings: Settings, seed: int
) -> Call:
    from attnlang.cli.inputs import invent
    from attnlang.cli.scalars import Request, fit_shape

    wanted = parse_shape(shape if shape is not None else DEFAULT)
    if shape is None:
        wanted = fit_shape(variant, wanted, settings)
    return invent(variant, Request(wanted, torch_dtype(dtype), seed, settings))
