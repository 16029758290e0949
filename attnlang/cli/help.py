"""`attnlang help CODE`: a diagnostic explained, with a wrong spec and the mended one."""

from __future__ import annotations

from typing import Annotated

import typer

from attnlang.cli import console
from attnlang.cli.errors import InputError


def help_(
    code: Annotated[str, typer.Argument(help="The code of a diagnostic, such as A203.")],
) -> int:
    """Explain a diagnostic."""
    from attnlang.diagnostics.explain import explain

    text = explain(code.upper())
    if text is None:
        raise InputError(f"no diagnostic has the code {code}; codes look like A203 or W101")
    console.result(text)
    return 0
