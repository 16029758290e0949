"""`attnlang cache`: the built kernels and kept results on disk, told or removed."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from enum import StrEnum

from attnlang.cli import console


class Action(StrEnum):
    """What to do with the cache."""

    INFO = "info"
    CLEAR = "clear"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=[a.value for a in Action],
        default=Action.INFO.value,
        help="tell about it (the default), or empty it",
    )


def cache(args: Namespace) -> int:
    """Show the cache of built kernels, or empty it."""
    from attnlang.jit import cache as built

    match Action(args.action):
        case Action.INFO:
            console.result(str(built.info()))
        case Action.CLEAR:
            gone = built.clear()
            console.result(f"{gone.path}\nremoved {gone.held}")
    return 0
