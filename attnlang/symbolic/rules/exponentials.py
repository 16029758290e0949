"""Forms of the exponential: fewer special functions, in ranges where the longer form overflows.

Equal in real arithmetic. Where a long form overflows on the way (`log(1 + exp(1000))`), the short
one has the value that it stands for.
"""

from __future__ import annotations

from attnlang.ir.nodes import Binary, BinaryOp, Call, Expr, Function, Unary, UnaryOp
from attnlang.symbolic.build import binary, const, is_float, negate, value_of
from attnlang.symbolic.rules.rule import rule
from attnlang.symbolic.signs import Signs

_INVERSE = {Function.LOG: Function.EXP, Function.LOG2: Function.EXP2}
_POWERS = (Function.EXP, Function.EXP2)


@rule("log-of-exp")
def log_of_exp(expr: Expr) -> Expr | None:
    """`log(exp(x))` is `x`; `exp(log(x))` is `x` where x cannot be negative."""
    match expr:
        case Call(outer, (Call(inner, (x,)),)) if _INVERSE.get(outer) == inner:
            return x
        case Call(outer, (Call(inner, (x,)),)) if _INVERSE.get(inner) == outer:
            return x if Signs().is_not_negative(x) else None
    return None


@rule("exp-product")
def exp_product(expr: Expr) -> Expr | None:
    """`exp(x) * exp(y)` is `exp(x + y)`, `exp(x) / exp(y)` is `exp(x - y)`."""
    match expr:
        case Binary(
            BinaryOp.MUL | BinaryOp.DIV as op, Call(f, (x,)) as left, Call(g, (y,)) as right
        ) if f == g and f in _POWERS and not (left.type.vector or right.type.vector):
            inner = BinaryOp.ADD if op == BinaryOp.MUL else BinaryOp.SUB
            return Call(f, (binary(inner, x, y, expr.span),), expr.type, span=expr.span)
        case Binary(BinaryOp.DIV, x, Call(f, (y,))) if f in _POWERS and value_of(x) == 1:
            return Call(f, (negate(y),), expr.type, span=expr.span)
    return None


@rule("sigmoid-form")
def sigmoid_form(expr: Expr) -> Expr | None:
    """`1 / (1 + exp(-x))` is `sigmoid(x)`, `x * sigmoid(x)` is `silu(x)`."""
    match expr:
        case Binary(BinaryOp.DIV, one, Binary(BinaryOp.ADD, x, y)) if is_float(one, 1.0):
            power = y if is_float(x, 1.0) else x if is_float(y, 1.0) else None
            match power:
                case Call(Function.EXP, (z,)):
                    inner = z.operand if _is_negation(z) else negate(z)  # type: ignore[union-attr]
                    return Call(Function.SIGMOID, (inner,), expr.type, span=expr.span)
        case Binary(BinaryOp.MUL, x, Call(Function.SIGMOID, (y,))) if x == y:
            return Call(Function.SILU, (x,), expr.type, span=expr.span)
        case Binary(BinaryOp.MUL, Call(Function.SIGMOID, (y,)), x) if x == y:
            return Call(Function.SILU, (x,), expr.type, span=expr.span)
    return None


@rule("tanh-form")
def tanh_form(expr: Expr) -> Expr | None:
    """`2 * sigmoid(x) - 1` is `tanh(0.5 * x)`."""
    match expr:
        case Binary(BinaryOp.SUB, Binary(BinaryOp.MUL, x, y), one) if is_float(one, 1.0):
            for two, call in ((x, y), (y, x)):
                match call:
                    case Call(Function.SIGMOID, (z,)) if is_float(two, 2.0):
                        half = binary(BinaryOp.MUL, z, const(0.5, expr.span), expr.span)
                        return Call(Function.TANH, (half,), expr.type, span=expr.span)
    return None


@rule("softplus-form")
def softplus_form(expr: Expr) -> Expr | None:
    """`log(1 + exp(x))` and `log1p(exp(x))` are `softplus(x)`, `log(1 + x)` is `log1p(x)`."""
    match expr:
        case Call(Function.LOG1P, (Call(Function.EXP, (x,)),)):
            return Call(Function.SOFTPLUS, (x,), expr.type, span=expr.span)
        case Call(Function.LOG, (Binary(BinaryOp.ADD, x, y),)):
            if is_float(x, 1.0):
                return Call(Function.LOG1P, (y,), expr.type, span=expr.span)
            if is_float(y, 1.0):
                return Call(Function.LOG1P, (x,), expr.type, span=expr.span)
    return None


@rule("reciprocal-root")
def reciprocal_root(expr: Expr) -> Expr | None:
    """`1 / sqrt(x)` is `rsqrt(x)`."""
    match expr:
        case Binary(BinaryOp.DIV, one, Call(Function.SQRT, (x,))) if is_float(one, 1.0):
            return Call(Function.RSQRT, (x,), expr.type, span=expr.span)
    return None


@rule("negated-factor")
def negated_factor(expr: Expr) -> Expr | None:
    """`-(x * 2.0)` is `x * -2.0`, of floats."""
    match expr:
        case Unary(UnaryOp.NEG, Binary(BinaryOp.MUL | BinaryOp.DIV, x, y) as product):
            value = value_of(y)
            if isinstance(value, float):
                return binary(product.op, x, const(-value, y.span), expr.span)
    return None


def _is_negation(expr: Expr) -> bool:
    return isinstance(expr, Unary) and expr.op == UnaryOp.NEG


RULES = (
    log_of_exp,
    exp_product,
    sigmoid_form,
    tanh_form,
    softplus_form,
    reciprocal_root,
    negated_factor,
)
