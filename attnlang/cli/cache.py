"""`attnlang cache`: the built kernels on disk, told or removed."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from attnlang.cli import console


class Action(StrEnum):
    """What to do with the cache."""

    INFO = "info"
    CLEAR = "clear"


def cache(
    action: Annotated[Action, typer.Argument(help="Tell about it, or empty it.")] = Action.INFO,
) -> int:
    """Show the cache of built kernels, or empty it."""
    from attnlang.jit import cache as built

    match action:
        case Action.INFO:
            console.result(str(built.info()))
        case Action.CLEAR:
            gone = built.clear()
            size = f"{gone.bytes / 2**20:.1f} MiB"
            console.result(f"{gone.path}\nremoved {gone.entries} built objects, {size}")
    return 0
