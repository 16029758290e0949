"""What a mask reads of tensors by a row alone or by a column alone, and which elements count.

Maps the nodes of a mask to lines: expressions that read tensors and vary with one of the two. A
line has one value for each row (or column), so its extremes and its set of values over a tile are
found from blocks of them that are summed up once, in time linear in the rows (or columns). Operands
of `and` and `or` guard each other: `img[j] >= 0 and img[i] == img[j]` asks for `img[j]` where it is
not negative. Kernels (`attnlang/emit`) and pictures (`tiles`) follow the same rules.
Invariant: a line is computed without rounding, so all who compute it see the same values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import reduce

from attnlang.ir.nodes import (
    INT,
    Call,
    Cast,
    Compare,
    CompareOp,
    Const,
    Expr,
    Function,
    Kind,
    Load,
    Logic,
    LogicOp,
    Scalar,
    Unary,
    UnaryOp,
)
from attnlang.ir.traverse import walk
from attnlang.symbolic.build import conjunction
from attnlang.symbolic.variability import Level, Variabilities


class Axis(StrEnum):
    """What a line varies with."""

    ROW = "row"
    COLUMN = "column"


_AXES = {Level.ROW: Axis.ROW, Level.COLUMN: Axis.COLUMN}
_VARYING = frozenset({"q", "kv"})


@dataclass(frozen=True, slots=True)
class Line:
    """A value for each row or column; only those count for which the guard holds.

    Several values are a tuple, which can only be compared with another.
    """

    axis: Axis
    values: tuple[Expr, ...]
    guard: Expr | None


@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """The elements of a tile that count.

    Those whose row and column satisfy `row` and `column`, and for which the `equal` hold, each a
    value of the row and one of the column.
    """

    row: Expr | None = None
    column: Expr | None = None
    equal: tuple[tuple[Expr, Expr], ...] = ()

    def guard(self, axis: Axis) -> Expr | None:
        """Return what a row or a column satisfies."""
        return self.row if axis == Axis.ROW else self.column

    def where(self, axis: Axis, condition: Expr) -> Domain:
        """Return the elements of this domain that satisfy a condition of the row or column."""
        known = self.guard(axis)
        both = condition if known is None else conjunction((known, condition), condition.span)
        return replace(self, row=both) if axis == Axis.ROW else replace(self, column=both)


@dataclass(frozen=True, slots=True)
class Pair:
    """A row's value (or tuple) and a column's, which are compared."""

    row: Line
    column: Line


@dataclass(frozen=True, slots=True)
class Part:
    """An operand of `and` or `or`, and the elements for which its value matters."""

    expr: Expr
    domain: Domain


class Lines:
    """Finds the lines of one mask."""

    def __init__(self) -> None:
        self._variabilities = Variabilities()
        self._axes: dict[int, tuple[Expr, Axis | None]] = {}  # the node, so that its id stays its

    def axis(self, expr: Expr) -> Axis | None:
        """Return what an expression varies with, if it is the value of a line."""
        if id(expr) not in self._axes:
            axis = _AXES.get(self._variabilities.level(expr))
            fits = axis is not None and self._reads(expr) and all(map(_is_exact, walk(expr)))
            self._axes[id(expr)] = expr, axis if fits else None
        return self._axes[id(expr)][1]

    def line(self, expr: Expr, domain: Domain) -> Line | None:
        """Return the line whose value an expression is, over the elements that count."""
        axis = self.axis(expr)
        return None if axis is None else Line(axis, (expr,), domain.guard(axis))

    def pair(self, expr: Expr, domain: Domain) -> Pair | None:
        """Return the two lines of ints that `==` or `!=` compares, a row's and a column's."""
        if not isinstance(expr, Compare) or expr.op not in (CompareOp.EQ, CompareOp.NE):
            return None
        sides = self._sides(expr)
        return None if sides is None else _pair((sides,), domain)

    def known_pair(self, expr: Expr, domain: Domain) -> Pair | None:
        """Return two lines that must meet where a condition holds, by all that the domain says.

        The condition is one of a row or a column, or an equality of both.
        """
        if not domain.equal:
            return None
        if isinstance(expr, Compare) and expr.op == CompareOp.EQ:
            sides = self._sides(expr)
            if sides is not None:
                return _pair((*domain.equal, sides), domain)
        axis = self.axis(expr)
        if axis is None or expr.type.kind != Kind.BOOL:
            return None
        return _pair(domain.equal, domain.where(axis, expr))

    def bits(self, expr: Expr, domain: Domain) -> Line | None:
        """Return the line of words of which `bit` looks at one bit."""
        if isinstance(expr, Call) and expr.function == Function.BIT:
            return self.line(expr.args[0], domain)
        return None

    def parts(self, expr: Logic, domain: Domain) -> tuple[Part, ...]:
        """Return the operands of a chain of `and` or `or`, what is cheap to judge first.

        Conditions of a row alone are one operand, and so are those of a column: they are judged
        together, and guard the others, as the equalities guard those after them.
        """
        operands = tuple(_operands(expr))
        by_axis: dict[Axis, list[Expr]] = {}
        plain: list[Expr] = []
        rest: list[Expr] = []
        for operand in operands:
            axis = self.axis(operand)
            if axis is not None:
                by_axis.setdefault(axis, []).append(operand)
            else:
                (rest if self._reads(operand) else plain).append(operand)
        found = [Part(e, domain) for e in plain]
        inner = domain
        for axis, conditions in by_axis.items():
            joined = _joined(expr.op, conditions)
            found.append(Part(joined, domain))
            inner = inner.where(axis, joined if expr.op == LogicOp.AND else _negation(joined))
        equalities = [e for e in rest if expr.op == LogicOp.AND and self._is_equality(e)]
        for equality in equalities:
            found.append(Part(equality, inner))
            sides = self._sides(equality)
            assert sides is not None
            inner = replace(inner, equal=(*inner.equal, sides))
        found += [Part(e, inner) for e in rest if not any(e is x for x in equalities)]
        return tuple(found)

    def _is_equality(self, expr: Expr) -> bool:
        return (
            isinstance(expr, Compare) and expr.op == CompareOp.EQ and self._sides(expr) is not None
        )

    def _sides(self, expr: Expr) -> tuple[Expr, Expr] | None:
        """Return the row's and the column's side of a comparison of ints."""
        if not isinstance(expr, Compare) or expr.left.type != INT:
            return None
        match self.axis(expr.left), self.axis(expr.right):
            case Axis.ROW, Axis.COLUMN:
                return expr.left, expr.right
            case Axis.COLUMN, Axis.ROW:
                return expr.right, expr.left
        return None

    def _reads(self, expr: Expr) -> bool:
        """Whether it reads a tensor at an index that varies within a tile."""
        return any(isinstance(e, Load) and self._variabilities.of(e) & _VARYING for e in walk(expr))


def _pair(sides: tuple[tuple[Expr, Expr], ...], domain: Domain) -> Pair:
    rows, columns = zip(*sides, strict=True)
    return Pair(Line(Axis.ROW, rows, domain.row), Line(Axis.COLUMN, columns, domain.column))


def _operands(expr: Logic) -> Iterator[Expr]:
    stack: list[Expr] = [expr]
    while stack:
        match stack.pop():
            case Logic(op, left, right) if op == expr.op:
                stack += [right, left]
            case other:
                yield other


def _joined(op: LogicOp, conditions: Iterable[Expr]) -> Expr:
    return reduce(lambda a, b: Logic(op, a, b, span=a.span), conditions)


def _negation(condition: Expr) -> Expr:
    return Unary(UnaryOp.NOT, condition, condition.type, span=condition.span)


def _is_exact(expr: Expr) -> bool:
    """Whether a node is computed without rounding, alike in float32 and in float64."""
    match expr:
        case Load() | Scalar() | Const():
            return not expr.type.vector
        case Cast(operand):
            return Kind.FLOAT not in (operand.type.kind, expr.type.kind)
        case Unary():
            return not expr.type.vector
    return expr.type.kind != Kind.FLOAT
