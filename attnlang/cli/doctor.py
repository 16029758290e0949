"""`attnlang doctor`: what works on this machine, and what would mend the rest."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from attnlang.cli import console


def add_arguments(_parser: ArgumentParser) -> None:
    """Declare the command line: it takes nothing."""


def doctor(_args: Namespace) -> int:
    """Say what works on this machine, and what would mend the rest."""
    from attnlang.jit.doctor import report

    console.result(str(report()))
    return 0
