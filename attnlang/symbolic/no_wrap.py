"""When an int expression is the integer that it reads as: no operation in it leaves 64 bits.

Maps an expression to bounds of its value and, for what is known at run time alone, to conditions.
Invariant: where the conditions hold, every subexpression lies within the bounds found for it, which
are less than 2 ** 61, so that equations may be solved as if ints had no width. Assumes what the
host checks: sizes and positions below 2 ** 30 in magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from attnlang.ir.nodes import (
    Binary,
    BinaryOp,
    Call,
    Cast,
    Compare,
    CompareOp,
    Const,
    Coord,
    CoordName,
    Expr,
    Function,
    Kind,
    Logic,
    LogicOp,
    Select,
    Size,
    Unary,
)
from attnlang.symbolic.build import const

Range = tuple[int, int]

LIMIT = 2**61
POSITION = 2**30  # and what a run-time value is guarded to be below
_POSITIONS = (CoordName.Q_IDX, CoordName.KV_IDX)


class NoWrap:
    """Bounds of expressions, and the conditions `guards` under which they hold."""

    def __init__(self, is_known: Callable[[Expr], bool]) -> None:
        self.guards: list[Expr] = []
        self._is_known = is_known  # whether an expression has a value before the equation is solved
        self._known: dict[int, tuple[Expr, Range | None]] = {}  # the node, so that its id stays its

    def range(self, expr: Expr) -> Range | None:
        """Return bounds, adding to the guards; None where there are none."""
        if id(expr) not in self._known:
            found = self._range(expr)
            fits = found is not None and max(map(abs, found)) < LIMIT
            self._known[id(expr)] = expr, found if fits else None
        return self._known[id(expr)][1]

    def static(self, expr: Expr) -> Range | None:
        """Return bounds that need no guard."""
        trial = NoWrap(self._is_known)
        found = trial.range(expr)
        return None if trial.guards else found

    def require(self, guard: Expr) -> None:
        """Add a condition."""
        if guard not in self.guards:
            self.guards.append(guard)

    def positive(self, expr: Expr) -> bool:
        """Whether an expression is at least 1: proved, or as a guard."""
        found = self.range(expr)
        if found is None or found[1] < 1:
            return False
        if found[0] < 1:
            self.require(Compare(CompareOp.GE, expr, const(1, expr.span), span=expr.span))
        return True

    def _range(self, expr: Expr) -> Range | None:
        match expr:
            case Const(int(value)):
                return value, value
            case Coord(name):
                return (-POSITION if name in _POSITIONS else 0), POSITION
            case Size():
                return 0, POSITION
            case Unary(_, operand):
                return _negated(self.range(operand))
            case Binary():
                return self._binary(expr)
            case Select(_, then, otherwise):
                return _hull(self.range(then), self.range(otherwise))
            case Cast(operand) if operand.type.kind == Kind.BOOL:
                return 0, 1
            case Call(Function.CLAMP, (x, Const(int(low)), Const(int(high)))) if self._is_known(x):
                return min(low, high), high
            case Call() if expr.function in _CALLS:
                ranges = [self.range(x) for x in expr.args]
                known = [r for r in ranges if r is not None]
                return _CALLS[expr.function](known) if len(known) == len(ranges) else None
        return self._guarded(expr)

    def _binary(self, expr: Binary) -> Range | None:
        if expr.op == BinaryOp.POW:
            return self._guarded(expr)
        a = self.range(expr.left)
        if expr.op == BinaryOp.FLOORDIV and a is not None:
            size = max(abs(a[0]), abs(a[1]))  # by 0 gives 0
            positive = a[0] >= 0 and isinstance(expr.right, Const) and expr.right.value > 0
            return (0 if positive else -size), size
        b = self.range(expr.right)
        if a is None or b is None:
            return None
        match expr.op:
            case BinaryOp.ADD:
                return a[0] + b[0], a[1] + b[1]
            case BinaryOp.SUB:
                return a[0] - b[1], a[1] - b[0]
            case BinaryOp.MUL:
                corners = [x * y for x, y in product(a, b)]
                return min(corners), max(corners)
            case BinaryOp.MOD:
                return min(b[0] + 1, 0), max(b[1] - 1, 0)
        return None

    def _guarded(self, expr: Expr) -> Range | None:
        """Bound what only the call knows by a guard."""
        if expr.type.kind != Kind.INT or not self._is_known(expr):
            return None
        limit = const(POSITION, expr.span)
        negative = const(-POSITION, expr.span)
        below = Compare(CompareOp.LE, negative, expr, span=expr.span)
        above = Compare(CompareOp.LE, expr, limit, span=expr.span)
        self.require(Logic(LogicOp.AND, below, above, span=expr.span))
        return -POSITION, POSITION


def _negated(x: Range | None) -> Range | None:
    return None if x is None else (-x[1], -x[0])


def _hull(a: Range | None, b: Range | None) -> Range | None:
    return None if a is None or b is None else (min(a[0], b[0]), max(a[1], b[1]))


def _absolute(x: Range) -> Range:
    size = max(abs(x[0]), abs(x[1]))
    return (0 if x[0] <= 0 <= x[1] else min(abs(x[0]), abs(x[1]))), size


_CALLS: dict[Function, Callable[[list[Range]], Range]] = {
    Function.ABS: lambda x: _absolute(x[0]),
    Function.SIGN: lambda _: (-1, 1),
    Function.RELU: lambda x: (max(x[0][0], 0), max(x[0][1], 0)),
    Function.MIN: lambda x: (min(r[0] for r in x), min(r[1] for r in x)),
    Function.MAX: lambda x: (max(r[0] for r in x), max(r[1] for r in x)),
    Function.CLAMP: lambda x: (
        min(max(x[0][0], x[1][0]), x[2][0]),
        min(max(x[0][1], x[1][1]), x[2][1]),
    ),
}
