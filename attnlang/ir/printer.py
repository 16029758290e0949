"""The IR as text, in the language's own notation: for people, goldens and hashes.

Maps expressions to infix text with as few parentheses as precedence allows, and variants to
`attention` items. Implicit widenings are not shown; what the language has no name for is written as
a call.
"""

from __future__ import annotations

from typing import assert_never

from attnlang.ir.nodes import (
    QK,
    Binary,
    BinaryOp,
    Call,
    CallScale,
    Cast,
    Compare,
    Const,
    Coord,
    Dot,
    Expr,
    Given,
    Kind,
    L2Norm,
    Load,
    Logic,
    LogicOp,
    Lse,
    Param,
    Raw,
    RmsNorm,
    Rope,
    RowSum,
    Scalar,
    ScalarParam,
    Select,
    Size,
    Slice,
    TensorParam,
    Unary,
    UnaryOp,
    Variant,
    Vector,
    Weights,
)

# Loosest first, as the grammar has them.
_SELECT, _OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _NEGATION, _POWER, _ATOM = range(10)

_BINARY = {
    BinaryOp.ADD: (_SUM, _SUM, _PRODUCT),
    BinaryOp.SUB: (_SUM, _SUM, _PRODUCT),
    BinaryOp.MUL: (_PRODUCT, _PRODUCT, _NEGATION),
    BinaryOp.DIV: (_PRODUCT, _PRODUCT, _NEGATION),
    BinaryOp.FLOORDIV: (_PRODUCT, _PRODUCT, _NEGATION),
    BinaryOp.MOD: (_PRODUCT, _PRODUCT, _NEGATION),
    BinaryOp.POW: (_POWER, _ATOM, _NEGATION),
}


def print_expr(expr: Expr) -> str:
    """Print an expression in the language's notation."""
    return _print(expr)[0]


def _at(expr: Expr, precedence: int) -> str:
    text, own = _print(expr)
    return text if own >= precedence else f"({text})"


def _call(name: str, *args: Expr | str) -> tuple[str, int]:
    words = [a if isinstance(a, str) else print_expr(a) for a in args]
    return f"{name}({', '.join(words)})", _ATOM


def print_const(value: bool | int | float) -> str:
    """Print a constant."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    return repr(value)


def _print(expr: Expr) -> tuple[str, int]:
    match expr:
        case Const(value=value):
            text = print_const(value)
            return text, _NEGATION if text.startswith("-") else _ATOM
        case Coord(name=name) | Vector(name=name):
            return name.value, _ATOM
        case Size(name=name) | Scalar(name=name):
            return name, _ATOM
        case Given(name=name):
            return f"{name} != none", _COMPARE
        case CallScale():
            return "scale", _ATOM
        case Raw():
            return "raw", _ATOM
        case QK():
            return "dot(q, k)", _ATOM
        case RowSum():
            return "row_sum", _ATOM
        case Lse():
            return "lse", _ATOM
        case Load(tensor=tensor, indices=indices):
            return f"{tensor}[{', '.join(print_expr(i) for i in indices)}]", _ATOM
        case Unary(op=op, operand=operand):
            if op == UnaryOp.NOT:
                return f"not {_at(operand, _NOT)}", _NOT
            return f"-{_at(operand, _NEGATION)}", _NEGATION
        case Binary(op=op, left=left, right=right):
            own, a, b = _BINARY[op]
            space = "" if op == BinaryOp.POW else " "
            return f"{_at(left, a)}{space}{op.value}{space}{_at(right, b)}", own
        case Compare(op=compare, left=left, right=right):
            return f"{_at(left, _SUM)} {compare.value} {_at(right, _SUM)}", _COMPARE
        case Logic(op=logic, left=left, right=right):
            own = _AND if logic == LogicOp.AND else _OR
            return f"{_at(left, own)} {logic.value} {_at(right, own + 1)}", own
        case Select(condition=condition, then=then, otherwise=otherwise):
            parts = (_at(then, _OR), _at(condition, _OR), _at(otherwise, _SELECT))
            return f"{parts[0]} if {parts[1]} else {parts[2]}", _SELECT
        case Cast(operand=operand, type=type_):
            if operand.type.kind == Kind.INT and type_.kind == Kind.FLOAT:
                return _print(operand)
            return _call(type_.kind.value, operand)
        case Call(function=function, args=args):
            return _call(function.value, *args)
        case Slice(operand=operand, start=start, stop=stop):
            return f"{_at(operand, _ATOM)}[{print_expr(start)}:{print_expr(stop)}]", _ATOM
        case RmsNorm(operand=operand, weight=weight, eps=eps):
            middle = [] if weight is None else [f"weight={print_expr(weight)}"]
            return _call("rms_norm", operand, *middle, f"eps={print_expr(eps)}")
        case L2Norm(operand=operand, eps=eps):
            return _call("l2_norm", operand, f"eps={print_expr(eps)}")
        case Rope():
            return _rope(expr)
        case Dot(left=left, right=right):
            return _call("dot", left, right)
        case _:
            assert_never(expr)


def _rope(expr: Rope) -> tuple[str, int]:
    options = [f"base={print_expr(expr.base)}"]
    if expr.freqs is not None:
        options.append(f"freqs={expr.freqs}")
    options.append(f"start={print_expr(expr.start)}")
    if expr.dims is not None:
        options.append(f"dims={print_expr(expr.dims)}")
    if expr.interleaved:
        options.append("interleaved=true")
    return _call("rope", expr.operand, expr.position, *options)


def _param(param: Param) -> str:
    match param:
        case ScalarParam(name=name, kind=kind, const=const, default=default):
            equals = "" if default is None else f" = {print_const(default)}"
            return f"{'const ' if const else ''}{name}: {kind.value}{equals}"
        case TensorParam(name=name, kind=kind, dims=dims, optional=optional):
            shape = ", ".join(print_expr(d) for d in dims)
            return f"{name}: {kind.value}[{shape}]{' = none' if optional else ''}"


def print_weights(weights: Weights) -> str:
    """Print weights as the spec would state them."""
    parts = []
    if weights.softmax is not None:
        sink = "" if weights.sink is None else f", sink={print_expr(weights.sink)}"
        parts.append(f"softmax({print_expr(weights.softmax)}{sink})")
    if weights.factor is not None:
        parts.append(_at(weights.factor, _PRODUCT if not parts else _NEGATION))
    if weights.dropout is not None:
        parts.append(f"dropout({print_expr(weights.dropout)})")
    return " * ".join(parts)


def print_variant(variant: Variant) -> str:
    """Print a whole variant; two that print alike mean the same."""
    lines = [f"attention {variant.name}({', '.join(_param(p) for p in variant.params)}):"]
    for bound in variant.sizes:
        factor = "" if bound.factor == 1 else f"{bound.factor} * "
        where = f"{bound.tensor}, dimension {bound.axis}"
        lines.append(f"    # {factor}{bound.name} + {print_expr(bound.offset)} = size of {where}")
    for require in variant.requires:
        lines.append(f"    require {print_expr(require.condition)}")
    for name in ("scale", "q", "k", "v"):
        lines.append(f"    {name} = {print_expr(getattr(variant, name))}")
    lines.append("    raw = scale * dot(q, k)")
    lines.append(f"    score = {print_expr(variant.score)}")
    lines.append(f"    mask = {print_expr(variant.mask)}")
    lines.append(f"    weights = {print_weights(variant.weights)}")
    lines.append(f"    out = {print_expr(variant.out)}")
    return "\n".join(lines) + "\n"
