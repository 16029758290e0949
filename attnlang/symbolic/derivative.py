"""Partial derivatives of a scalar expression, by reverse accumulation over the IR.

Maps an expression and the nodes that count as variables to one expression for each of them, in
terms of the nodes of the forward pass: the derivative of `cap * tanh(raw / cap)` reads the very
`tanh` that the score computed. Invariants: the value is that of autograd on the reference, with
torch's conventions at kinks and ties; an operand that a guard hides contributes 0 by selection,
never by a product with 0, so a singular branch that was not taken gives no NaN. The rules of the
functions are in `derivative_rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce

from attnlang.ir.nodes import (
    BOOL,
    FLOAT,
    Binary,
    Call,
    Expr,
    Function,
    Kind,
    Logic,
    LogicOp,
    Select,
    Unary,
    UnaryOp,
)
from attnlang.ir.traverse import rewrite, walk
from attnlang.symbolic.build import Interner, add, const, negate
from attnlang.symbolic.derivative_rules import OPERATORS, RULES

IsVariable = Callable[[Expr], bool]


@dataclass(frozen=True, slots=True)
class Derivative:
    """The forward expression as the partials read it, and the partials by variable."""

    forward: Expr
    partials: Mapping[Expr, Expr]


def differentiate(root: Expr, is_variable: IsVariable) -> Derivative:
    """Return d root / d x for each float node x that `is_variable` accepts, where it is not 0.

    `forward` equals the root; equal nodes are one node there, and the keys and the values of
    `partials` are made of those. A variable is not looked into. Raises TypeError for operations on
    whole vectors, which have programs of their own.
    """
    root = Interner().intern(rewrite(root, _in_pairs))
    reached: dict[int, list[_Part]] = {id(root): [_Part(None, const(1.0, root.span))]}
    partials: dict[Expr, Expr] = {}
    for expr in reversed(list(walk(root))):
        parts = reached.pop(id(expr), None)
        if parts is None:
            continue
        if is_variable(expr):
            partials[expr] = reduce(add, (part.selected() for part in parts))
            continue
        if expr.type.vector:
            raise TypeError(f"a {type(expr).__name__} of whole vectors is no scalar")
        for operand, part in _operands(expr, _joined(parts)):
            if operand.type.kind == Kind.FLOAT:
                reached.setdefault(id(operand), []).append(part)
    return Derivative(root, partials)


@dataclass(frozen=True, slots=True)
class _Part:
    """What reaches a node, where a guard holds (None: everywhere)."""

    guard: Expr | None
    value: Expr

    def selected(self) -> Expr:
        """Return the value where the guard holds, else 0."""
        if self.guard is None:
            return self.value
        span = self.value.span
        return Select(self.guard, self.value, const(0.0, span), FLOAT, span=span)

    def where(self, condition: Expr) -> _Part:
        """Return this where the condition holds too."""
        if self.guard is not None:
            condition = Logic(LogicOp.AND, self.guard, condition, span=condition.span)
        return replace(self, guard=condition)


def _in_pairs(expr: Expr) -> Expr:
    """Nest a `min` or `max` of many, as the reference folds it: ties are shared pair by pair."""
    match expr:
        case Call(Function.MIN | Function.MAX, args) if len(args) > 2:
            return reduce(lambda a, b: replace(expr, args=(a, b)), args)
    return expr


def _joined(parts: list[_Part]) -> _Part:
    """Add up what reaches a node; that is there where one of the guards holds."""
    if all(part.guard is parts[0].guard for part in parts):
        return _Part(parts[0].guard, reduce(add, (part.value for part in parts)))
    value = reduce(add, (part.selected() for part in parts))
    guards = [part.guard for part in parts if part.guard is not None]
    if len(guards) < len(parts):
        return _Part(None, value)
    return _Part(reduce(lambda a, b: Logic(LogicOp.OR, a, b, span=a.span), guards), value)


def _operands(expr: Expr, part: _Part) -> Iterator[tuple[Expr, _Part]]:
    """Yield the operands of a node that may have a derivative, and what reaches them."""
    operands: Iterable[Expr]
    match expr:
        case Unary(UnaryOp.NEG, x):
            yield x, replace(part, value=negate(part.value))
            return
        case Select(condition, then, otherwise):
            yield then, part.where(condition)
            yield otherwise, part.where(Unary(UnaryOp.NOT, condition, BOOL, span=expr.span))
            return
        case Binary(op, left, right) if op in OPERATORS:
            operands, values = (left, right), OPERATORS[op](part.value, expr)
        case Call(function, args) if function in RULES:
            operands, values = args, RULES[function](part.value, expr)
        case _:  # a leaf, a condition, a cast, `floor` and its like: no derivative
            return
    for x, value in zip(operands, values, strict=True):
        if value is not None:
            yield x, replace(part, value=value)
