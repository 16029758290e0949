"""The generated unit with the spec's lines beside it.

Maps a plan's unit to lines, each with the line of the spec that its `#line` names; the directives
themselves are not shown. Invariant: an origin is a line of `spec`, or None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from attnlang.compiler import kernel_sources
from attnlang.emit.spec_lines import file_name
from attnlang.explain.explanation import CodeLine, Listing, SpecLine
from attnlang.ir.traverse import walk
from attnlang.passes.lowered import Lowered
from attnlang.plan.plan import Plan
from attnlang.sources import Source

_DIRECTIVE = re.compile(r'#line (\d+) "(.*)"')


def listing(lowered: Lowered, planned: Plan) -> Listing:
    """Return the spec and the unit of a kernel."""
    spec = lowered.variant.span.source
    units = kernel_sources(planned, lowered.variant.name).units
    code = tuple(_code_lines(units[0].text))
    sources = {e.span.source for _, root in lowered.roots for e in walk(root)} - {spec}
    used = {line.origin for line in code}
    others = sorted(sources, key=lambda source: source.path)
    imported = [line for s in others for line in _whole(s) if line.key in used]
    known = {line.key for line in (*_whole(spec), *imported)}
    placed = (CodeLine(c.text, c.origin if c.origin in known else None) for c in code)
    return Listing((*_whole(spec), *imported), tuple(placed))


def _whole(source: Source) -> tuple[SpecLine, ...]:
    name = file_name(source.path)
    lines = source.text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(SpecLine(name, i, text) for i, text in enumerate(lines, 1))


def _code_lines(text: str) -> Iterable[CodeLine]:
    origin: str | None = None
    for line in text.splitlines():
        directive = _DIRECTIVE.fullmatch(line)
        if directive is None:
            yield CodeLine(line, origin)
        else:
            number, file = directive.groups()
            origin = None if file.endswith(".cpp") else f"{file}:{number}"
