"""A closed form as C++: the `Coverage` of a block of rows (`attnlang/host/coverage.h`).

Maps a tree solved for keys, or for queries, to an expression; bounds are printed over the
intervals of the block.
"""

from __future__ import annotations

from typing import assert_never

from attnlang.emit.interval_printer import IntervalPrinter
from attnlang.ir.nodes import CoordName
from attnlang.symbolic.range_tree import (
    Complement,
    Condition,
    Guarded,
    HalfLine,
    Intersection,
    Side,
    Tree,
    Union,
    Unsolved,
)

_OFFSETS = {CoordName.KV_IDX: "kv_offset", CoordName.Q_IDX: "q_offset"}


def print_ranges(tree: Tree, intervals: IntervalPrinter) -> str:
    """Print the columns that rows keep, or the rows that see columns; positions become indices."""
    match tree:
        case HalfLine(coord, side, bound):
            code = intervals.text(bound)
            if coord in _OFFSETS:
                code = f"{code} - Interval::point(r.{_OFFSETS[coord]})"
            return f"{'at_least' if side == Side.LEAST else 'at_most'}({code})"
        case Condition(expr):
            return f"condition({intervals.text(expr)})"
        case Unsolved():
            return "Coverage::unknown()"
        case Guarded(guard, part):
            return f"guarded({intervals.text(guard)}, {print_ranges(part, intervals)})"
        case Complement(part):
            return f"~{print_ranges(part, intervals)}"
        case Union(parts):
            if not parts:
                return "Coverage::none()"
            return f"({' | '.join(print_ranges(p, intervals) for p in parts)})"
        case Intersection(parts):
            if not parts:
                return "Coverage::all()"
            return f"({' & '.join(print_ranges(p, intervals) for p in parts)})"
        case _:
            assert_never(tree)
