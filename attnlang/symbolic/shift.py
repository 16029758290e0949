"""Softmax does not see what it adds to a whole row: the terms of its argument that read no column.

Maps softmax's argument to what is left of it and the row's shift: `argument == rest + shift` in
every element, where the shift reads the row, the head and the call alone. Softmax of the rest has
the same weights; the shift is added back to the log-sum-exp.

A row's term that stands beside terms of the column is not dropped but taken at the query tile's
anchor, the row that stands for the tile: `m * (kv_idx - q_idx)` becomes `m * (kv_idx -
anchor)`, and `c[q_row] - c[kv_col]` becomes `c[anchor] - c[kv_col]`. What hoists to the
column is then no larger than a score of the tile and the length of the tile make it, however far
the position lies from the sequence's start: differences that cancel still do. A value of the
anchor that is not finite is replaced by 0, so that one row never spoils another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from attnlang.ir.nodes import (
    BOOL,
    FLOAT,
    INT,
    Anchor,
    Binary,
    BinaryOp,
    Call,
    Cast,
    Compare,
    CompareOp,
    Coord,
    CoordName,
    Expr,
    Function,
    Select,
    Unary,
    UnaryOp,
)
from attnlang.ir.traverse import rewrite
from attnlang.sources import Span
from attnlang.symbolic.affine import Affine, affine, build_sum
from attnlang.symbolic.build import Interner, binary, const, negate
from attnlang.symbolic.magnitudes import is_bounded_sum
from attnlang.symbolic.variability import Level, Variabilities, Variability

_MAX_TERMS = 32  # of an argument that is split
_SUMS = (BinaryOp.ADD, BinaryOp.SUB)
_ROWS = (CoordName.Q_IDX, CoordName.Q_ROW)


@dataclass(frozen=True, slots=True)
class Split:
    """`argument == rest + shift`; the shift reads no column."""

    rest: Expr
    shift: Expr


def split_row(argument: Expr) -> Split | None:
    """Return a softmax's argument without what reads the row alone; None where nothing does."""
    return _Splitter(argument.span).split(Interner().intern(argument))


@dataclass(frozen=True, slots=True)
class _Term:
    """One term of a sum: an expression, or an int sum that stands for its float."""

    negative: bool
    body: Expr


@dataclass(slots=True)
class _Group:
    """The terms that one coefficient, `product(above) / product(below)`, multiplies."""

    above: tuple[Expr, ...]
    below: tuple[Expr, ...]
    rows: list[_Term] = field(default_factory=list)
    columns: list[_Term] = field(default_factory=list)
    others: list[_Term] = field(default_factory=list)

    def times(self, expr: Expr, span: Span) -> Expr:
        """Return the coefficient times an expression."""
        for factor in self.above:
            expr = binary(BinaryOp.MUL, expr, factor, span)
        for factor in self.below:
            expr = binary(BinaryOp.DIV, expr, factor, span)
        return expr


class _Splitter:
    """One run over one argument."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._levels = Variabilities()
        self._groups: dict[tuple[tuple[int, ...], tuple[int, ...]], _Group] = {}
        self._count = 0

    def split(self, argument: Expr) -> Split | None:
        """Return the split of an interned argument."""
        self._collect(argument)
        groups = list(self._groups.values())
        beside_columns = any(g.columns for g in groups)
        dropped = [g for g in groups if self._drops(g, beside_columns)]
        if self._count > _MAX_TERMS or not dropped:
            return None
        rest: list[_Term] = []
        shift: list[_Term] = []
        for group in groups:
            if group not in dropped:
                rest += self._whole(group)
            elif not beside_columns:
                shift.append(_Term(False, group.times(self._sum(group.rows), self._span)))
                rest += self._scaled(group, group.others)
            else:
                moved = self._at_anchor(group)
                shift.append(_Term(False, moved.shift))
                rest.append(_Term(False, moved.rest))
                rest += self._scaled(group, group.others)
        # What reads the dot product stands first, as a sum's first term takes the exponent's scale.
        rest.sort(key=lambda term: "raw" not in self._levels.of(term.body))
        return Split(self._sum(rest), self._sum(shift))

    # Collecting terms

    def _collect(self, argument: Expr) -> None:
        stack: list[tuple[Expr, bool, tuple[Expr, ...], tuple[Expr, ...]]] = [
            (argument, False, (), ())
        ]
        while stack and self._count <= _MAX_TERMS:
            expr, negative, above, below = stack.pop()
            match expr:
                case Binary(BinaryOp.ADD, x, y):
                    stack += [(y, negative, above, below), (x, negative, above, below)]
                case Binary(BinaryOp.SUB, x, y):
                    stack += [(y, not negative, above, below), (x, negative, above, below)]
                case Unary(UnaryOp.NEG, x):
                    stack.append((x, not negative, above, below))
                case Binary(BinaryOp.MUL, x, y) if self._is_coefficient(x, y):
                    stack.append((y, negative, (*above, x), below))
                case Binary(BinaryOp.MUL, x, y) if self._is_coefficient(y, x):
                    stack.append((x, negative, (*above, y), below))
                case Binary(BinaryOp.DIV, x, y) if self._is_coefficient(y, x):
                    stack.append((x, negative, above, (*below, y)))
                case Cast(n, _) if n.type == INT:
                    self._add_int(n, _Term(negative, expr), above, below)
                case _:
                    self._add(_Term(negative, expr), above, below)

    def _is_coefficient(self, factor: Expr, of: Expr) -> bool:
        """Whether a factor without a column multiplies what may be a sum with one."""
        return not self._levels.of(factor) & {"kv", "raw"} and isinstance(of, Binary | Unary | Cast)

    def _add_int(
        self, n: Expr, whole: _Term, above: tuple[Expr, ...], below: tuple[Expr, ...]
    ) -> None:
        """Add the row's and the column's part of an int sum that cannot wrap."""
        found = affine(n)
        if self._levels.level(n) != Level.ELEMENT or found is None or not is_bounded_sum(found):
            self._add(whole, above, below)
            return
        parts: dict[bool, list[tuple[Expr, int]]] = {True: [], False: []}
        for term, coefficient in found.terms:
            parts["kv" in self._levels.of(term)].append((term, coefficient))
        column = Affine(tuple(parts[True]), found.constant)
        row = Affine(tuple(parts[False]), 0)
        for part in (column, row):
            if part.terms or part.constant:
                self._add(_Term(whole.negative, build_sum(part, n.span)), above, below)

    def _add(self, term: _Term, above: tuple[Expr, ...], below: tuple[Expr, ...]) -> None:
        self._count += 1
        key = (tuple(map(id, above)), tuple(map(id, below)))
        group = self._groups.setdefault(key, _Group(above, below))
        read = self._levels.of(term.body)
        if "raw" in read or {"q", "kv"} <= read:
            group.others.append(term)
        else:
            (group.columns if "kv" in read else group.rows).append(term)

    # Taking them apart

    def _drops(self, group: _Group, beside_columns: bool) -> bool:
        """Whether a group's row terms leave: what hoists with a column's term may as well stay."""
        if not group.rows:
            return False
        read = self._read((*(t.body for t in group.rows), *group.above, *group.below))
        return "q" in read or not beside_columns

    def _at_anchor(self, group: _Group) -> Split:
        """Take the row terms of a group at the anchor."""
        span = self._span
        ints = [t for t in group.rows if t.body.type == INT]
        floats = [t for t in group.rows if t.body.type == FLOAT]
        if not group.columns:  # the whole product is the row's
            product = group.times(self._sum(group.rows), span)
            anchored = _finite(_at_anchor(product))
            return Split(anchored, binary(BinaryOp.SUB, product, anchored, span))
        kept, moved = list(group.columns), []
        if ints:
            kept += [_Term(t.negative, _at_anchor(t.body)) for t in ints]
            moved += [
                _Term(t.negative, binary(BinaryOp.SUB, t.body, _at_anchor(t.body), span))
                for t in ints
            ]
        if floats:
            row = self._sum(floats)
            anchored = _finite(_at_anchor(row))
            kept.append(_Term(False, anchored))
            moved.append(_Term(False, binary(BinaryOp.SUB, row, anchored, span)))
        return Split(group.times(self._sum(kept), span), group.times(self._sum(moved), span))

    def _whole(self, group: _Group) -> list[_Term]:
        hoisted = [*group.columns, *group.rows]
        return [*self._scaled(group, group.others), *self._scaled(group, hoisted, together=True)]

    def _scaled(
        self, group: _Group, terms: Sequence[_Term], *, together: bool = False
    ) -> list[_Term]:
        """Return terms times their coefficient, each by itself or their sum."""
        if together and terms:
            return [_Term(False, group.times(self._sum(terms), self._span))]
        return [_Term(t.negative, group.times(_float(t.body), self._span)) for t in terms]

    def _sum(self, terms: Sequence[_Term]) -> Expr:
        """Return a sum as a float: ints are added up as ints."""
        ints = [t for t in terms if t.body.type == INT]
        rest = [t for t in terms if t.body.type != INT]
        if ints:
            rest.append(_Term(False, _float(_added(ints, self._span))))
        return _added(rest, self._span) if rest else const(0.0, self._span)

    def _read(self, exprs: Sequence[Expr]) -> Variability:
        return frozenset[str]().union(*map(self._levels.of, exprs))


def _added(terms: Sequence[_Term], span: Span) -> Expr:
    """Return a sum of one kind; it begins with a term that is added, where there is one."""
    first, *others = sorted(terms, key=lambda t: t.negative)
    result: Expr = negate(first.body) if first.negative else first.body
    for term in others:
        result = binary(BinaryOp.SUB if term.negative else BinaryOp.ADD, result, term.body, span)
    return result


def _float(expr: Expr) -> Expr:
    return Cast(expr, FLOAT, span=expr.span) if expr.type == INT else expr


def _at_anchor(expr: Expr) -> Expr:
    """Return a row's value at the anchor of its query tile."""

    def move(node: Expr) -> Expr:
        if isinstance(node, Coord) and node.name in _ROWS:
            return Anchor(node.name, span=node.span)
        return node

    return rewrite(expr, move)


def _finite(expr: Expr) -> Expr:
    """Return a value, or 0 where it is infinite or NaN."""
    span = expr.span
    size = Call(Function.ABS, (expr,), FLOAT, span=span)
    finite = Compare(CompareOp.LT, size, const(math.inf, span), BOOL, span=span)
    return Select(finite, expr, const(0.0, span), FLOAT, span=span)
