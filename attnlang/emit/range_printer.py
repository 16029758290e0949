"""A closed form as C++: the `Coverage` of a block of rows (`attnlang/host/coverage.h`).

Maps a tree solved for keys to an expression; bounds are printed over the intervals of the block.
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


def print_ranges(tree: Tree, intervals: IntervalPrinter) -> str:
    """Print the columns that rows keep; positions of keys become columns."""
    match tree:
        case HalfLine(coord, side, bound):
            code = intervals.text(bound)
            if coord == CoordName.KV_IDX:
                code = f"{code} - Interval::point(r.kv_offset)"
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
