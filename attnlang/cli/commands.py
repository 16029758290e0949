"""`attnlang`: the list of commands, and what becomes of whatever goes wrong in them.

Maps arguments to an exit code: 0 fine, 1 the input is wrong, 2 attnlang is. A fault of ours is any
exception that is not one of the errors named here; nothing catches both.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from attnlang import __version__
from attnlang.cli import (
    bench,
    build,
    cache,
    check,
    console,
    doctor,
    explain,
    fmt,
    help,
    run,
    show,
    verify,
)
from attnlang.cli.errors import InputError
from attnlang.diagnostics import SpecError
from attnlang.options import OptionError, options

FINE, WRONG_INPUT, WRONG_ATTNLANG, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True, slots=True)
class Command:
    """A command: how its arguments are declared, and what it does with them."""

    name: str
    declare: Callable[[ArgumentParser], None]
    execute: Callable[[Namespace], int]

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return (self.execute.__doc__ or "").rstrip(".")


COMMANDS = (
    Command("check", check.add_arguments, check.check),
    Command("fmt", fmt.add_arguments, fmt.fmt),
    Command("show", show.add_arguments, show.show),
    Command("explain", explain.add_arguments, explain.explain),
    Command("run", run.add_arguments, run.run),
    Command("verify", verify.add_arguments, verify.verify),
    Command("bench", bench.add_arguments, bench.bench),
    Command("build", build.add_arguments, build.build),
    Command("help", help.add_arguments, help.help_),
    Command("doctor", doctor.add_arguments, doctor.doctor),
    Command("cache", cache.add_arguments, cache.cache),
)


class _Parser(ArgumentParser):
    """A parser for which a wrong command line is wrong input, not a fault of ours."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}\n{self.format_usage().rstrip()}")

    def _print_message(self, message: str, file: object = None) -> None:
        """Print help or the version: argparse would not tell where stdout takes no more."""
        console.result(message)


def _parser() -> ArgumentParser:
    parser = _Parser(
        prog="attnlang",
        description="Attention variants written as mathematics, compiled to fused torch ops.",
        epilog="exit codes: 0 fine, 1 the input is wrong, 2 attnlang is",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"attnlang {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name, help=command.summary, description=command.summary, allow_abbrev=False
        )
        command.declare(sub)
        sub.set_defaults(execute=command.execute)
    return parser


def run_command(args: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        return _execute(args)
    except (InputError, OptionError) as error:
        console.labelled("error", str(error))
        return WRONG_INPUT
    except SpecError as error:
        console.message(str(error))
        return WRONG_INPUT
    except KeyboardInterrupt:
        console.message("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the result has enough; the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except Exception as error:
        return _other(error)


def _execute(args: Sequence[str]) -> int:
    if not args:
        console.message(_parser().format_help())
        return WRONG_INPUT
    try:
        parsed = _parser().parse_args(args)
    except SystemExit:  # --help and --version have printed what was asked for
        console.end_of_results()
        return FINE
    code: int = parsed.execute(parsed)
    console.end_of_results()
    return code


def _other(error: Exception) -> int:
    """Tell a call that the spec refuses and a toolchain that fails from a fault of ours."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # torch's words
        console.labelled("error", "this machine has not enough memory for a call of this size")
        return WRONG_INPUT
    if _is_public(error, "CallError"):
        console.labelled("error", str(error))
        return WRONG_INPUT
    if _is_public(error, "BuildError"):
        console.labelled("error", f"{error}\n`attnlang doctor` says what this machine has")
        return WRONG_ATTNLANG
    return _report_fault(error)


def _is_public(error: Exception, name: str) -> bool:
    """Whether an error is of `attnlang`'s class `name`, which would import torch to look up."""
    return any(
        c.__name__ == name and c.__module__.startswith("attnlang.") for c in type(error).__mro__
    )


def _report_fault(error: Exception) -> int:
    verbose = _wants_tracebacks()
    if verbose:
        import traceback

        console.message("".join(traceback.format_exception(error)))
    first_line = str(error).partition("\n")[0]
    console.labelled("error", f"attnlang failed: {type(error).__name__}: {first_line}")
    hint = "" if verbose else "; run it again with ATTNLANG_VERBOSE=1 for the traceback"
    console.message(f"this is a bug in attnlang: please report it with the spec{hint}")
    return WRONG_ATTNLANG


def _wants_tracebacks() -> bool:
    try:
        return options().verbose
    except OptionError:
        return False
