"""From a diagnostic's code to its help text, `grammar/help/CODE.md`."""

from __future__ import annotations

import re

from attnlang.assets import asset

_CODE = re.compile(r"[AW][0-9]{3}")


def explain(code: str) -> str | None:
    """Return the help text of a code such as `A203`, or None if there is no such code."""
    name = code.upper()
    if not _CODE.fullmatch(name):
        return None
    path = asset("grammar", "help", f"{name}.md")
    return path.read_text(encoding="utf-8") if path.is_file() else None


def codes() -> tuple[str, ...]:
    """Return every code that has a help text, in order."""
    found = (path.stem for path in asset("grammar", "help").glob("*.md"))
    return tuple(sorted(name for name in found if _CODE.fullmatch(name)))
