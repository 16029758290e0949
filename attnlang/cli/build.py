"""`attnlang build`: compile one kernel ahead of time, into an object that stands alone.

The object registers the op when torch loads it (`torch.ops.load_library`), in a process that need
not have attnlang, nor Python.
"""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from attnlang.cli import console, kernel
from attnlang.cli.errors import InputError
from attnlang.cli.files import choose
from attnlang.cli.kernel import KernelChoice
from attnlang.cli.options import add_choice, add_file_and_name
from attnlang.cli.outputs import check_writable, write_whole
from attnlang.jit.units import Target
from attnlang.options import CpuTarget, options

if TYPE_CHECKING:
    from attnlang.emit.op_schema import OpSchema
    from attnlang.jit.cache import Manifest
    from attnlang.plan.kernel_key import KernelKey


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add_file_and_name(parser)
    add_choice(parser, "--target", Target, Target.CPU, "what to build for")
    kernel.add_arguments(parser, "")
    parser.add_argument(
        "--cpu",
        choices=[c.value for c in CpuTarget],
        help="the CPUs that it shall run on (default: ATTNLANG_CPU, else native)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="the folder for the object, made where it is missing (default: this one)",
    )


def build(args: Namespace) -> int:
    """Compile a kernel ahead of time, into one object that registers its op."""
    variant = choose(args.file, args.name, args.include).variant
    choice = KernelChoice(variant, args)
    folder: Path = args.output
    path = folder / f"{variant.name}.so"
    planned = choice.plan
    for name in choice.unread:
        console.labelled("warning", f"--set: each call passes {name}: the object holds no value")
    _prepare(folder)
    check_writable("--output", path)
    with console.activity("compiling") as activity:
        from attnlang.compiler import aot_sources
        from attnlang.emit.op_schema import make_schema, op_name
        from attnlang.jit.build import build as compile_
        from attnlang.jit.cache import MANIFEST, Manifest

        name = op_name(variant, choice.consts, choice.given)
        cpu = CpuTarget(args.cpu) if args.cpu else options().cpu
        library = compile_(aot_sources(planned, name), cpu=cpu, progress=activity.now)
        manifest = Manifest.read(library.parent / MANIFEST)
        write_whole(path, lambda temporary: _copy(library, temporary))
    schema = make_schema(planned.lowered.variant, name)
    console.result(_report(path, schema, planned.key, manifest))
    return 0


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output: cannot make {folder}: {error.strerror}") from None


def _copy(library: Path, temporary: Path) -> None:
    shutil.copyfile(library, temporary)


def _machine(target: Target, cpu: str) -> tuple[str, str]:
    if target is Target.CPU:
        return "CPU", cpu
    later = " and later, by its PTX" if target is Target.SM80 else " alone"
    return "GPU", f"compute capability {target.code // 10}.{target.code % 10}{later}"


def _report(path: Path, schema: OpSchema, key: KernelKey, manifest: Manifest) -> str:
    needs = ", ".join(manifest.cpu_features) or "nothing beyond the baseline"
    rows = (
        ("object", str(path)),
        ("op", f"torch.ops.attnlang.{schema.name}"),
        ("schema", schema.forward),
        ("kernel", f"{key.dtype}, D = {key.head_dim}, DV = {key.value_dim}"),
        _machine(key.target, f"{manifest.machine}: {needs}"),
    )
    return console.table(rows)
