"""Comparisons: canonical where that is exact.

Terms move between the sides of an int comparison only where no side can leave 64 bits: coordinates,
sizes and small constants are below 2 ** 30 (the host refuses larger ones), a parameter may be
anything and stays on its side (`q_idx - kv_idx < w` holds for w = 2 ** 63 - 1).
"""

from __future__ import annotations

from dataclasses import replace

from attnlang.ir.nodes import (
    BOOL,
    INT,
    Cast,
    Compare,
    CompareOp,
    Const,
    Coord,
    CoordName,
    Expr,
    Kind,
    Size,
    Unary,
    UnaryOp,
)
from attnlang.ir.traverse import children
from attnlang.symbolic.affine import Affine, affine, build_sum, sum_size
from attnlang.symbolic.build import MIRRORED, const, is_bool, value_of
from attnlang.symbolic.magnitudes import MAX_CONSTANT, is_bounded_sum
from attnlang.symbolic.rules.rule import rule
from attnlang.symbolic.variability import Level, level, variability

_HOLDS_OF_EQUALS = (CompareOp.EQ, CompareOp.LE, CompareOp.GE)
# `x op y + step` is `x other y`
_STEPS = {
    (CompareOp.LT, 1): CompareOp.LE,
    (CompareOp.GE, 1): CompareOp.GT,
    (CompareOp.LE, -1): CompareOp.LT,
    (CompareOp.GT, -1): CompareOp.GE,
}


@rule("compare-same")
def compare_same(expr: Expr) -> Expr | None:
    """`x == x` is `true` and `x < x` `false`, of ints and bools (NaN is not equal to itself)."""
    match expr:
        case Compare(op, x, y) if x.type.kind != Kind.FLOAT and x == y:
            return const(op in _HOLDS_OF_EQUALS, expr.span)
    return None


@rule("compare-bool")
def compare_bool(expr: Expr) -> Expr | None:
    """`x == true` is `x`, `x == false` is `not x`; dually for `!=`."""
    match expr:
        case Compare(CompareOp.EQ | CompareOp.NE as op, left, right) if left.type == BOOL:
            for x, y in ((left, right), (right, left)):
                if isinstance(y, Const):
                    same = is_bool(y, op == CompareOp.EQ)
                    return x if same else Unary(UnaryOp.NOT, x, BOOL, span=expr.span)
    return None


@rule("compare-widened")
def compare_widened(expr: Expr) -> Expr | None:
    """`float(m) < float(n)` is `m < n`; so with a whole constant for one of them."""
    match expr:
        case Compare(_, left, right) if left.type.kind == Kind.FLOAT:
            ints = [_int_of(left), _int_of(right)]
            if ints[0] is not None and ints[1] is not None:
                return replace(expr, left=ints[0], right=ints[1])
    return None


def _int_of(expr: Expr) -> Expr | None:
    match expr:
        case Cast(x, _) if x.type == INT:
            return x
        case Const(float(value)) if abs(value) < MAX_CONSTANT and value == int(value):
            return const(int(value), expr.span)
    return None


@rule("compare-range")
def compare_range(expr: Expr) -> Expr | None:
    """`0 <= kv_col`, `kv_col < KV`, `0 <= q_row` and `q_row < Q` are `true`."""
    match expr:
        case Compare(CompareOp.GE, Coord() | Size() as x, y) if _not_negative(x):
            bound = value_of(y)
            return const(True, expr.span) if bound is not None and bound <= 0 else None
        case Compare(CompareOp.LE, y, Coord() | Size() as x) if _not_negative(x):
            bound = value_of(y)
            return const(True, expr.span) if bound is not None and bound <= 0 else None
        case Compare(CompareOp.LT, Coord(name), Size(size)) | Compare(
            CompareOp.GT, Size(size), Coord(name)
        ) if (name, size) in _EXTENTS:
            return const(True, expr.span)
    return None


_EXTENTS = {(CoordName.Q_ROW, "Q"), (CoordName.KV_COL, "KV"), (CoordName.H, "HQ")}
_EXTENTS |= {(CoordName.B, "B"), (CoordName.H_KV, "HKV")}


def _not_negative(expr: Coord | Size) -> bool:
    return isinstance(expr, Size) or expr.name not in (CoordName.Q_IDX, CoordName.KV_IDX)


@rule("compare-sides")
def compare_sides(expr: Expr) -> Expr | None:
    """Bring keys to one side: `0 <= q_idx - kv_idx` is `kv_idx <= q_idx`, one operation."""
    if not isinstance(expr, Compare) or expr.left.type != INT:
        return None
    left, right = affine(expr.left), affine(expr.right)
    if left is None or right is None or not (is_bounded_sum(left) and is_bounded_sum(right)):
        return None
    simpler = _arranged(expr, left.minus(right))
    return simpler if _cost(simpler) < _cost(expr) else None


def _arranged(expr: Compare, difference: Affine) -> Expr:
    """Return `difference op 0` with the terms of the deepest loop on the left."""
    if not difference.terms:
        true = {
            CompareOp.EQ: difference.constant == 0,
            CompareOp.NE: difference.constant != 0,
            CompareOp.LT: difference.constant < 0,
            CompareOp.LE: difference.constant <= 0,
            CompareOp.GT: difference.constant > 0,
            CompareOp.GE: difference.constant >= 0,
        }
        return const(true[expr.op], expr.span)
    chosen = _deepest(difference)
    op = expr.op
    if all(c < 0 for t, c in difference.terms if _reads(t, chosen)):
        difference, op = difference.scaled(-1), MIRRORED[op]
    left = Affine(tuple((t, c) for t, c in difference.terms if _reads(t, chosen)), 0)
    others = tuple((t, -c) for t, c in difference.terms if not _reads(t, chosen))
    right = Affine(others, -difference.constant)
    if right.terms and (op, right.constant) in _STEPS:
        op, right = _STEPS[op, right.constant], Affine(others, 0)
    return replace(expr, op=op, left=build_sum(left, expr.span), right=build_sum(right, expr.span))


def _deepest(difference: Affine) -> str:
    """Return the coordinate whose terms stand on the left; `` of all where there is no loop."""
    read = frozenset[str]().union(*(variability(t) for t, _ in difference.terms))
    return next((c for c in ("kv", "q") if c in read), "")


def _reads(term: Expr, coordinate: str) -> bool:
    return not coordinate or coordinate in variability(term)


def _cost(expr: Expr) -> tuple[int, int]:
    """Return the operations for each element, and all, of a comparison of sums."""
    if not isinstance(expr, Compare):
        return (0, 0)
    deep = 1 + sum(_element_operations(side) for side in (expr.left, expr.right))
    return (deep, 1 + sum_size(expr.left) + sum_size(expr.right))


def _element_operations(side: Expr) -> int:
    if level(side) != Level.ELEMENT:
        return 0
    own = 1 if sum_size(side) else 0
    return own + sum(_element_operations(c) for c in children(side) if sum_size(side))


RULES = (compare_same, compare_bool, compare_widened, compare_range, compare_sides)
