"""Identities of `and`, `or`, `not` and `if`. A guard that goes had nothing to guard."""

from __future__ import annotations

from dataclasses import replace

from attnlang.ir.nodes import (
    BOOL,
    Compare,
    CompareOp,
    Const,
    Expr,
    Kind,
    Logic,
    LogicOp,
    Select,
    Unary,
    UnaryOp,
)
from attnlang.symbolic.build import const, is_bool
from attnlang.symbolic.rules.rule import rule

NEGATED = {
    CompareOp.EQ: CompareOp.NE,
    CompareOp.NE: CompareOp.EQ,
    CompareOp.LT: CompareOp.GE,
    CompareOp.LE: CompareOp.GT,
    CompareOp.GT: CompareOp.LE,
    CompareOp.GE: CompareOp.LT,
}


def _not(expr: Expr) -> Expr:
    return Unary(UnaryOp.NOT, expr, BOOL, span=expr.span)


@rule("logic-constant")
def logic_constant(expr: Expr) -> Expr | None:
    """Drop `true` from `and`, `false` from `or`; `false and x` is `false`, `true or x` `true`."""
    if not isinstance(expr, Logic):
        return None
    neutral = expr.op == LogicOp.AND
    for operand, other in ((expr.left, expr.right), (expr.right, expr.left)):
        if is_bool(operand, neutral):
            return other
        if is_bool(operand, not neutral):
            return const(not neutral, expr.span)
    return None


@rule("logic-chain")
def logic_chain(expr: Expr) -> Expr | None:
    """Write chains from the left: `x and (y and z)` is `(x and y) and z`; so is `or`."""
    match expr:
        case Logic(op, _, Logic(inner, y, z)) if inner == op:
            return replace(expr, left=replace(expr, right=y), right=z)
    return None


@rule("logic-repeated")
def logic_repeated(expr: Expr) -> Expr | None:
    """`x and x` is `x`, also along a chain: `x and y and x` is `x and y`; so is `or`."""
    if not isinstance(expr, Logic):
        return None
    left = _chain(expr.op, expr.left)
    if any(expr.right == other for other in left):
        return expr.left
    return None


@rule("logic-complement")
def logic_complement(expr: Expr) -> Expr | None:
    """`x and not x` is `false`, `x or not x` is `true`."""
    match expr:
        case Logic(op, x, Unary(UnaryOp.NOT, y)) | Logic(op, Unary(UnaryOp.NOT, x), y) if x == y:
            return const(op == LogicOp.OR, expr.span)
    return None


@rule("logic-absorbed")
def logic_absorbed(expr: Expr) -> Expr | None:
    """`x and (x or y)` is `x`; `x or (x and y)` is `x`."""
    if not isinstance(expr, Logic):
        return None
    dual = LogicOp.OR if expr.op == LogicOp.AND else LogicOp.AND
    for x, other in ((expr.left, expr.right), (expr.right, expr.left)):
        if isinstance(other, Logic) and other.op == dual and x in _chain(dual, other):
            return x
    return None


@rule("not-pushed")
def not_pushed(expr: Expr) -> Expr | None:
    """`not not x` is `x`; `not a < b` is `a >= b` for ints (of floats, NaN fails both)."""
    match expr:
        case Unary(UnaryOp.NOT, Unary(UnaryOp.NOT, x)):
            return x
        case Unary(UnaryOp.NOT, Compare(op, x, _) as inner) if x.type.kind != Kind.FLOAT or op in (
            CompareOp.EQ,
            CompareOp.NE,
        ):
            return replace(inner, op=NEGATED[op])
    return None


@rule("select-constant")
def select_constant(expr: Expr) -> Expr | None:
    """Take the branch: `a if true else b` is `a`; `a if c else a` is `a`."""
    match expr:
        case Select(Const(bool(value)), then, otherwise):
            return then if value else otherwise
        case Select(_, then, otherwise) if then == otherwise and _plain(then):
            return then
    return None


@rule("select-negated")
def select_negated(expr: Expr) -> Expr | None:
    """Swap the branches: `a if not c else b` is `b if c else a`."""
    match expr:
        case Select(Unary(UnaryOp.NOT, c), then, otherwise):
            return replace(expr, condition=c, then=otherwise, otherwise=then)
    return None


@rule("select-nested")
def select_nested(expr: Expr) -> Expr | None:
    """Drop a repeated condition: `(a if c else b) if c else d` is `a if c else d`."""
    match expr:
        case Select(c, Select(inner, then, _), _) if c == inner:
            return replace(expr, then=then)
        case Select(c, _, Select(inner, _, otherwise)) if c == inner:
            return replace(expr, otherwise=otherwise)
    return None


@rule("select-bool")
def select_bool(expr: Expr) -> Expr | None:
    """`x if c else false` is `c and x`; `true if c else x` is `c or x`; so for the other two."""
    if not isinstance(expr, Select) or expr.type != BOOL:
        return None
    c, then, otherwise = expr.condition, expr.then, expr.otherwise
    if is_bool(otherwise, False):
        return Logic(LogicOp.AND, c, then, span=expr.span)
    if is_bool(then, True):
        return Logic(LogicOp.OR, c, otherwise, span=expr.span)
    if is_bool(then, False):
        return Logic(LogicOp.AND, _not(c), otherwise, span=expr.span)
    if is_bool(otherwise, True):
        return Logic(LogicOp.OR, _not(c), then, span=expr.span)
    return None


def _chain(op: LogicOp, expr: Expr) -> list[Expr]:
    """Return the operands along the left spine of a chain of one connective, and the whole."""
    found = [expr]
    while isinstance(expr, Logic) and expr.op == op:
        found += [expr.right, expr.left]
        expr = expr.left
    return found


def _plain(expr: Expr) -> bool:
    """0.0 and -0.0 are equal, and not the same."""
    return not (isinstance(expr, Const) and expr.value == 0 and isinstance(expr.value, float))


RULES = (
    logic_constant,
    logic_chain,
    logic_repeated,
    logic_complement,
    logic_absorbed,
    not_pushed,
    select_constant,
    select_negated,
    select_nested,
    select_bool,
)
