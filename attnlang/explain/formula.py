"""From an IR expression to a formula, in the letters of the literature.

i and j are the positions of query and key, r and c their places in the tensors. Maps expressions to
boxes with the fewest parentheses. A letter that a spec uses for something of its own keeps that
meaning: the coordinate is then written with its name in the language.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, assert_never

from attnlang.explain.boxes import (
    Apply,
    Box,
    Cases,
    Fenced,
    Fraction,
    Name,
    Number,
    Operator,
    Power,
    Root,
    Row,
    Sub,
)
from attnlang.ir import nodes as ir
from attnlang.ir.traverse import walk

_CASES, _OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _NEGATIVE, _POWER, _ATOM = range(10)

_LETTERS: Final = {
    ir.CoordName.Q_IDX: "i",
    ir.CoordName.KV_IDX: "j",
    ir.CoordName.Q_ROW: "r",
    ir.CoordName.KV_COL: "c",
}
MEANINGS: Final = {
    ir.CoordName.B: "the request",
    ir.CoordName.H: "the query head",
    ir.CoordName.H_KV: "the key and value head",
    ir.CoordName.Q_IDX: "the query's position",
    ir.CoordName.KV_IDX: "the key's position",
    ir.CoordName.Q_ROW: "the query's row in the tensors",
    ir.CoordName.KV_COL: "the key's column in the tensors",
    ir.CoordName.PART: "the part of the keys",
    ir.CoordName.D: "the index in the head dimension",
}
_COMPARISONS: Final = {
    ir.CompareOp.EQ: "=",
    ir.CompareOp.NE: "≠",
    ir.CompareOp.LT: "<",
    ir.CompareOp.LE: "≤",
    ir.CompareOp.GT: ">",
    ir.CompareOp.GE: "≥",
}
_NAMES: Final = {
    ir.Function.SIGMOID: "σ",
    ir.Function.LOG: "ln",
    ir.Function.SIGN: "sgn",
}
_BRACKETS: Final = {
    ir.Function.ABS: ("|", "|"),
    ir.Function.FLOOR: ("⌊", "⌋"),
    ir.Function.CEIL: ("⌈", "⌉"),
}

MINUS, TIMES = Operator("−"), Operator("·")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A box, and how tightly it binds in text and in two dimensions."""

    box: Box
    level: int
    math: int


def _atom(box: Box) -> _Piece:
    return _Piece(box, _ATOM, _ATOM)


def _piece(box: Box, level: int) -> _Piece:
    return _Piece(box, level, level)


class Formulas:
    """Writes the expressions of one variant."""

    def __init__(self, own_names: Iterable[str]) -> None:
        self._own = frozenset(own_names)
        self._done: dict[int, tuple[ir.Expr, _Piece]] = {}

    def letter(self, name: ir.CoordName) -> str:
        """Return how a coordinate is written."""
        letter = _LETTERS.get(name, name.value)
        return name.value if letter in self._own else letter

    def unused(self, letter: str) -> str:
        """Return a letter, doubled where a spec uses it."""
        return letter * 2 if letter in self._own else letter

    def coordinate(self, name: ir.CoordName) -> Box:
        """Return the box of a coordinate."""
        return Name(self.letter(name))

    def anchor(self, name: ir.CoordName) -> Box:
        """Return the box of a query tile's own position: its scores are relative to it."""
        return Sub(self.coordinate(name), (Name("tile"),))

    def box(self, expr: ir.Expr) -> Box:
        """Return the formula of an expression."""
        return self._piece(expr).box

    def factor(self, expr: ir.Expr) -> Box:
        """Return the formula as a factor of a product."""
        return self._at(expr, _NEGATIVE)

    def _piece(self, expr: ir.Expr) -> _Piece:
        if id(expr) not in self._done:
            for part in walk(expr):  # operands first: nothing recurses with the depth
                if id(part) not in self._done:
                    self._done[id(part)] = (part, self._make(part))
        return self._done[id(expr)][1]

    def _at(self, expr: ir.Expr, level: int) -> Box:
        return _fence(self._piece(expr), level)

    def _make(self, expr: ir.Expr) -> _Piece:
        match expr:
            case ir.Const(value):
                return _number(value)
            case ir.Coord(name):
                return _atom(self.coordinate(name))
            case ir.Anchor(name):
                return _atom(self.anchor(name))
            case ir.Size(name) | ir.Scalar(name):
                return _atom(Name(name))
            case ir.Given(name):
                return _piece(Row((Name(name), Operator("is"), Name("given"))), _COMPARE)
            case ir.CallScale():
                return _atom(Name("scale"))
            case ir.Raw():
                return _atom(self.pair("s"))
            case ir.QK():
                return _piece(self.dot(), _PRODUCT)
            case ir.RowSum():
                return _atom(Sub(Name("n"), (self.coordinate(ir.CoordName.Q_IDX),)))
            case ir.Lse():
                return _atom(Sub(Name("lse"), (self.coordinate(ir.CoordName.Q_IDX),)))
            case ir.Vector(name):
                return _atom(self.vector(name))
            case ir.Load(tensor, indices):
                inner = tuple(self._piece(i).box for i in indices)
                return _atom(Sub(Name(tensor), inner, read=True))
            case ir.Unary(op, operand):
                return self._unary(op, operand)
            case ir.Binary():
                return self._binary(expr)
            case ir.Compare() | ir.Logic():
                return self._condition(expr)
            case ir.Select(condition, then, otherwise):
                cases = Cases(
                    self._piece(condition).box,
                    self._at(then, _OR),
                    self._piece(otherwise).box,
                )
                return _piece(cases, _CASES)
            case ir.Cast(operand, type_):
                if type_.kind is ir.Kind.FLOAT:
                    return self._piece(operand)
                return _atom(Apply(Name("trunc"), (self._piece(operand).box,)))
            case ir.Call(function, args):
                return self._call(function, args)
            case ir.Slice() | ir.RmsNorm() | ir.L2Norm() | ir.Rope() | ir.Dot():
                return self._vector_function(expr)
            case _:
                assert_never(expr)

    def pair(self, name: str) -> Box:
        """Return a value of a query and a key."""
        ij = (self.coordinate(ir.CoordName.Q_IDX), self.coordinate(ir.CoordName.KV_IDX))
        return Sub(Name(name), ij)

    def vector(self, name: ir.VectorName, mark: str = "") -> Box:
        """Return a vector with its position; `mark` tells a transformed one."""
        query = name in (ir.VectorName.Q, ir.VectorName.ACC)
        index = ir.CoordName.Q_IDX if query else ir.CoordName.KV_IDX
        letter = "a" if name is ir.VectorName.ACC else name.value
        return Sub(Name(letter + mark, vector=True), (self.coordinate(index),))

    def dot(self, marks: tuple[str, str] = ("", "")) -> Box:
        """Return the product of a query and a key."""
        q, k = self.vector(ir.VectorName.Q, marks[0]), self.vector(ir.VectorName.K, marks[1])
        return Row((q, TIMES, k))

    def _unary(self, op: ir.UnaryOp, operand: ir.Expr) -> _Piece:
        if op is ir.UnaryOp.NEG:
            return _piece(
                Row((Operator("−", prefix=True), self._at(operand, _NEGATIVE))), _NEGATIVE
            )
        if isinstance(operand, ir.Given):
            return _piece(Row((Name(operand.name), Operator("is"), Name("absent"))), _COMPARE)
        return _piece(Row((Operator("¬", prefix=True), self._at(operand, _ATOM))), _NOT)

    def _binary(self, expr: ir.Binary) -> _Piece:
        left, right = expr.left, expr.right
        match expr.op:
            case ir.BinaryOp.ADD:
                return self._infix(left, Operator("+"), right, _SUM)
            case ir.BinaryOp.SUB:
                return self._infix(left, MINUS, right, _SUM)
            case ir.BinaryOp.MUL:
                return self._infix(left, TIMES, right, _PRODUCT)
            case ir.BinaryOp.DIV:
                return _Piece(self._fraction(left, right), _PRODUCT, _ATOM)
            case ir.BinaryOp.FLOORDIV:
                return _atom(Fenced(self._fraction(left, right), "⌊", "⌋"))
            case ir.BinaryOp.MOD:
                parts = (self._at(left, _NEGATIVE), Operator("mod"), self._at(right, _NEGATIVE))
                return _piece(Row(parts), _PRODUCT)
            case ir.BinaryOp.POW:
                base = self._at(left, _ATOM)
                if isinstance(self._piece(left).box, Fraction):  # a bar does not hold it together
                    base = Fenced(self._piece(left).box)
                return _piece(Power(base, self._piece(right).box), _POWER)
            case _:
                assert_never(expr.op)

    def _fraction(self, top: ir.Expr, bottom: ir.Expr) -> Fraction:
        pieces = self._piece(top), self._piece(bottom)
        return Fraction(
            pieces[0].box, pieces[1].box, (pieces[0].level < _PRODUCT, pieces[1].level < _POWER)
        )

    def _infix(self, left: ir.Expr, sign: Operator, right: ir.Expr, level: int) -> _Piece:
        return _piece(Row((self._at(left, level), sign, self._at(right, level + 1))), level)

    def _condition(self, expr: ir.Compare | ir.Logic) -> _Piece:
        if isinstance(expr, ir.Compare):
            parts = (
                self._at(expr.left, _SUM),
                Operator(_COMPARISONS[expr.op]),
                self._at(expr.right, _SUM),
            )
            return _piece(Row(parts), _COMPARE)
        if (between := self._between(expr)) is not None:
            return between
        both = expr.op is ir.LogicOp.AND
        level = _AND if both else _OR
        return self._infix(expr.left, Operator("∧" if both else "∨"), expr.right, level)

    def _between(self, expr: ir.Logic) -> _Piece | None:
        """Write `a <= x and x < b` as a chain."""
        match expr:
            case ir.Logic(ir.LogicOp.AND, ir.Compare(op, a, x), ir.Compare(op2, y, z)) if (
                x == y and {op, op2} <= {ir.CompareOp.LT, ir.CompareOp.LE}
            ):
                parts = (
                    self._at(a, _SUM),
                    Operator(_COMPARISONS[op]),
                    self._at(x, _SUM),
                    Operator(_COMPARISONS[op2]),
                    self._at(z, _SUM),
                )
                return _piece(Row(parts), _COMPARE)
        return None

    def _call(self, function: ir.Function, args: tuple[ir.Expr, ...]) -> _Piece:
        inner = tuple(self._piece(a).box for a in args)
        match function:
            case ir.Function.ABS | ir.Function.FLOOR | ir.Function.CEIL:
                return _atom(Fenced(inner[0], *_BRACKETS[function]))
            case ir.Function.SQRT:
                return _piece(Root(inner[0]), _POWER)
            case ir.Function.RSQRT:
                return _Piece(
                    Fraction(Number("1"), Root(inner[0]), (False, False)), _PRODUCT, _ATOM
                )
            case ir.Function.EXP2:
                return _piece(Power(Number("2"), inner[0]), _POWER)
            case ir.Function.LOG2:
                return _atom(Apply(Sub(Name("log"), (Number("2"),)), inner))
            case ir.Function.LOG1P:
                shifted = Row((Number("1"), Operator("+"), self._at(args[0], _PRODUCT)))
                return _atom(Apply(Name("ln"), (shifted,)))
            case ir.Function.RELU:
                return _atom(Apply(Name("max"), (inner[0], Number("0"))))
            case _:
                return _atom(Apply(Name(_NAMES.get(function, function.value)), inner))

    def _vector_function(
        self, expr: ir.Slice | ir.RmsNorm | ir.L2Norm | ir.Rope | ir.Dot
    ) -> _Piece:
        match expr:
            case ir.Slice(operand, start, stop):
                bounds = Row((self._piece(start).box, Operator(":"), self._piece(stop).box))
                return _atom(Sub(self._at(operand, _ATOM), (bounds,), read=True))
            case ir.RmsNorm(operand, weight, _):
                norm = _atom(Apply(Name("rmsnorm"), (self._piece(operand).box,)))
                if weight is None:
                    return norm
                return _piece(Row((norm.box, Operator("⊙"), self._at(weight, _NEGATIVE))), _PRODUCT)
            case ir.L2Norm(operand, _):
                x = self._piece(operand)
                norm = Fraction(x.box, Fenced(x.box, "‖", "‖"), (x.level < _PRODUCT, False))
                return _Piece(norm, _PRODUCT, _ATOM)
            case ir.Rope(operand, position):
                turn = Sub(Name("rope"), (self._piece(position).box,), read=True)
                return _atom(Apply(turn, (self._piece(operand).box,)))
            case ir.Dot(left, right):
                return self._infix(left, TIMES, right, _PRODUCT)
            case _:
                assert_never(expr)


def _fence(piece: _Piece, level: int) -> Box:
    if piece.level >= level:
        return piece.box
    return Fenced(piece.box, text_only=piece.math >= level)


def _negative(box: Box) -> _Piece:
    return _piece(Row((Operator("−", prefix=True), box)), _NEGATIVE)


def _number(value: bool | int | float) -> _Piece:
    match value:
        case bool():
            return _atom(Name("true" if value else "false"))
        case int():
            text = str(abs(value))
        case _ if math.isnan(value):
            return _atom(Name("NaN"))
        case _:
            size = abs(value)
            text = "π" if size == math.pi else "∞" if math.isinf(size) else f"{size:.10g}"
    if math.copysign(1.0, value) < 0:
        return _negative(_digits(text))
    return _atom(_digits(text)) if "e" not in text else _piece(_digits(text), _PRODUCT)


def _digits(text: str) -> Box:
    """Write 1e-06 as 1 · 10^-6."""
    mantissa, mark, exponent = text.partition("e")
    if not mark:
        return Number(text)
    power = Power(Number("10"), Number(str(int(exponent)).replace("-", "−")))
    return power if mantissa == "1" else Row((Number(mantissa), TIMES, power))
