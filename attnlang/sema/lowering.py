"""Expressions: AST in, typed IR out, with defs and locals put in place of their names.

Invariant: what comes out is well typed and made only of what its place may read; an expression
with an error is `POISON`, reported once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

from attnlang.ir import nodes as ir
from attnlang.ir.traverse import children
from attnlang.sema import operators as ops
from attnlang.sema.calls import lower_call
from attnlang.sema.def_calls import expand_def
from attnlang.sema.misuse import NoneMisused, TensorNotRead, WeightMisused
from attnlang.sema.names import CONSTANTS, COORDS, FUNCTIONS, builtin
from attnlang.sema.operators import Operand
from attnlang.sema.readable import check_readable
from attnlang.sema.reads import lower_index
from attnlang.sema.scope import Scope
from attnlang.sema.session import Session
from attnlang.sema.type_errors import NeedsScalar, NeedsVector
from attnlang.sema.unknown import NotAFunction, UnknownName
from attnlang.sema.values import (
    NO_TENSOR,
    POISON,
    NoTensor,
    Plain,
    Poison,
    TensorRef,
    Value,
    WeightForm,
)
from attnlang.sema.variables import Variables
from attnlang.sema.weights import divide_weights, multiply_weights, negate_weights
from attnlang.sources import Span
from attnlang.syntax import ast


@dataclass(slots=True)
class Lowering:
    """Lowers the expressions of one variant."""

    session: Session
    variables: Variables
    expanded: dict[tuple[object, ...], Value] = field(default_factory=dict)
    _kept: list[Mapping[str, Value]] = field(default_factory=list)
    _nesting: int = 0

    def value(self, node: ast.Expr, scope: Scope) -> Value:
        """Lower an expression to whatever it means.

        Everything recurses through here, so what lies between two levels is kept shallow.
        """
        if not self.session.step(self._nesting, node.span, scope.calls):
            return POISON
        self._nesting += 1
        value: Value
        match node:
            case ast.Number() | ast.Bool() | ast.NoneLiteral():
                value = self._literal(node)
            case ast.Name():
                value = self._name(node, scope)
            case ast.Unary():
                value = self._unary(node, scope)
            case ast.Binary():
                value = self._binary(node, scope)
            case ast.Compare():
                value = self._compare(node, scope)
            case ast.Logic():
                value = self._logic(node, scope)
            case ast.IfElse():
                value = self._if_else(node, scope)
            case ast.Call():
                value = lower_call(self, node, scope)
            case ast.Index():
                value = lower_index(self, node, scope)
            case _:
                assert_never(node)
        self._nesting -= 1
        return value

    def _literal(self, node: ast.Number | ast.Bool | ast.NoneLiteral) -> Value:
        match node:
            case ast.Number(number):
                kind = ir.INT if isinstance(number, int) else ir.FLOAT
                return self.session.leaf(ir.Const(number, kind, span=node.span))
            case ast.Bool(truth):
                return self.session.leaf(ir.Const(truth, ir.BOOL, span=node.span))
            case ast.NoneLiteral():
                return NO_TENSOR
            case _:
                assert_never(node)

    # What an operand must be

    def as_plain(self, value: Value, span: Span, scope: Scope) -> Plain:
        """Return a value that must be a scalar or a vector."""
        match value:
            case TensorRef(name, dims=dims):
                self.session.report(TensorNotRead(name, len(dims), span=span), scope.calls)
                return POISON
            case NoTensor():
                self.session.report(NoneMisused(span=span), scope.calls)
                return POISON
            case WeightForm():
                self.session.report(WeightMisused(span=span), scope.calls)
                return POISON
            case _:
                return value

    def operand(self, node: ast.Expr, scope: Scope) -> Operand | None:
        """Lower an operand; None after an error."""
        expr = self.as_plain(self.value(node, scope), node.span, scope)
        return None if isinstance(expr, Poison) else Operand(expr, node.span)

    def scalar(self, node: ast.Expr, scope: Scope, what: str) -> Operand | None:
        """Lower an operand that must be a scalar."""
        x = self.operand(node, scope)
        return x if x and self.is_scalar(x, what, scope) else None

    def is_scalar(self, x: Operand, what: str, scope: Scope) -> bool:
        """Whether an operand is a scalar; reports what makes it a vector when not."""
        if not x.expr.type.vector:
            return True
        leaf = self._first_vector(x.expr)
        name = leaf.name.value if isinstance(leaf, ir.Vector) else None
        inside = x.span.source is leaf.span.source and (
            x.span.start <= leaf.span.start and leaf.span.end <= x.span.end
        )
        if inside:
            error = NeedsScalar(what, name, span=leaf.span)
        else:
            error = NeedsScalar(what, name, leaf.span, span=x.span)
        self.session.report(error, scope.calls)
        return False

    def _first_vector(self, expr: ir.Expr) -> ir.Expr:
        while True:
            if isinstance(expr, ir.Vector | ir.Load):
                return expr
            below = next((c for c in children(expr) if c.type.vector), None)
            if below is None:
                return expr
            expr = below

    def vector(self, node: ast.Expr, scope: Scope, what: str) -> ir.Expr | None:
        """Lower an operand that must be a vector, as floats."""
        x = self.operand(node, scope)
        if x is None:
            return None
        if not x.expr.type.vector:
            found = ops.in_words(x.expr)
            self.session.report(NeedsVector(what, found, span=x.span), scope.calls)
            return None
        if not ops.numbers(self.session, what, (x,), scope.calls):
            return None
        wide = self.session.to_float(x.expr, scope.calls)
        return None if isinstance(wide, Poison) else wide

    # Names

    def _name(self, node: ast.Name, scope: Scope) -> Value:
        value = self._meaning(node, scope)
        return check_readable(self.session, node.id, value, node.span, scope)

    def _meaning(self, node: ast.Name, scope: Scope) -> Value:
        name = node.id
        if scope.args is not None and name in scope.args:
            return scope.args[name]
        if (found := self.variables.read(node, scope)) is not None:
            return found
        if name in COORDS:
            coord = COORDS[name]
            type_ = ir.Type(ir.Kind.INT, vector=coord == ir.CoordName.D)
            return self.session.leaf(ir.Coord(coord, type_, span=node.span))
        if name in CONSTANTS:
            number = float("inf") if name == "inf" else 3.141592653589793
            return self.session.leaf(ir.Const(number, ir.FLOAT, span=node.span))
        if scope.module.is_broken(name):
            return POISON
        if (info := scope.module.find(name)) is not None:
            return expand_def(self, info, None, node.span, scope)
        self._unknown(node, scope)
        return POISON

    def _unknown(self, node: ast.Name, scope: Scope) -> None:
        name = node.id
        if name in FUNCTIONS:
            error = NotAFunction(name, "a function", False, span=node.span)
            self.session.report(error, scope.calls)
            return
        if name in scope.module.attentions:
            note = "an attention is called from Python, not from a spec"
            attention = NotAFunction(name, "an attention", False, note, span=node.span)
            self.session.report(attention, scope.calls)
            return
        known = (*self.variables.names(scope), *COORDS, *CONSTANTS, *scope.module.all_defs())
        later = self.variables.later.get(name) if scope.args is None else None
        similar = self.session.reporter.suggest(name, known)
        unknown = UnknownName(name, similar, later=later, span=node.span)
        self.session.report(unknown, scope.calls)

    def not_callable(self, node: ast.Name, scope: Scope) -> None:
        """Report a call of something that is no function."""
        name = node.id
        what = builtin(name)
        if scope.args is not None and name in scope.args:
            what = "an argument of the def"
        elif scope.args is None and what is None:
            what = self.variables.describe(name)
        if what is None and name in scope.module.attentions:
            what = "an attention"
        if what is not None:
            tensor = what == "a tensor"
            advice = f"a tensor is read with brackets: `{name}[...]`" if tensor else None
            error = NotAFunction(name, what, True, advice, span=node.span)
            self.session.report(error, scope.calls)
            return
        similar = self.session.reporter.suggest(name, (*FUNCTIONS, *scope.module.all_defs()))
        self.session.report(UnknownName(name, similar, True, span=node.span), scope.calls)

    # Operators

    def _unary(self, node: ast.Unary, scope: Scope) -> Value:
        value = self.value(node.operand, scope)
        if isinstance(value, WeightForm) and node.op == "-":
            return negate_weights(self.session, value, node.span, scope)
        expr = self.as_plain(value, node.operand.span, scope)
        if isinstance(expr, Poison):
            return POISON
        make = ops.negate if node.op == "-" else ops.invert
        return make(self.session, Operand(expr, node.operand.span), node.span, scope.calls)

    def _binary(self, node: ast.Binary, scope: Scope) -> Value:
        x, y = self.value(node.left, scope), self.value(node.right, scope)
        if isinstance(x, Poison) or isinstance(y, Poison):
            return POISON
        if isinstance(x, WeightForm) or isinstance(y, WeightForm):
            if node.op == "*":
                return multiply_weights(self, (x, node.left), (y, node.right), node.span, scope)
            if node.op == "/" and isinstance(x, WeightForm):
                return divide_weights(self, x, (y, node.right), node.span, scope)
        left = self.as_plain(x, node.left.span, scope)
        right = self.as_plain(y, node.right.span, scope)
        if isinstance(left, Poison) or isinstance(right, Poison):
            return POISON
        operands = Operand(left, node.left.span), Operand(right, node.right.span)
        op = ir.BinaryOp(node.op)
        return ops.arithmetic(self.session, op, *operands, node.span, scope.calls)

    def _compare(self, node: ast.Compare, scope: Scope) -> Value:
        values: list[Value] = []
        for operand in node.operands:
            values.append(self.value(operand, scope))
        if any(isinstance(v, Poison) for v in values):
            return POISON
        if any(isinstance(v, NoTensor) for v in values):
            return self._is_none(node, values, scope)
        pairs = zip(values, node.operands, strict=True)
        plain = [self.as_plain(v, x.span, scope) for v, x in pairs]
        result: Plain | None = None
        for i, op in enumerate(node.ops):
            left, right = plain[i], plain[i + 1]
            if isinstance(left, Poison) or isinstance(right, Poison):
                return POISON
            x = Operand(left, node.operands[i].span)
            y = Operand(right, node.operands[i + 1].span)
            span = node.span if len(node.ops) == 1 else x.span.to(y.span)
            one = ops.compare(self.session, ir.CompareOp(op), x, y, span, scope.calls)
            if isinstance(one, Poison):
                return POISON
            if result is not None and not isinstance(result, Poison):
                one = ops.logic(self.session, ir.LogicOp.AND, result, one, node.span, scope.calls)
            result = one
        return POISON if result is None else result

    def _is_none(self, node: ast.Compare, values: list[Value], scope: Scope) -> Value:
        """Return whether a tensor was passed: a constant where that is known."""
        tensors = [v for v in values if not isinstance(v, NoTensor)]
        if len(values) > 2 or node.ops[0] not in ("==", "!="):
            self.session.report(NoneMisused(span=node.span), scope.calls)
            return POISON
        if not tensors:
            return self.session.leaf(ir.Const(node.ops[0] == "==", ir.BOOL, span=node.span))
        tensor = tensors[0]
        if not isinstance(tensor, TensorRef):
            at = node.operands[values.index(tensor)]
            self.session.report(NoneMisused(True, span=at.span), scope.calls)
            return POISON
        if not tensor.optional:
            return self.session.leaf(ir.Const(node.ops[0] == "!=", ir.BOOL, span=node.span))
        given = self.session.leaf(ir.Given(tensor.name, span=node.span))
        if node.ops[0] == "!=":
            return given
        return self.session.make(ir.Unary(ir.UnaryOp.NOT, given, ir.BOOL, span=node.span))

    def condition(self, node: ast.Expr, scope: Scope, what: str) -> Operand | None:
        """Lower an operand that must be a bool."""
        x = self.operand(node, scope)
        if x is None or not ops.condition(self.session, what, x, scope.calls):
            return None
        return x

    def _logic(self, node: ast.Logic, scope: Scope) -> Value:
        op = ir.LogicOp(node.op)
        left = self.condition(node.left, scope, f"`{op}`")
        if left is None:
            self.condition(node.right, scope.under(self.variables.optional), f"`{op}`")
            return POISON
        conjunction = op == ir.LogicOp.AND
        if isinstance(left.expr, ir.Const) and left.expr.value != conjunction:
            return left.expr
        given = self.session.facts(left.expr).given
        guard = given.if_true if conjunction else given.if_false
        right = self.condition(node.right, scope.under(guard), f"`{op}`")
        if right is None:
            return POISON
        if isinstance(left.expr, ir.Const):
            return right.expr
        return ops.logic(self.session, op, left.expr, right.expr, node.span, scope.calls)

    def _if_else(self, node: ast.IfElse, scope: Scope) -> Value:
        test = self.condition(node.condition, scope, "`if`")
        if test is not None and isinstance(test.expr, ir.Const):
            return self.value(node.then if test.expr.value else node.otherwise, scope)
        if test is None:
            anything = scope.under(self.variables.optional)
            self.operand(node.then, anything)
            self.operand(node.otherwise, anything)
            return POISON
        given = self.session.facts(test.expr).given
        then = self.operand(node.then, scope.under(given.if_true))
        other = self.operand(node.otherwise, scope.under(given.if_false))
        if then is None or other is None:
            return POISON
        return ops.select(self.session, test.expr, then, other, node.span, scope.calls)

    def keep(self, args: Mapping[str, Value]) -> None:
        """Keep the arguments of a memoised expansion alive, so that their ids stay theirs."""
        self._kept.append(args)
