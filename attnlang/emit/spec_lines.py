"""Where the generated text says that the spec wrote it.

Maps expressions to what follows `#line`. Invariant: no text of a path reaches the unit but what is
safe between quotes.
"""

from __future__ import annotations

import re

from attnlang.ir.nodes import Expr


def file_name(path: str) -> str:
    """Return the base name of a spec, reduced to what is safe between quotes."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", path.replace("\\", "/").rsplit("/", 1)[-1])


def spec_line(expr: Expr) -> str:
    """Return what follows `#line`: where the expression is written, be it in an imported file."""
    source = expr.span.source
    number = source.text.count("\n", 0, expr.span.start) + 1
    return f'{number} "{file_name(source.path)}"'
