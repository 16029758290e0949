"""Making IR nodes: typed, with the span of the node that they come from.

Maps operands to nodes. Invariant: a node made here is typed as sema types it (both sides of an
arithmetic node have one kind), and has its parent's span.
"""

from __future__ import annotations

from dataclasses import fields

from attnlang.ir.nodes import (
    BOOL,
    FLOAT,
    INT,
    Binary,
    BinaryOp,
    Cast,
    CompareOp,
    Const,
    Expr,
    Kind,
    Logic,
    LogicOp,
    Node,
    Type,
    Unary,
    UnaryOp,
)
from attnlang.ir.traverse import rewrite
from attnlang.sources import Span

# `x op y` is `y MIRRORED[op] x`.
MIRRORED = {
    CompareOp.EQ: CompareOp.EQ,
    CompareOp.NE: CompareOp.NE,
    CompareOp.LT: CompareOp.GT,
    CompareOp.LE: CompareOp.GE,
    CompareOp.GT: CompareOp.LT,
    CompareOp.GE: CompareOp.LE,
}

_TYPES = {bool: BOOL, int: INT, float: FLOAT}


def const(value: bool | int | float, span: Span) -> Const:
    """Return a constant; its Python type is its kind."""
    return Const(value, _TYPES[type(value)], span=span)


def const_of_kind(value: bool | int | float, kind: Kind, span: Span) -> Const:
    """Return a constant of a kind, for a value that may have a narrower Python type."""
    match kind:
        case Kind.BOOL:
            return const(bool(value), span)
        case Kind.INT:
            return const(int(value), span)
        case Kind.FLOAT:
            return const(float(value), span)


def value_of(expr: Expr) -> bool | int | float | None:
    """Return the value of a constant, or of one that was widened; else None."""
    match expr:
        case Const(value, _):
            return value
        case Cast(Const(value, _), Type(Kind.FLOAT, _)):
            return float(value)
    return None


def is_float(expr: Expr, value: float) -> bool:
    """Whether a float expression is this constant (NaN is none; the sign of zero is not seen)."""
    return expr.type.kind == Kind.FLOAT and value_of(expr) == value


def is_int(expr: Expr, value: int) -> bool:
    """Whether an expression is this int constant."""
    return isinstance(expr, Const) and expr.type == INT and expr.value == value


def is_bool(expr: Expr, value: bool) -> bool:
    """Whether an expression is this bool constant."""
    return isinstance(expr, Const) and expr.type == BOOL and expr.value is value


def binary(op: BinaryOp, left: Expr, right: Expr, span: Span) -> Binary:
    """Return an arithmetic node on operands of one kind."""
    kind = Kind.FLOAT if op == BinaryOp.DIV else left.type.kind
    return Binary(op, left, right, Type(kind, left.type.vector or right.type.vector), span=span)


def add(left: Expr, right: Expr) -> Expr:
    """Return `left + right`."""
    return binary(BinaryOp.ADD, left, right, left.span)


def subtract(left: Expr, right: Expr) -> Expr:
    """Return `left - right`."""
    return binary(BinaryOp.SUB, left, right, left.span)


def multiply(left: Expr, right: Expr) -> Expr:
    """Return `left * right`, of floats; what a factor of 1 leaves alone stays itself."""
    if is_float(left, 1.0):
        return right
    return left if is_float(right, 1.0) else binary(BinaryOp.MUL, left, right, left.span)


def divide(left: Expr, right: Expr) -> Expr:
    """Return `left / right`, of floats."""
    return binary(BinaryOp.DIV, left, right, left.span)


def negate(operand: Expr) -> Unary:
    """Return `-operand`."""
    return Unary(UnaryOp.NEG, operand, operand.type, span=operand.span)


def conjunction(terms: tuple[Expr, ...], span: Span) -> Expr:
    """Return `a and b and ...`; `true` of none."""
    if not terms:
        return const(True, span)
    result = terms[0]
    for term in terms[1:]:
        result = Logic(LogicOp.AND, result, term, span=span)
    return result


def conjuncts(expr: Expr) -> tuple[Expr, ...]:
    """Return the top-level conjuncts of a condition, from left to right."""
    found: list[Expr] = []
    stack = [expr]
    while stack:
        match stack.pop():
            case Logic(LogicOp.AND, left, right):
                stack += [right, left]
            case other:
                found.append(other)
    return tuple(found)


class Interner:
    """Makes structurally equal expressions one object, so that sharing survives rewriting.

    Two constants are equal when they print alike: 0.0 and -0.0 differ, NaN is itself.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Expr] = {}

    def intern(self, root: Expr) -> Expr:
        """Return the expression with every node replaced by the first one equal to it."""
        return rewrite(root, self._canonical)

    def _canonical(self, expr: Expr) -> Expr:
        key: list[object] = [type(expr)]
        for f in fields(expr):
            if f.name != "span":
                value = getattr(expr, f.name)
                key.append(_key(value))
        return self._known.setdefault(tuple(key), expr)


def _key(value: object) -> object:
    if isinstance(value, Node):
        return id(value)
    if isinstance(value, tuple):
        return tuple(map(_key, value))
    return repr(value) if isinstance(value, float) else value
