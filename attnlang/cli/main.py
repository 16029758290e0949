"""`attnlang`: the list of commands, and what becomes of whatever goes wrong in them.

Maps arguments to an exit code: 0 fine, 1 the input is wrong, 2 attnlang is. A fault of ours is any
exception that is not one of the errors named here; nothing catches both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer

from attnlang import __version__
from attnlang.cli import cache, check, console, doctor, explain, help, run, show, verify
from attnlang.cli.errors import InputError
from attnlang.diagnostics import SpecError
from attnlang.options import OptionError, options

# What typer raises for a wrong command line. Newer versions have it in a click of their own, so it
# has no public name that holds for all.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[1]

FINE, WRONG_INPUT, WRONG_ATTNLANG, INTERRUPTED = 0, 1, 2, 130

_COMMANDS: Mapping[str, Callable[..., int]] = {
    "check": check.check,
    "show": show.show,
    "explain": explain.explain,
    "run": run.run,
    "verify": verify.verify,
    "help": help.help_,
    "doctor": doctor.doctor,
    "cache": cache.cache,
}


def _print_version(value: bool) -> None:
    if value:
        console.result(f"attnlang {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def _app(args: Sequence[str]) -> typer.Typer:
    """Return the command line: with one command where it is named first, for that is quicker."""
    app = typer.Typer(
        name="attnlang",
        help="Attention variants written as mathematics, compiled to fused torch ops.",
        epilog="Exit codes: 0 fine, 1 the input is wrong, 2 attnlang is.",
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    for name, command in _COMMANDS.items():
        if name in args[:1] or not {*args[:1]} & {*_COMMANDS}:
            app.command(name)(command)
    return app


def run_command(args: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        code = _app(args)(args=list(args), prog_name="attnlang", standalone_mode=False)
    except _CommandLineError as error:
        error.show()  # type: ignore[attr-defined]
        return WRONG_INPUT
    except (InputError, OptionError) as error:
        console.labelled("error", str(error))
        return WRONG_INPUT
    except SpecError as error:
        console.message(str(error))
        return WRONG_INPUT
    except (KeyboardInterrupt, typer.Abort):
        console.message("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the result has enough; the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except Exception as error:
        return _other(error)
    return code if isinstance(code, int) else FINE


def _other(error: Exception) -> int:
    """Tell a call that the spec refuses and a toolchain that fails from a fault of ours."""
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


def main() -> None:
    """Be the `attnlang` command."""
    sys.exit(run_command(sys.argv[1:]))
