"""Calls: which function a name means, and the kinds of the elementwise ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attnlang.ir import nodes as ir
from attnlang.sema import operators as ops
from attnlang.sema.def_calls import call_def
from attnlang.sema.names import CONVERSIONS, ELEMENTWISE
from attnlang.sema.operators import Operand
from attnlang.sema.scope import Scope
from attnlang.sema.signatures import WrongKeyword, lower_all, positional, signature_of
from attnlang.sema.type_errors import WrongKind
from attnlang.sema.values import POISON, Plain, Value
from attnlang.sema.vectors import VECTOR_CALLS
from attnlang.sema.weights import lower_dropout, lower_softmax
from attnlang.syntax import ast

if TYPE_CHECKING:
    from attnlang.sema.lowering import Lowering

_KEEPS_INT: Final = frozenset(
    {
        ir.Function.ABS,
        ir.Function.MIN,
        ir.Function.MAX,
        ir.Function.CLAMP,
        ir.Function.SIGN,
    }
)


def lower_call(low: Lowering, node: ast.Call, scope: Scope) -> Value:
    """Lower `function(args)`."""
    name = node.function.id
    if scope.args is None or name not in scope.args:
        if name in ELEMENTWISE:
            return _elementwise(low, ELEMENTWISE[name], node, scope)
        if name in CONVERSIONS:
            return _convert(low, node, scope)
        if name in VECTOR_CALLS:
            return VECTOR_CALLS[name](low, node, scope)
        if name == "softmax":
            return lower_softmax(low, node, scope)
        if name == "dropout":
            return lower_dropout(low, node, scope)
        if scope.module.is_broken(name):
            lower_all(low, node, scope)
            return POISON
        if scope.args is not None or low.variables.describe(name) is None:
            info = scope.module.find(name)
            if info is not None:
                for keyword in node.keywords:
                    error = WrongKeyword(name, keyword.name, (), span=keyword.span)
                    low.session.report(error, scope.calls)
                if node.keywords:
                    lower_all(low, node, scope)
                    return POISON
                return call_def(low, info, node, scope)
    low.not_callable(node.function, scope)
    lower_all(low, node, scope)
    return POISON


def _operands(low: Lowering, node: ast.Call, scope: Scope) -> tuple[Operand, ...] | None:
    """Lower the arguments of a plain function, all of them numbers."""
    if not positional(low, node, signature_of(node.function.id), scope):
        lower_all(low, node, scope)
        return None
    found: list[Operand] = []
    for arg in node.args:
        if (x := low.operand(arg, scope)) is not None:
            found.append(x)
    return tuple(found) if len(found) == len(node.args) else None


def _elementwise(low: Lowering, function: ir.Function, node: ast.Call, scope: Scope) -> Plain:
    session, calls = low.session, scope.calls
    operands = _operands(low, node, scope)
    if operands is None:
        return POISON
    if function == ir.Function.BIT:
        return _bit(low, operands, node, scope)
    if not ops.numbers(session, f"`{function}`", operands, calls):
        return POISON
    exprs = tuple(x.expr for x in operands)
    if function in _KEEPS_INT:
        args = ops.unified(session, exprs, calls)
    else:
        args = ops.widened(session, exprs, calls)
    if args is None:
        return POISON
    type_ = ops.vectored(args[0].type.kind, *args)
    return session.make(ir.Call(function, args, type_, span=node.span), calls)


def _bit(low: Lowering, operands: tuple[Operand, ...], node: ast.Call, scope: Scope) -> Plain:
    session, calls = low.session, scope.calls
    wrong = [x for x in operands if x.kind != ir.Kind.INT]
    for x in wrong:
        error = WrongKind("an argument of `bit`", "an int", ops.in_words(x.expr), span=x.span)
        session.report(error, calls)
    if wrong:
        return POISON
    args = tuple(x.expr for x in operands)
    type_ = ops.vectored(ir.Kind.BOOL, *args)
    return session.make(ir.Call(ir.Function.BIT, args, type_, span=node.span), calls)


def _convert(low: Lowering, node: ast.Call, scope: Scope) -> Plain:
    operands = _operands(low, node, scope)
    if operands is None:
        return POISON
    (x,) = operands
    kind = ir.Kind(node.function.id)
    if x.kind == kind:
        return x.expr
    return low.session.make(
        ir.Cast(x.expr, ops.vectored(kind, x.expr), span=node.span), scope.calls
    )
