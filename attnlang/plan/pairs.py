"""Values of pairs of a row and a column that a tile works out beforehand, and looks up.

Maps the expressions of an element to `Pairs`. Two kinds cost less by the tile than by the element:

a diagonal  depends on the difference of the positions alone, and computing it is not cheap: a tile
            of 64 x 64 has 127 of them
a block     reads a tensor along the columns. A forward kernel's lanes are rows: such a read is made
            with columns in the lanes, and the tile transposed

Invariant: what is looked up is a float, a bool or an int that fits in 32 bits, and knows nothing of
the dot product. Everything else stays with the element.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attnlang.ir.nodes import (
    QK,
    Binary,
    BinaryOp,
    Call,
    Compare,
    Coord,
    CoordName,
    Expr,
    Function,
    Kind,
    Load,
)
from attnlang.ir.traverse import children, walk
from attnlang.plan.ranges import Ranges
from attnlang.plan.terms import Term
from attnlang.symbolic.affine import Affine, affine
from attnlang.symbolic.variability import Level, Variabilities

_ROWS = (CoordName.Q_IDX, CoordName.Q_ROW)
_COLUMNS = (CoordName.KV_IDX, CoordName.KV_COL)
_CHEAP = (Function.ABS, Function.MIN, Function.MAX, Function.CLAMP, Function.SIGN)
_COSTLY = (BinaryOp.FLOORDIV, BinaryOp.MOD, BinaryOp.POW)


@dataclass(frozen=True, slots=True)
class Pairs:
    """What a tile holds, each value after those that it is made of."""

    diagonals: tuple[Term, ...] = ()
    blocks: tuple[Term, ...] = ()
    masked: frozenset[Expr] = frozenset()  # that the mask alone reads
    reads: tuple[Load, ...] = ()  # those along columns that blocks make

    @property
    def terms(self) -> tuple[Term, ...]:
        """Return all of them."""
        return self.diagonals + self.blocks


def plan_pairs(always: Iterable[Expr], mask: Expr, ranges: Ranges) -> Pairs:
    """Choose the pairs of a kernel: `always` and the mask are evaluated for each element."""
    finder, always = _Finder(ranges), tuple(always)
    for expr in always:
        finder.find(expr)
    kept = frozenset(finder.found)
    finder.find(mask)
    # As `walk` has them: one may be a part of another.
    ordered = [e for e in dict.fromkeys(walk(*always, mask)) if e in finder.found]
    diagonals = [e for e in ordered if finder.found[e]]
    blocks = [e for e in ordered if not finder.found[e]]
    return Pairs(
        tuple(Term(Level.ELEMENT, f"diagonal_{i}", e) for i, e in enumerate(diagonals)),
        tuple(Term(Level.ELEMENT, f"block_{i}", e) for i, e in enumerate(blocks)),
        frozenset(finder.found) - kept,
        tuple(e for e in walk(*blocks) if isinstance(e, Load) and finder.reads_along_columns(e)),
    )


class _Finder:
    """Collects the pairs below some expressions, each shared node looked at once."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self._level = Variabilities().level
        self._known: dict[Expr, bool] = {}  # what `find` and `_is_diagonal` said
        self._diagonal: dict[Expr, bool] = {}
        self.found: dict[Expr, bool] = {}  # whether it is a diagonal

    def find(self, expr: Expr) -> bool:
        """Look at an expression; whether it holds a read that its user has to take along."""
        if expr not in self._known:
            self._known[expr] = self._find(expr)
        return self._known[expr]

    def _find(self, expr: Expr) -> bool:
        if self._level(expr) is not Level.ELEMENT:
            return False
        narrow = expr.type.kind is not Kind.INT or self._ranges.fits32(expr)
        if narrow and self._is_diagonal(expr) and any(self._is_costly(e) for e in walk(expr)):
            self.found[expr] = True
            return False
        left = [self.find(child) for child in children(expr)]
        if not (any(left) or self.reads_along_columns(expr)):
            return False
        if any(isinstance(e, QK) for e in walk(expr)):
            return False
        if narrow:
            self.found[expr] = False
        return not narrow

    def _is_diagonal(self, expr: Expr) -> bool:
        """Whether an expression keeps its value where both positions grow alike."""
        if expr not in self._diagonal:
            self._diagonal[expr] = self._is_coarse(expr) or self._of_differences(expr)
        return self._diagonal[expr]

    def _of_differences(self, expr: Expr) -> bool:
        if expr.type.kind is Kind.INT and (total := affine(expr)) is not None:
            return self._is_difference(total)
        if isinstance(expr, Compare) and expr.left.type.kind is Kind.INT:
            left, right = affine(expr.left), affine(expr.right)
            if left is not None and right is not None:
                return self._is_difference(left.minus(right))
        return self._has_diagonals(expr)

    def _is_difference(self, total: Affine) -> bool:
        """Whether rows and columns enter a sum by their difference, and the rest does likewise."""
        rows = _steps(total, _ROWS)
        columns = _steps(total, _COLUMNS)
        rest = (t for t, _ in total.terms if not _is_position(t))
        return sum(rows) + sum(columns) == 0 and all(
            self._is_coarse(t) or self._has_diagonals(t) for t in rest
        )

    def _has_diagonals(self, expr: Expr) -> bool:
        below = tuple(children(expr))
        return below != () and all(self._is_diagonal(e) for e in below)

    def _is_coarse(self, expr: Expr) -> bool:
        return self._level(expr).depth <= Level.REQUEST.depth

    def _is_costly(self, expr: Expr) -> bool:
        """Whether it is worth a look-up; what is not of the element is there anyway."""
        if self._level(expr) is not Level.ELEMENT:
            return False
        match expr:
            case Load():
                return True
            case Call(function=function):
                return function not in _CHEAP
            case Binary(op=op):
                return op in _COSTLY
            case _:
                return False

    def reads_along_columns(self, expr: Expr) -> bool:
        """Whether neighbours in a row read neighbours of a tensor, and those in a column do not."""
        if not isinstance(expr, Load) or expr.type.vector or not expr.indices:
            return False
        *outer, last = expr.indices
        levels = {self._level(i) for i in outer}
        # A lane reads all columns at the outer indices of the first: none may vary along them.
        if Level.ROW not in levels or levels & {Level.COLUMN, Level.ELEMENT}:
            return False
        total = affine(last)
        if total is None or _steps(total, _COLUMNS) not in ([1], [-1]):
            return False
        return all(_is_position(t) or self._is_coarse(t) for t, _ in total.terms)


def _is_position(term: Expr) -> bool:
    return isinstance(term, Coord) and term.name in _ROWS + _COLUMNS


def _steps(total: Affine, names: tuple[CoordName, ...]) -> list[int]:
    """Return the coefficients of some positions."""
    return [c for t, c in total.terms if isinstance(t, Coord) and t.name in names]
