"""A closed form as C++: the `Coverage` of a block of rows (`attnlang/host/coverage.h`).

Maps a tree solved for keys, or for queries, to the verdict of one column. Half-lines, conditions
and guards hold for the whole block, over whose intervals they are printed: they become locals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from attnlang.emit.cpp_text import bare
from attnlang.emit.interval_printer import IntervalPrinter
from attnlang.emit.spec_lines import spec_line
from attnlang.ir.nodes import CoordName, Expr
from attnlang.symbolic.range_tree import (
    ALL,
    Complement,
    Condition,
    Guarded,
    HalfLine,
    Intersection,
    Side,
    Tree,
    Union,
    Unsolved,
    parts_of,
)

_OFFSETS = {CoordName.KV_IDX: "kv_offset", CoordName.Q_IDX: "q_offset"}
_UNKNOWN = "Verdict::unknown"


def expressions(tree: Tree) -> list[Expr]:
    """Return the bounds, conditions and guards of a tree that are printed."""
    below = [e for part in parts_of(tree) for e in expressions(part)]
    match tree:
        case HalfLine(bound=expr) | Condition(expr) | Guarded(guard=expr):
            return [expr, *below]
    return below


def print_ranges(tree: Tree, intervals: IntervalPrinter) -> str:
    """Print the columns that rows keep, or the rows that see columns; positions become indices."""
    if not _tells(tree):
        return "Coverage::all()" if tree == ALL else "Coverage::unknown()"
    verdict = bare(_Verdicts(intervals).text(tree))
    lines = [local.name for local in intervals.shared.locals if local.type == "HalfLine"]
    return f"covered({', '.join([f'[&](int64_t column) {{ return {verdict}; }}', *lines])})"


def _tells(tree: Tree) -> bool:
    """Whether something is said of a column: of all of them the verdict of a tile says as much."""
    return isinstance(tree, HalfLine) or any(map(_tells, parts_of(tree)))


@dataclass(frozen=True, slots=True)
class _Verdicts:
    intervals: IntervalPrinter

    def text(self, tree: Tree) -> str:
        """Print whether the tree holds for `column`."""
        match tree:
            case HalfLine():
                return f"{self._line(tree)}(column)"
            case Condition(expr):
                return self._fact(expr)
            case Unsolved():
                return _UNKNOWN
            case Guarded(guard, part):
                solved = self.text(part)
                return solved if solved == _UNKNOWN else f"guarded({self._fact(guard)}, {solved})"
            case Complement(part):
                solved = self.text(part)
                return solved if solved == _UNKNOWN else f"~{solved}"
            case Union(parts):
                return self._joined("|", "empty", parts)
            case Intersection(parts):
                return self._joined("&", "full", parts)
            case _:
                assert_never(tree)

    def _joined(self, symbol: str, neutral: str, parts: tuple[Tree, ...]) -> str:
        texts = list(dict.fromkeys(self.text(p) for p in parts)) or [f"Verdict::{neutral}"]
        return texts[0] if len(texts) == 1 else f"({f' {symbol} '.join(texts)})"

    def _line(self, line: HalfLine) -> str:
        code = self.intervals.text(line.bound)
        if line.coord in _OFFSETS:
            code = f"{code} - r.{_OFFSETS[line.coord]}"
        side = "at_least" if line.side == Side.LEAST else "at_most"
        shared, at = self.intervals.shared, spec_line(line.bound)
        return shared.named("HalfLine", "line", f"{side}({code})", at)

    def _fact(self, expr: Expr) -> str:
        code = self.intervals.text(expr)
        if code.isidentifier():
            return code
        return self.intervals.shared.named("Verdict", "holds", code, spec_line(expr))
