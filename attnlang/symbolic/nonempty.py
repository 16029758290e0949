"""Rows that cannot be empty: a column is named, and the mask is true there.

Maps a variant's mask to a witness (the row's own position, the first column, the last one) and the
condition under which the mask keeps it. Invariant: a row for which the condition holds has a column
that the mask keeps. The condition reads coordinates of the row, sizes, parameters, values of the
request, and `kv_offset`, the position of the first column, which stands as a scalar of that name.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnlang.ir.nodes import (
    BOOL,
    INT,
    BinaryOp,
    Compare,
    CompareOp,
    Const,
    Coord,
    CoordName,
    Expr,
    Load,
    Scalar,
    Size,
    Variant,
)
from attnlang.ir.printer import print_expr
from attnlang.ir.traverse import rewrite, walk
from attnlang.sources import Span
from attnlang.symbolic.affine import Affine, affine, build_sum
from attnlang.symbolic.build import binary, conjunction, conjuncts, const
from attnlang.symbolic.count import count_operations
from attnlang.symbolic.magnitudes import is_bounded_sum
from attnlang.symbolic.signs import Signs, signs_of
from attnlang.symbolic.simplify import Simplifier
from attnlang.symbolic.variability import variability

_LESS = {
    CompareOp.LT: (True, False),  # strict, mirrored
    CompareOp.LE: (False, False),
    CompareOp.GT: (True, True),
    CompareOp.GE: (False, True),
}


@dataclass(frozen=True, slots=True)
class NonEmpty:
    """A column that each row keeps: `witness` names it.

    `condition` is that of one row; `at_default`, over sizes and values of the request alone, is
    that of all rows of a call with the default `q_offset` (None: not found).
    """

    witness: str
    condition: Expr
    at_default: Expr | None

    @property
    def is_proved(self) -> bool:
        """Whether no condition is left."""
        return isinstance(self.condition, Const)

    @property
    def text(self) -> str:
        """Return the fact in words."""
        if self.is_proved:
            return f"no row is empty: each keeps {self.witness}"
        text = f"a row keeps {self.witness} if {print_expr(self.condition)}"
        match self.at_default:
            case None:
                return text
            case Const():
                return f"{text}; with the default q_offset every row does"
            case condition:
                return (
                    f"{text}; with the default q_offset every row does if {print_expr(condition)}"
                )


def nonempty_rows(variant: Variant) -> NonEmpty | None:
    """Return the simplest proof that a row is not empty, or None where there is none."""
    prover = _Prover(signs_of(variant.requires), variant.mask.span)
    found = [p for p in prover.proofs(variant.mask) if p is not None]
    return min(found, key=lambda p: count_operations([p.condition]), default=None)


class _Prover:
    """Tries the witnesses on one mask."""

    def __init__(self, signs: Signs, span: Span) -> None:
        self._signs, self._span = signs, span
        self._run = Simplifier()
        self._start = Scalar("kv_offset", INT, span=span)
        self._columns = Size("KV", span=span)

    def proofs(self, mask: Expr) -> list[NonEmpty | None]:
        """Return what each witness proves."""
        span, zero = self._span, const(0, self._span)
        some = Compare(CompareOp.GT, self._columns, zero, BOOL, span=span)
        last = binary(BinaryOp.SUB, self._columns, const(1, span), span)
        own = Coord(CoordName.Q_IDX, span=span)
        column = binary(BinaryOp.SUB, own, self._start, span)
        inside = (
            Compare(CompareOp.LE, zero, column, BOOL, span=span),
            Compare(CompareOp.LT, column, self._columns, BOOL, span=span),
        )
        end = binary(BinaryOp.ADD, self._start, last, span)
        return [
            self._proof(mask, "the column of its own position", own, column, inside),
            self._proof(mask, "the first column", self._start, zero, (some,)),
            self._proof(mask, "the last column", end, last, (some,)),
        ]

    def _proof(
        self, mask: Expr, witness: str, position: Expr, column: Expr, exists: tuple[Expr, ...]
    ) -> NonEmpty | None:
        """Return the condition under which the mask is true at a column, which must exist."""

        def place(node: Expr) -> Expr:
            match node:
                case Coord(CoordName.KV_IDX):
                    return position
                case Coord(CoordName.KV_COL):
                    return column
            return node

        kept = self._run.simplify(rewrite(mask, place))
        if not self._is_condition(kept):
            return None
        left = self._without_known((*exists, *conjuncts(kept)))
        condition = self._run.simplify(conjunction(left, self._span))
        if isinstance(condition, Const) and condition.value is False:
            return None
        if not isinstance(condition, Const):
            condition = conjunction(left, self._span)  # as it was built: it reads more easily
        return NonEmpty(witness, condition, self._at_default(left))

    @staticmethod
    def _is_condition(kept: Expr) -> bool:
        """Whether a condition can be told without the score and without a tensor of the rows."""
        if variability(kept) & {"kv", "raw"}:
            return False
        return not any(isinstance(e, Load) and "q" in variability(e) for e in walk(kept))

    def _without_known(self, conditions: tuple[Expr, ...]) -> tuple[Expr, ...]:
        """Drop what is true of every call that meets the requirements."""
        return tuple(c for c in conditions if not self._is_known(c))

    def _is_known(self, condition: Expr) -> bool:
        match condition:
            case Const(value):
                return value is True
            case Compare(op, x, y) if op in _LESS and x.type.kind != BOOL.kind:
                strict, mirrored = _LESS[op]
                low, high = (y, x) if mirrored else (x, y)
                room = self._run.simplify(binary(BinaryOp.SUB, high, low, self._span))
                signs = self._signs
                return signs.is_positive(room) if strict else signs.is_not_negative(room)
        return False

    # All rows of a call with the default offset

    def _at_default(self, conditions: tuple[Expr, ...]) -> Expr | None:
        """Return the conditions for all rows where `q_idx = q_row + KV - Q + kv_offset`."""
        span = self._span
        row = Coord(CoordName.Q_ROW, span=span)
        ahead = binary(BinaryOp.SUB, self._columns, Size("Q", span=span), span)
        offset = binary(BinaryOp.ADD, ahead, self._start, span)
        own = binary(BinaryOp.ADD, row, offset, span)

        def place(node: Expr) -> Expr:
            match node:
                case Coord(CoordName.Q_IDX):
                    return own
            return node

        found = [self._for_all_rows(self._run.simplify(rewrite(c, place))) for c in conditions]
        known = [c for c in found if c is not None]
        if len(known) < len(found):
            return None
        return self._run.simplify(conjunction(self._without_known(tuple(known)), span))

    def _for_all_rows(self, condition: Expr) -> Expr | None:
        """Return a condition for every row, at least one: a comparison at its worst row."""
        if "q" not in variability(condition):
            return condition
        match condition:
            case Compare(op, x, y) if op in _LESS and x.type == INT:
                _, mirrored = _LESS[op]
                low, high = (affine(y), affine(x)) if mirrored else (affine(x), affine(y))
                if low is None or high is None:
                    return None
                return self._at_worst(condition, high.minus(low))
        return None

    def _at_worst(self, condition: Compare, room: Affine) -> Expr | None:
        """Return that there is room at the row where it is least: `Q <= KV`, no side negative."""
        span = self._span
        row = Coord(CoordName.Q_ROW, span=span)
        slope = next((c for t, c in room.terms if t == row), 0)
        rest = tuple((t, c) for t, c in room.terms if t != row)
        wraps = not is_bounded_sum(Affine(tuple(p for p in rest if p[0] != self._start), 0))
        if wraps or any("q" in variability(t) for t, _ in rest):
            return None
        least = Affine(rest, room.constant)
        if slope < 0:  # the last row
            last = Affine(((Size("Q", span=span), -slope),), slope)
            least = least.minus(last)
        below = Affine(tuple((t, -c) for t, c in least.terms if c < 0), max(0, -least.constant))
        above = Affine(tuple((t, c) for t, c in least.terms if c > 0), max(0, least.constant))
        strict, _ = _LESS[condition.op]
        op = CompareOp.LT if strict else CompareOp.LE
        return Compare(op, build_sum(below, span), build_sum(above, span), BOOL, span=span)
