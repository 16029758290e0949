"""Prints the IR for people, in the language's own notation with the fewest parentheses.

Maps an expression to one line and a variant to the attention that it is, everything written out.
Invariant: an expression's text means that expression again where its names may be read (`raw` is
the score before it is assigned); widenings that the language makes by itself are not shown.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Final, NamedTuple, assert_never

from attnlang.ir import nodes as ir
from attnlang.ir.traverse import walk


class _Text(NamedTuple):
    text: str
    level: int


# How tightly a form binds; an operand that binds less than its place demands gets parentheses.
_IF, _OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _NEGATIVE, _POWER, _ATOM = range(10)

_BINARY: Final = {
    ir.BinaryOp.ADD: (_SUM, _PRODUCT),
    ir.BinaryOp.SUB: (_SUM, _PRODUCT),
    ir.BinaryOp.MUL: (_PRODUCT, _NEGATIVE),
    ir.BinaryOp.DIV: (_PRODUCT, _NEGATIVE),
    ir.BinaryOp.FLOORDIV: (_PRODUCT, _NEGATIVE),
    ir.BinaryOp.MOD: (_PRODUCT, _NEGATIVE),
}
_KEEPS_INT: Final = frozenset(
    (ir.Function.ABS, ir.Function.MIN, ir.Function.MAX, ir.Function.CLAMP, ir.Function.SIGN)
)


def print_expr(expr: ir.Expr) -> str:
    """Return an expression as it would be written."""
    return _Printer().print(expr).text


def print_variant(variant: ir.Variant) -> str:
    """Return a variant as an attention with every default and every inlined value written out."""
    header = ", ".join(map(_param, variant.params))
    lines = [f"attention {variant.name}({header}):"]
    if variant.doc is not None:
        lines.append(f"    {_quoted(variant.doc)}")
    for size in variant.sizes:
        lines.append(f"    # {size.tensor}.shape[{size.axis}] == {_solved(size)}")
    for require in variant.requires:
        message = "" if require.message is None else f", {_quoted(require.message)}"
        lines.append(f"    require {print_expr(require.condition)}{message}")
    for name in ("scale", "q", "k", "v", "score", "mask"):
        lines.append(f"    {name} = {_result(getattr(variant, name))}")
    lines.append(f"    weights = {_weights(variant.weights)}")
    lines.append(f"    out = {_result(variant.out)}")
    return "\n".join(lines) + "\n"


def _param(param: ir.Param) -> str:
    match param:
        case ir.ScalarParam(name, kind, const, default):
            head = f"const {name}" if const else name
            tail = "" if default is None else f" = {_constant(default).text}"
            return f"{head}: {kind}{tail}"
        case ir.TensorParam(name, kind, dims, optional):
            shape = ", ".join(map(print_expr, dims))
            return f"{name}: {kind}[{shape}]{' = none' if optional else ''}"
        case _:
            assert_never(param)


def _solved(size: ir.BoundSize) -> str:
    text = size.name if size.factor == 1 else f"{size.factor} * {size.name}"
    match size.offset:
        case ir.Const(0):
            return text
        case ir.Const(int(value)) if value < 0:
            return f"{text} - {-value}"
        case ir.Unary(ir.UnaryOp.NEG, operand):
            return f"{text} - {_Printer().at(operand, _PRODUCT)}"
        case offset:
            return f"{text} + {_Printer().at(offset, _PRODUCT)}"


def _result(expr: ir.Expr) -> str:
    """Print what is assigned to a result, which widens it by itself."""
    return print_expr(_bare(expr))


def _weights(weights: ir.Weights) -> str:
    printer, parts = _Printer(), []
    if weights.softmax is not None:
        sink = "" if weights.sink is None else f", sink={_result(weights.sink)}"
        parts.append(f"softmax({_result(weights.softmax)}{sink})")
    alone = weights.softmax is None and weights.dropout is None
    if weights.factor is not None:
        level = _IF if alone else _NEGATIVE if parts else _PRODUCT
        parts.append(printer.at(_bare(weights.factor), level))
    if weights.dropout is not None:
        parts.append(f"dropout({_result(weights.dropout)})")
    return " * ".join(parts)


def _quoted(text: str) -> str:
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
    return '"' + "".join(escapes.get(c, c) for c in text) + '"'


def _constant(value: bool | int | float) -> _Text:
    match value:
        case bool():
            return _Text("true" if value else "false", _ATOM)
        case int():
            return _Text(str(value), _ATOM if value >= 0 else _NEGATIVE)
        case _ if math.isnan(value):
            return _Text("inf - inf", _SUM)
    negative = math.copysign(1.0, value) < 0
    size = abs(value)
    text = "pi" if size == math.pi else "inf" if math.isinf(size) else repr(size)
    return _Text(f"-{text}", _NEGATIVE) if negative else _Text(text, _ATOM)


def _widening(expr: ir.Expr) -> bool:
    """Whether an expression is a cast that the language also makes by itself."""
    return (
        isinstance(expr, ir.Cast)
        and expr.type.kind == ir.Kind.FLOAT
        and expr.operand.type.kind == ir.Kind.INT
    )


def _bare(expr: ir.Expr) -> ir.Expr:
    """Return an expression without such a cast."""
    return expr.operand if isinstance(expr, ir.Cast) and _widening(expr) else expr


def _united(operands: tuple[ir.Expr, ...]) -> tuple[ir.Expr, ...]:
    """Return operands of one kind without the casts that any other float operand brings about."""
    if all(_widening(x) for x in operands):
        return operands
    return tuple(map(_bare, operands))


class _Printer:
    """Prints expressions; shared ones once."""

    def __init__(self) -> None:
        self._done: dict[int, _Text] = {}

    def at(self, expr: ir.Expr, level: int) -> str:
        """Print an operand where at least `level` is needed."""
        text = self.print(expr)
        return text.text if text.level >= level else f"({text.text})"

    def print(self, expr: ir.Expr) -> _Text:
        """Print an expression."""
        if id(expr) not in self._done:
            # Operands come first, so that nothing recurses with the depth of the expression.
            for part in walk(expr):
                if id(part) not in self._done:
                    self._done[id(part)] = self._print(part)
        return self._done[id(expr)]

    def _print(self, expr: ir.Expr) -> _Text:
        match expr:
            case ir.Const(value):
                return _constant(value)
            case ir.Coord(name) | ir.Vector(name):
                return _Text(name.value, _ATOM)
            case ir.Anchor(name):
                return _Text(f"anchor({name})", _ATOM)
            case ir.Size(name) | ir.Scalar(name):
                return _Text(name, _ATOM)
            case ir.Given(name):
                return _Text(f"{name} != none", _COMPARE)
            case ir.CallScale():
                return _Text("scale", _ATOM)
            case ir.Raw():
                return _Text("raw", _ATOM)
            case ir.QK():
                return _Text("dot(q, k)", _ATOM)
            case ir.RowSum():
                return _Text("row_sum", _ATOM)
            case ir.Lse():
                return _Text("lse", _ATOM)
            case ir.Load(tensor, indices):
                return _Text(f"{tensor}[{self._list(indices)}]", _ATOM)
            case ir.Unary():
                return self._unary(expr)
            case ir.Binary():
                return self._binary(expr)
            case ir.Compare() | ir.Logic():
                return self._condition(expr)
            case ir.Select():
                return self._select(expr)
            case ir.Cast(operand, type_):
                return _Text(f"{type_.kind}({self.print(operand).text})", _ATOM)
            case ir.Call(function, args):
                shown = _united(args) if function in _KEEPS_INT else tuple(map(_bare, args))
                return _Text(f"{function}({self._list(shown)})", _ATOM)
            case ir.Slice(operand, start, stop):
                bounds = f"{self.print(start).text}:{self.print(stop).text}"
                return _Text(f"{self.at(operand, _ATOM)}[{bounds}]", _ATOM)
            case ir.RmsNorm() | ir.L2Norm() | ir.Rope() | ir.Dot():
                return self._vector(expr)
            case _:
                assert_never(expr)

    def _list(self, exprs: tuple[ir.Expr, ...]) -> str:
        return ", ".join(self.print(e).text for e in exprs)

    def _unary(self, expr: ir.Unary) -> _Text:
        if expr.op == ir.UnaryOp.NEG:
            return _Text(f"-{self.at(expr.operand, _NEGATIVE)}", _NEGATIVE)
        if isinstance(expr.operand, ir.Given):
            return _Text(f"{expr.operand.name} == none", _COMPARE)
        return _Text(f"not {self.at(expr.operand, _NOT)}", _NOT)

    def _binary(self, expr: ir.Binary) -> _Text:
        op, sides = expr.op, (expr.left, expr.right)
        if op == ir.BinaryOp.POW:
            base, exponent = sides
            whole = isinstance(exponent, ir.Const) and isinstance(exponent.value, int)
            base = base if whole else _bare(base)
            return _Text(f"{self.at(base, _ATOM)} ** {self.at(exponent, _NEGATIVE)}", _POWER)
        if op == ir.BinaryOp.DIV:
            left, right = map(_bare, sides)
        else:
            left, right = _united(sides)
        level, inner = _BINARY[op]
        return _Text(f"{self.at(left, level)} {op} {self.at(right, inner)}", level)

    def _condition(self, expr: ir.Compare | ir.Logic) -> _Text:
        if (chain := _chain(expr)) is not None:
            text = self.at(_shown(chain[0], chain[0].left), _SUM)
            for link in chain:
                text += f" {link.op} {self.at(_shown(link, link.right), _SUM)}"
            return _Text(text, _COMPARE)
        if isinstance(expr, ir.Compare):
            raise AssertionError("a comparison is a chain of one")
        level = _AND if expr.op == ir.LogicOp.AND else _OR
        right = self.at(expr.right, level + 1)
        return _Text(f"{self.at(expr.left, level)} {expr.op} {right}", level)

    def _select(self, expr: ir.Select) -> _Text:
        then, otherwise = _united((expr.then, expr.otherwise))
        condition = self.at(expr.condition, _OR)
        text = f"{self.at(then, _OR)} if {condition} else {self.at(otherwise, _IF)}"
        return _Text(text, _IF)

    def _vector(self, expr: ir.RmsNorm | ir.L2Norm | ir.Rope | ir.Dot) -> _Text:
        match expr:
            case ir.RmsNorm(operand, weight, eps):
                parts = [self._bare(operand)]
                if weight is not None:
                    parts.append(f"weight={self._weight(weight)}")
                return _Text(f"rms_norm({', '.join(parts + self._eps(eps))})", _ATOM)
            case ir.L2Norm(operand, eps):
                parts = [self._bare(operand), *self._eps(eps)]
                return _Text(f"l2_norm({', '.join(parts)})", _ATOM)
            case ir.Dot(left, right):
                return _Text(f"dot({self._bare(left)}, {self._bare(right)})", _ATOM)
            case ir.Rope():
                return self._rope(expr)
            case _:
                assert_never(expr)

    def _rope(self, expr: ir.Rope) -> _Text:
        parts = [self._bare(expr.operand), self._bare(expr.position)]
        if expr.freqs is not None:
            parts.append(f"freqs={expr.freqs}")
        elif not _is_const(expr.base, 10000.0):
            parts.append(f"base={self._bare(expr.base)}")
        if not _is_const(expr.start, 0):
            parts.append(f"start={self.print(expr.start).text}")
        if expr.dims is not None:
            parts.append(f"dims={self.print(expr.dims).text}")
        if expr.interleaved:
            parts.append("interleaved=true")
        return _Text(f"rope({', '.join(parts)})", _ATOM)

    def _bare(self, expr: ir.Expr) -> str:
        return self.print(_bare(expr)).text

    def _weight(self, expr: ir.Expr) -> str:
        match _bare(expr):
            case ir.Load(tensor, (ir.Coord(ir.CoordName.D),)):
                return tensor
            case bare:
                return self.print(bare).text

    def _eps(self, eps: ir.Expr) -> list[str]:
        return [] if _is_const(eps, 1e-6) else [f"eps={self._bare(eps)}"]


def _is_const(expr: ir.Expr, value: float) -> bool:
    return isinstance(expr, ir.Const) and expr.value == value


def _shown(link: ir.Compare, side: ir.Expr) -> ir.Expr:
    """Return a side of a comparison without a widening that its other side brings about."""
    shown = _united((link.left, link.right))
    return shown[0] if side is link.left else shown[1]


def _chain(expr: ir.Expr) -> tuple[ir.Compare, ...] | None:
    """Return the comparisons `a < b < c` of a conjunction in which neighbours share an operand."""
    links: list[ir.Compare] = []
    while isinstance(expr, ir.Logic) and expr.op == ir.LogicOp.AND:
        if not isinstance(expr.right, ir.Compare):
            return None
        links.append(expr.right)
        expr = expr.left
    if not isinstance(expr, ir.Compare):
        return None
    links.append(expr)
    links.reverse()
    for before, after in pairwise(links):
        if _bare(before.right) is not _bare(after.left):
            return None
    return tuple(links)
