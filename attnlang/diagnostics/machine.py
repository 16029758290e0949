"""From diagnostics to what programs read: JSON, and the workflow commands of GitHub Actions.

Lines and columns count from 1, columns in characters; an end is the place after the last character.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from attnlang.diagnostics.base import Diagnostic, Label
from attnlang.diagnostics.lines import position, visible
from attnlang.sources import Span

_DATA = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_PROPERTY = {**_DATA, ":": "%3A", ",": "%2C"}


def render_json(diagnostics: Sequence[Diagnostic]) -> str:
    """Return an array of objects, one a diagnostic."""
    return json.dumps([_object(d) for d in diagnostics], indent=2)


def render_github(d: Diagnostic) -> str:
    """Return the command that annotates the place of a diagnostic in a pull request."""
    place = position(d.span.source, d.span.start)
    message = "\n".join(
        [
            f"{d.code}: {d.headline}",
            *([d.label] if d.label else []),
            *(f"note: {note}" for note in d.notes),
            *([f"help: {d.help}"] if d.help else []),
        ]
    )
    file = _escaped(d.span.source.path, _PROPERTY)
    where = f"file={file},line={place.line},col={place.column}"
    return f"::{d.severity} {where}::{_escaped(message, _DATA)}"


def _object(d: Diagnostic) -> dict[str, object]:
    return {
        "code": d.code,
        "severity": str(d.severity),
        "message": d.headline,
        **_place(d.span),
        "label": d.label,
        "secondary": [_label(label) for label in d.secondary],
        "notes": list(d.notes),
        "help": d.help,
    }


def _label(label: Label) -> dict[str, object]:
    return {**_place(label.span), "label": label.text}


def _place(span: Span) -> dict[str, object]:
    start, end = position(span.source, span.start), position(span.source, span.end)
    return {
        "path": span.source.path,
        "line": start.line,
        "column": start.column,
        "end_line": end.line,
        "end_column": end.column,
    }


def _escaped(text: str, table: dict[str, str]) -> str:
    """Escape what would end the command, and make visible what a terminal would obey."""
    return "".join(table.get(c) or visible(c) for c in text)
