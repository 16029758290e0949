"""The forms of `weights`: a softmax times factors and a dropout, or an expression without softmax.

A `WeightForm` is what such an expression means while it is put together; `finish_weights` makes
`ir.Weights` of it. Invariant: a form is only ever multiplied, divided or negated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnlang.ir import nodes as ir
from attnlang.sema import operators as ops
from attnlang.sema import places
from attnlang.sema.misuse import TwiceInWeights, WeightsElsewhere
from attnlang.sema.operators import Operand
from attnlang.sema.scope import Scope
from attnlang.sema.session import Session
from attnlang.sema.signatures import bind, lower_all, signature_of
from attnlang.sema.values import POISON, Poison, Value, WeightForm
from attnlang.sources import Span
from attnlang.syntax import ast

if TYPE_CHECKING:
    from attnlang.sema.lowering import Lowering


def _allowed_here(low: Lowering, node: ast.Call, scope: Scope) -> bool:
    if scope.place in (places.WEIGHTS, places.LOCAL):
        return True
    error = WeightsElsewhere(node.function.id, scope.place.title, span=node.span)
    low.session.report(error, scope.calls)
    lower_all(low, node, scope)
    return False


def _number(low: Lowering, node: ast.Expr, scope: Scope, what: str) -> ir.Expr | None:
    x = low.scalar(node, scope, what)
    if x is None or not ops.numbers(low.session, what, (x,), scope.calls):
        return None
    wide = low.session.to_float(x.expr, scope.calls)
    return None if isinstance(wide, Poison) else wide


def lower_softmax(low: Lowering, node: ast.Call, scope: Scope) -> Value:
    """Lower `softmax(e)`, `softmax(e, sink=s)`."""
    if not _allowed_here(low, node, scope):
        return POISON
    bound = bind(low, node, signature_of("softmax"), scope)
    if bound is None:
        return POISON
    argument = _number(low, bound["x"], scope.at(places.SCORE), "the argument of `softmax`")
    sink = None
    if "sink" in bound:
        sink = _number(low, bound["sink"], scope.at(places.SINK), "`sink`")
        if sink is None:
            return POISON
    if argument is None:
        return POISON
    return WeightForm(argument, sink, None, None, node.span)


def lower_dropout(low: Lowering, node: ast.Call, scope: Scope) -> Value:
    """Lower `dropout(p)`."""
    if not _allowed_here(low, node, scope):
        return POISON
    bound = bind(low, node, signature_of("dropout"), scope)
    if bound is None:
        return POISON
    p = _number(low, bound["p"], scope.at(places.DROPOUT), "the argument of `dropout`")
    return POISON if p is None else WeightForm(None, None, None, p, node.span)


Written = tuple[Value, ast.Expr]
"""A value, and where it was written."""


def multiply_weights(low: Lowering, x: Written, y: Written, span: Span, scope: Scope) -> Value:
    """Return the product of two values, of which one is a form."""
    left, right = _as_form(low, x, scope), _as_form(low, y, scope)
    if left is None or right is None:
        return POISON
    for name in ("softmax", "dropout"):
        if getattr(left, name) is not None and getattr(right, name) is not None:
            low.session.report(TwiceInWeights(name, left.span, span=right.span), scope.calls)
            return POISON
    factor = left.factor or right.factor
    if left.factor is not None and right.factor is not None:
        product = ir.Binary(ir.BinaryOp.MUL, left.factor, right.factor, ir.FLOAT, span=span)
        made = low.session.make(product, scope.calls)
        if isinstance(made, Poison):
            return POISON
        factor = made
    return WeightForm(
        left.softmax or right.softmax,
        left.sink or right.sink,
        factor,
        left.dropout or right.dropout,
        span,
    )


def _as_form(low: Lowering, written: Written, scope: Scope) -> WeightForm | None:
    """Return a value as a form; a number is its factor."""
    value, node = written
    if isinstance(value, WeightForm):
        return value
    factor = _factor(low, written, scope)
    return None if factor is None else WeightForm(None, None, factor, None, node.span)


def _factor(low: Lowering, written: Written, scope: Scope) -> ir.Expr | None:
    value, node = written
    expr = low.as_plain(value, node.span, scope)
    if isinstance(expr, Poison):
        return None
    x = Operand(expr, node.span)
    if not low.is_scalar(x, "a factor of `weights`", scope):
        return None
    if not ops.numbers(low.session, "a factor of `weights`", (x,), scope.calls):
        return None
    wide = low.session.to_float(expr, scope.calls)
    return None if isinstance(wide, Poison) else wide


def divide_weights(low: Lowering, x: WeightForm, y: Written, span: Span, scope: Scope) -> Value:
    """Return a form divided by an elementwise expression."""
    divisor = _factor(low, y, scope)
    if divisor is None:
        return POISON
    session = low.session
    above = x.factor or session.leaf(ir.Const(1.0, ir.FLOAT, span=span))
    quotient = ir.Binary(ir.BinaryOp.DIV, above, divisor, ir.FLOAT, span=span)
    made = session.make(quotient, scope.calls)
    if isinstance(made, Poison):
        return POISON
    return WeightForm(x.softmax, x.sink, made, x.dropout, span)


def negate_weights(session: Session, x: WeightForm, span: Span, scope: Scope) -> Value:
    """Return a form times -1."""
    factor = x.factor or session.leaf(ir.Const(1.0, ir.FLOAT, span=span))
    made = session.make(ir.Unary(ir.UnaryOp.NEG, factor, ir.FLOAT, span=span), scope.calls)
    return (
        POISON if isinstance(made, Poison) else WeightForm(x.softmax, x.sink, made, x.dropout, span)
    )


def finish_weights(session: Session, form: WeightForm, span: Span) -> ir.Weights:
    """Return the IR of complete weights; a dropout alone multiplies 1."""
    factor = form.factor
    if form.softmax is None and factor is None:
        factor = session.leaf(ir.Const(1.0, ir.FLOAT, span=span))
    return ir.Weights(form.softmax, form.sink, factor, form.dropout, span=span)
