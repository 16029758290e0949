"""`attnlang help CODE`: a diagnostic explained, with a wrong spec and the mended one."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from attnlang.cli import console
from attnlang.cli.errors import InputError


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("code", metavar="CODE", help="the code of a diagnostic, such as A203")


def help_(args: Namespace) -> int:
    """Explain a diagnostic."""
    from attnlang.diagnostics.explain import explain

    text = explain(args.code)
    if text is None:
        raise InputError(f"no diagnostic has the code {args.code}; codes look like A203 or W101")
    console.result(text)
    return 0
