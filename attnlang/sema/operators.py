"""The kinds of operators: operands in, a typed node out, or a diagnostic.

int widens to float by an explicit `Cast`; nothing else converts. A vector with a scalar gives a
vector, elementwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attnlang.ir import nodes as ir
from attnlang.sema.report import CallSite
from attnlang.sema.session import Session
from attnlang.sema.type_errors import (
    BranchesDiffer,
    CannotCompare,
    NeedsBool,
    NeedsNumber,
)
from attnlang.sema.values import POISON, Plain, Poison
from attnlang.sources import Span

Calls = tuple[CallSite, ...]

_WORDS: Final = {ir.Kind.BOOL: "a bool", ir.Kind.INT: "an int", ir.Kind.FLOAT: "a float"}


def in_words(expr: ir.Expr) -> str:
    """Return what an expression is, for a message."""
    kind = expr.type.kind
    return f"a vector of {kind}s" if expr.type.vector else _WORDS[kind]


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand, and where it was written (its node's span may lie in a local or a def)."""

    expr: ir.Expr
    span: Span

    @property
    def kind(self) -> ir.Kind:
        """The kind of its value."""
        return self.expr.type.kind


def is_bool(x: Operand) -> bool:
    """Whether an operand is a bool, or a vector of them."""
    return x.kind == ir.Kind.BOOL


def vectored(kind: ir.Kind, *operands: ir.Expr) -> ir.Type:
    """Return the type of an elementwise result."""
    return ir.Type(kind, any(x.type.vector for x in operands))


def numbers(session: Session, what: str, operands: tuple[Operand, ...], calls: Calls) -> bool:
    """Whether all operands are numbers; reports those that are not."""
    bools = [x for x in operands if is_bool(x)]
    for x in bools:
        session.report(NeedsNumber(what, span=x.span), calls)
    return not bools


def negate(session: Session, x: Operand, span: Span, calls: Calls) -> Plain:
    """Return `-x`."""
    if not numbers(session, "`-`", (x,), calls):
        return POISON
    return session.make(ir.Unary(ir.UnaryOp.NEG, x.expr, x.expr.type, span=span), calls)


def invert(session: Session, x: Operand, span: Span, calls: Calls) -> Plain:
    """Return `not x`."""
    if not condition(session, "`not`", x, calls):
        return POISON
    if isinstance(x.expr, ir.Const):
        return session.make(ir.Const(not x.expr.value, ir.BOOL, span=span), calls)
    return session.make(ir.Unary(ir.UnaryOp.NOT, x.expr, x.expr.type, span=span), calls)


def condition(session: Session, what: str, x: Operand, calls: Calls) -> bool:
    """Whether an operand is a condition; reports it when not."""
    if not is_bool(x):
        session.report(NeedsBool(what, in_words(x.expr), span=x.span), calls)
    return is_bool(x)


def arithmetic(
    session: Session, op: ir.BinaryOp, x: Operand, y: Operand, span: Span, calls: Calls
) -> Plain:
    """Return `x op y`."""
    if not numbers(session, f"`{op}`", (x, y), calls):
        return POISON
    if op == ir.BinaryOp.POW:
        return power(session, x, y, span, calls)
    floats = ir.Kind.FLOAT in (x.kind, y.kind) or op == ir.BinaryOp.DIV
    left, right = x.expr, y.expr
    if floats:
        wide = widened(session, (left, right), calls)
        if wide is None:
            return POISON
        left, right = wide
    kind = ir.Kind.FLOAT if floats else ir.Kind.INT
    return session.make(ir.Binary(op, left, right, vectored(kind, left, right), span=span), calls)


def power(session: Session, x: Operand, y: Operand, span: Span, calls: Calls) -> Plain:
    """Return `x ** y`; an int exponent stays an int, for it is exact for a negative base."""
    exponent: Plain = y.expr
    value = session.value(y.expr)
    if value is not None and y.kind == ir.Kind.INT:
        exponent = session.make(ir.Const(value, ir.INT, span=y.span), calls)
    whole = x.kind == ir.Kind.INT and type(value) is int and value >= 0
    base = x.expr if whole else session.to_float(x.expr, calls)
    if isinstance(base, Poison) or isinstance(exponent, Poison):
        return POISON
    type_ = vectored(ir.Kind.INT if whole else ir.Kind.FLOAT, base, exponent)
    return session.make(ir.Binary(ir.BinaryOp.POW, base, exponent, type_, span=span), calls)


def widened(
    session: Session, operands: tuple[ir.Expr, ...], calls: Calls
) -> tuple[ir.Expr, ...] | None:
    """Return all operands as floats."""
    wide = [session.to_float(x, calls) for x in operands]
    sound = tuple(x for x in wide if not isinstance(x, Poison))
    return sound if len(sound) == len(wide) else None


def unified(
    session: Session, operands: tuple[ir.Expr, ...], calls: Calls
) -> tuple[ir.Expr, ...] | None:
    """Return numbers as one kind: floats if one of them is a float."""
    if any(x.type.kind == ir.Kind.FLOAT for x in operands):
        return widened(session, operands, calls)
    return operands


def compare(
    session: Session, op: ir.CompareOp, x: Operand, y: Operand, span: Span, calls: Calls
) -> Plain:
    """Return `x op y`, a bool."""
    bools = (is_bool(x), is_bool(y))
    if any(bools) and not (all(bools) and op in (ir.CompareOp.EQ, ir.CompareOp.NE)):
        words = (in_words(x.expr), in_words(y.expr))
        session.report(CannotCompare(str(op), *words, x.span, span=span), calls)
        return POISON
    sides = unified(session, (x.expr, y.expr), calls)
    if sides is None:
        return POISON
    type_ = vectored(ir.Kind.BOOL, *sides)
    return session.make(ir.Compare(op, sides[0], sides[1], type_, span=span), calls)


def logic(
    session: Session, op: ir.LogicOp, left: ir.Expr, right: ir.Expr, span: Span, calls: Calls
) -> Plain:
    """Return `left op right` of two conditions."""
    type_ = vectored(ir.Kind.BOOL, left, right)
    return session.make(ir.Logic(op, left, right, type_, span=span), calls)


def select(
    session: Session, test: ir.Expr, then: Operand, other: Operand, span: Span, calls: Calls
) -> Plain:
    """Return `then if test else other`."""
    if is_bool(then) != is_bool(other):
        words = (in_words(then.expr), in_words(other.expr))
        session.report(BranchesDiffer(*words, then.span, span=other.span), calls)
        return POISON
    values = unified(session, (then.expr, other.expr), calls)
    if values is None:
        return POISON
    type_ = vectored(values[0].type.kind, test, *values)
    return session.make(ir.Select(test, values[0], values[1], type_, span=span), calls)
