"""From a diagnostic to the text that people read.

    error[A203]: `score` must be a scalar, found a vector over `d`
      --> examples/alibi.attn:7:13
       |
     7 |     score = score + k
       |                     ^ this varies along the head dimension
       = help: a change to the key belongs in `k = ...`, before the dot product

A span of several lines is shown by its first. Invariant: an underline stands below the cells that
its characters take, whatever their width, and no character of the spec steers the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnlang.diagnostics.base import Diagnostic, Label, Severity
from attnlang.diagnostics.lines import Shown, cut, line_text, position, shown, visible, width
from attnlang.sources import Source

_COLUMNS = 100
_REACH = 300  # characters of a very long line that are looked at, each side of a label
_RESET = "\x1b[0m"
_BOLD = "\x1b[1m"
_BLUE = "\x1b[1;34m"
_SEVERITY = {Severity.ERROR: "\x1b[1;31m", Severity.WARNING: "\x1b[1;33m"}


def render_text(d: Diagnostic, *, color: bool = False) -> str:
    """Return a diagnostic as text, without a line break at its end."""
    paint = _Paint(color, _SEVERITY[d.severity])
    labels = [Label(d.span, d.label), *d.secondary]
    numbers = [position(label.span.source, label.span.start).line for label in labels]
    margin = len(str(max(numbers)))
    primary = labels[0]
    lines = [f"{paint.main(f'{d.severity}[{d.code}]')}{paint.bold(': ' + visible(d.headline))}"]
    for source in _sources(d.span.source, labels):
        here = [label for label in labels if label.span.source == source]
        lines += _excerpt(source, here, primary, margin, paint)
    for kind, texts in (("note", d.notes), ("help", (d.help,) if d.help else ())):
        for text in texts:
            lines += _remark(kind, text, margin, paint)
    return "\n".join(line.rstrip() for line in lines)


@dataclass(frozen=True, slots=True)
class _Paint:
    """Colours, or none."""

    on: bool
    severity: str

    def main(self, text: str) -> str:
        return f"{self.severity}{text}{_RESET}" if self.on else text

    def bold(self, text: str) -> str:
        return f"{_BOLD}{text}{_RESET}" if self.on else text

    def frame(self, text: str) -> str:
        return f"{_BLUE}{text}{_RESET}" if self.on else text


@dataclass(frozen=True, slots=True)
class _Mark:
    """An underlined stretch of one shown line: its cells, its words."""

    start: int
    end: int
    text: str
    primary: bool

    @property
    def underline(self) -> str:
        return ("^" if self.primary else "-") * (self.end - self.start)


def _sources(primary: Source, labels: Sequence[Label]) -> list[Source]:
    """Return the sources to show, the primary one first."""
    found = [primary]
    for label in labels:
        if all(label.span.source != source for source in found):
            found.append(label.span.source)
    return found


def _excerpt(
    source: Source, labels: Sequence[Label], primary: Label, margin: int, paint: _Paint
) -> list[str]:
    """Show the lines of one source that have a label; `...` stands for those between."""
    first = primary in labels
    place = position(source, (primary if first else labels[0]).span.start)
    head = f"{visible(source.path)}:{place.line}:{place.column}"
    lines = [] if first else [_gutter("", margin, paint)]
    lines.append(f"{' ' * (margin + 1)}{paint.frame('-->' if first else ':::')} {head}")
    lines.append(_gutter("", margin, paint))
    by_line: dict[int, list[Label]] = {}
    for label in labels:
        by_line.setdefault(position(source, label.span.start).line, []).append(label)
    last: int | None = None
    for number in sorted(by_line):
        if last is not None and number > last + 1:
            lines.append(paint.frame(" ..."))
        lines += _line(source, number, by_line[number], primary, margin, paint)
        last = number
    return lines


def _line(
    source: Source, number: int, labels: Sequence[Label], primary: Label, margin: int, paint: _Paint
) -> list[str]:
    """Show one line, and below it the underlines with their words."""
    centre = position(source, (primary if primary in labels else labels[0]).span.start).column - 1
    raw = line_text(source, number)
    skipped = max(0, centre - _REACH) if len(raw) > 2 * _REACH else 0
    line = shown(raw[skipped : skipped + 2 * _REACH])
    marks = [_mark(label, line, skipped, label is primary) for label in labels]
    text, moved = _trimmed(line.text, marks)
    marks = [_moved(mark, moved, width(text)) for mark in marks]
    rows = [f"{_gutter('', margin, paint)} {row}" for row in _rows(marks, paint)]
    return [f"{_gutter(str(number), margin, paint)} {text}", *rows]


def _gutter(number: str, margin: int, paint: _Paint) -> str:
    return paint.frame(f" {number:>{margin}} |")


def _mark(label: Label, line: Shown, skipped: int, primary: bool) -> _Mark:
    place = position(label.span.source, label.span.start)
    index = place.column - 1 - skipped
    start = line.cell(index)
    end = line.cell(index + max(label.span.end - label.span.start, 1))
    return _Mark(start, max(end, start + 1), visible(label.text), primary)


def _trimmed(text: str, marks: Sequence[_Mark]) -> tuple[str, int]:
    """Cut a long line round its primary mark, or its first."""
    if width(text) <= _COLUMNS:
        return text, 0
    mark = next((m for m in marks if m.primary), marks[0])
    middle = (mark.start + min(mark.end, mark.start + _COLUMNS // 2)) // 2
    first = max(0, min(middle - _COLUMNS // 2, width(text) - _COLUMNS))
    return cut(text, first, first + _COLUMNS)


def _moved(mark: _Mark, by: int, end: int) -> _Mark:
    start = min(max(mark.start - by, 0), end)
    return _Mark(start, max(min(mark.end - by, end), start + 1), mark.text, mark.primary)


def _rows(marks: Sequence[_Mark], paint: _Paint) -> list[str]:
    """Lay out underlines and words: the last mark's words follow its underline, others hang below.

    Marks that overlap get rows of their own, the primary one first.
    """
    ordered = sorted(marks, key=lambda m: (not m.primary, m.start))
    rows: list[list[_Mark]] = []
    for mark in ordered:
        for row in rows:
            if all(mark.end <= other.start or other.end <= mark.start for other in row):
                row.append(mark)
                break
        else:
            rows.append([mark])
    return [line for row in rows for line in _row(sorted(row, key=lambda m: m.start), paint)]


def _row(marks: Sequence[_Mark], paint: _Paint) -> list[str]:
    pieces = [(mark.start, mark.underline, mark.primary) for mark in marks]
    last = marks[-1]
    if last.text:
        pieces.append((last.end + 1, last.text, last.primary))
    lines = [_placed(pieces, paint)]
    hanging = [mark for mark in marks[:-1] if mark.text]
    if hanging:
        lines.append(_placed([(m.start, "|", m.primary) for m in hanging], paint))
    while hanging:
        *others, mark = hanging
        bars = [(m.start, "|", m.primary) for m in others]
        lines.append(_placed([*bars, (mark.start, mark.text, mark.primary)], paint))
        hanging = others
    return lines


def _placed(pieces: Sequence[tuple[int, str, bool]], paint: _Paint) -> str:
    """Put pieces at their cells."""
    out: list[str] = []
    at = 0
    for start, text, primary in pieces:
        out.append(" " * (start - at))
        out.append(paint.main(text) if primary else paint.frame(text))
        at = start + width(text)
    return "".join(out)


def _remark(kind: str, text: str, margin: int, paint: _Paint) -> list[str]:
    """Write a note or a help; further lines of it stand below its first word."""
    head, *rest = text.split("\n")
    indent = " " * (margin + 2)
    hang = indent + " " * len(f"= {kind}: ")
    first = f"{indent}{paint.frame('=')} {paint.bold(kind + ':')} {visible(head)}"
    return [first, *(hang + visible(line) for line in rest)]
