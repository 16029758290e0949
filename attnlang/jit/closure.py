"""The headers that a unit includes, transitively, from our own folders.

Maps unit texts to `(name, content)` pairs for the build's key. Every `#include` line counts, also
one under a false `#if`: a key may then change in vain, but never stay when the code changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^">\n]+)[">]', re.MULTILINE)

_texts: dict[Path, tuple[int, int, str]] = {}


def include_closure(texts: Iterable[str], roots: Sequence[Path]) -> tuple[tuple[str, str], ...]:
    """Return the name and text of each header reached, sorted; ones outside the roots are left out.

    A name is relative to its root, so that a key does not depend on where attnlang is installed.
    """
    found: dict[tuple[str, str], None] = {}
    seen: set[tuple[str, Path | None]] = set()
    todo: list[tuple[str, Path | None]] = []
    for text in texts:
        todo.extend((name, None) for name in _INCLUDE.findall(text))
    while todo:
        request = todo.pop()
        if request in seen:
            continue
        seen.add(request)
        hit = _resolve(*request, roots)
        if hit is None:
            continue
        path, shown = hit
        text = _read(path)
        found[shown, text] = None
        todo.extend((name, path.parent) for name in _INCLUDE.findall(text))
    return tuple(sorted(found))


def _resolve(name: str, beside: Path | None, roots: Sequence[Path]) -> tuple[Path, str] | None:
    for root in roots:
        for base in (beside, root):
            if base is None or not base.is_relative_to(root):
                continue
            path = base / name
            if path.is_file():
                return path, str(path.relative_to(root))
    return None


def _read(path: Path) -> str:
    stat = path.stat()
    known = _texts.get(path)
    if known and known[:2] == (stat.st_mtime_ns, stat.st_size):
        return known[2]
    text = path.read_text(encoding="utf-8")
    _texts[path] = (stat.st_mtime_ns, stat.st_size, text)
    return text
