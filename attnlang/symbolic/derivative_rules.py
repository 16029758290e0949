"""The derivative of each operator and function, one rule each.

Maps what reaches a node (d result / d node) and the node to what reaches each operand, None where
that is nothing. Invariant: where the node's own value says the derivative more cheaply than its
operand (`tanh`: 1 - f * f), the rule reads the node, which the forward pass has computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from attnlang.ir.nodes import (
    FLOAT,
    INT,
    Binary,
    BinaryOp,
    Call,
    Cast,
    Compare,
    CompareOp,
    Const,
    Expr,
    Function,
    Kind,
    Logic,
    LogicOp,
    Select,
)
from attnlang.symbolic.build import add, binary, const, divide, multiply, negate, subtract

Reaching = tuple[Expr | None, ...]


# Operators


def _add(reached: Expr, _: Binary) -> Reaching:
    return reached, reached


def _subtract(reached: Expr, _: Binary) -> Reaching:
    return reached, negate(reached)


def _multiply(reached: Expr, node: Binary) -> Reaching:
    return multiply(reached, node.right), multiply(reached, node.left)


def _divide(reached: Expr, node: Binary) -> Reaching:
    top = divide(reached, node.right)
    return top, negate(multiply(top, node))


def _modulo(reached: Expr, node: Binary) -> Reaching:
    """`x - y * floor(x / y)`, with the floor held fixed; 0 by 0."""
    by_zero = _compare(CompareOp.EQ, node.right, 0.0)
    whole = Binary(BinaryOp.FLOORDIV, node.left, node.right, FLOAT, span=node.span)
    zero = const(0.0, node.span)
    below = Select(by_zero, zero, negate(multiply(reached, whole)), FLOAT, span=node.span)
    return Select(by_zero, zero, reached, FLOAT, span=node.span), below


def _power(reached: Expr, node: Binary) -> Reaching:
    """`y * x ** (y - 1)`, 0 for y = 0; `x ** y * log(x)`, 0 where x = 0 and y >= 0."""
    x, y = node.left, node.right
    constant = isinstance(y, Const)
    if isinstance(y, Const) and y.value == 0:
        return None, None
    one = const(1 if y.type == INT else 1.0, y.span)
    lower = Binary(BinaryOp.POW, x, binary(BinaryOp.SUB, y, one, y.span), FLOAT, span=node.span)
    factor = Cast(y, FLOAT, span=y.span) if y.type == INT else y
    base: Expr = multiply(multiply(reached, factor), lower)
    zero = const(0.0, node.span)
    if not constant:
        y_zero = Compare(CompareOp.EQ, y, const(0 if y.type == INT else 0.0, y.span), span=y.span)
        base = Select(y_zero, zero, base, FLOAT, span=node.span)
    if constant or y.type.kind != Kind.FLOAT:
        return base, None
    flat = Logic(
        LogicOp.AND,
        _compare(CompareOp.EQ, x, 0.0),
        _compare(CompareOp.GE, y, 0.0),
        span=node.span,
    )
    exponent = multiply(multiply(reached, node), _call(Function.LOG, x))
    return base, Select(flat, zero, exponent, FLOAT, span=node.span)


OPERATORS: dict[BinaryOp, Callable[[Expr, Binary], Reaching]] = {
    BinaryOp.ADD: _add,
    BinaryOp.SUB: _subtract,
    BinaryOp.MUL: _multiply,
    BinaryOp.DIV: _divide,
    BinaryOp.MOD: _modulo,
    BinaryOp.POW: _power,
}


# Functions


def _abs(reached: Expr, node: Call) -> Reaching:
    return (multiply(reached, _call(Function.SIGN, node.args[0])),)


def _extreme(op: CompareOp) -> Callable[[Expr, Call], Reaching]:
    """Return the rule of `max` (`>`) or `min` (`<`): the winner takes all, equals share."""

    def rule(reached: Expr, node: Call) -> Reaching:
        a, b = node.args
        half = multiply(reached, const(0.5, node.span))
        tie = Compare(CompareOp.EQ, a, b, span=node.span)

        def share(x: Expr, other: Expr) -> Expr:
            wins = Compare(op, x, other, span=node.span)
            rest = Select(tie, half, const(0.0, node.span), FLOAT, span=node.span)
            return Select(wins, reached, rest, FLOAT, span=node.span)

        return share(a, b), share(b, a)

    return rule


def _clamp(reached: Expr, node: Call) -> Reaching:
    """To x between the bounds, both included; else to the bound that is the value."""
    x, low, high = node.args
    zero = const(0.0, node.span)

    def where(left: Expr, right: Expr) -> Expr:
        both = Logic(LogicOp.AND, left, right, span=node.span)
        return Select(both, reached, zero, FLOAT, span=node.span)

    inside = where(
        Compare(CompareOp.GE, x, low, span=node.span),
        Compare(CompareOp.LE, x, high, span=node.span),
    )
    to_low = where(
        Compare(CompareOp.LT, x, low, span=node.span),
        Compare(CompareOp.LT, low, high, span=node.span),
    )
    above = Compare(CompareOp.GT, x, high, span=node.span)
    crossed = Compare(CompareOp.GT, low, high, span=node.span)
    either = Logic(LogicOp.OR, above, crossed, span=node.span)
    return inside, to_low, Select(either, reached, zero, FLOAT, span=node.span)


def _relu(reached: Expr, node: Call) -> Reaching:
    positive = _compare(CompareOp.GT, node.args[0], 0.0)
    return (Select(positive, reached, const(0.0, node.span), FLOAT, span=node.span),)


def _gelu(reached: Expr, node: Call) -> Reaching:
    """With the normal distribution's function P and density p: P(x) + x * p(x)."""
    x = node.args[0]
    span = node.span
    erf = _call(Function.ERF, multiply(x, const(math.sqrt(0.5), span)))
    below = multiply(const(0.5, span), add(const(1.0, span), erf))
    square = multiply(const(-0.5, span), multiply(x, x))
    density = multiply(_call(Function.EXP, square), const(1 / math.sqrt(2 * math.pi), span))
    return (multiply(reached, add(below, multiply(x, density))),)


def _silu(reached: Expr, node: Call) -> Reaching:
    """With s the sigmoid of x: s + f * (1 - s)."""
    s = _call(Function.SIGMOID, node.args[0])
    return (multiply(reached, add(s, multiply(node, subtract(const(1.0, node.span), s)))),)


def _by(slope: Callable[[Expr, Expr], Expr]) -> Callable[[Expr, Call], Reaching]:
    """Return the rule of a function of one argument: what reaches it times `slope(x, f)`."""
    return lambda reached, node: (multiply(reached, slope(node.args[0], node)),)


def _over(divisor: Callable[[Expr, Expr], Expr]) -> Callable[[Expr, Call], Reaching]:
    """Return the rule of a function whose slope is 1 over something."""
    return lambda reached, node: (divide(reached, divisor(node.args[0], node)),)


def _number(value: float, like: Expr) -> Const:
    return const(value, like.span)


RULES: dict[Function, Callable[[Expr, Call], Reaching]] = {
    Function.ABS: _abs,
    Function.MIN: _extreme(CompareOp.LT),
    Function.MAX: _extreme(CompareOp.GT),
    Function.CLAMP: _clamp,
    Function.SQRT: _over(lambda x, f: multiply(_number(2.0, x), f)),
    Function.RSQRT: _by(lambda x, f: multiply(_number(-0.5, x), multiply(f, multiply(f, f)))),
    Function.EXP: _by(lambda x, f: f),
    Function.EXP2: _by(lambda x, f: multiply(_number(math.log(2), x), f)),
    Function.LOG: _over(lambda x, f: x),
    Function.LOG2: _over(lambda x, f: multiply(_number(math.log(2), x), x)),
    Function.LOG1P: _over(lambda x, f: add(_number(1.0, x), x)),
    Function.SIN: _by(lambda x, f: _call(Function.COS, x)),
    Function.COS: _by(lambda x, f: negate(_call(Function.SIN, x))),
    Function.TANH: _by(lambda x, f: subtract(_number(1.0, x), multiply(f, f))),
    Function.SIGMOID: _by(lambda x, f: multiply(f, subtract(_number(1.0, x), f))),
    Function.SOFTPLUS: _by(lambda x, f: _call(Function.SIGMOID, x)),
    Function.RELU: _relu,
    Function.GELU: _gelu,
    Function.SILU: _silu,
    Function.ERF: _by(
        lambda x, f: multiply(
            _number(2 / math.sqrt(math.pi), x), _call(Function.EXP, negate(multiply(x, x)))
        )
    ),
}
"""`sign`, `floor`, `ceil` and `round` are flat, `bit` has no float: they have no rule."""


def _call(function: Function, x: Expr) -> Expr:
    return Call(function, (x,), FLOAT, span=x.span)


def _compare(op: CompareOp, x: Expr, value: float) -> Expr:
    return Compare(op, x, const(value, x.span), span=x.span)
