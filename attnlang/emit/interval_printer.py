"""A mask as C++ over intervals: the three-valued verdict of a tile (`attnlang/host/interval.h`).

Ints are `Interval`, floats `FloatInterval`, bools `Verdict`. Values of the call and the request are
points, read from the fields that the functor has already computed. Values of tensors along rows,
along columns or along one axis come from their lines (`attnlang/emit/line_table.py`), other reads
look at the box of indices.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import assert_never

from attnlang.emit.cpp_text import bare, param_field, plain
from attnlang.emit.line_table import LineTable, Summary
from attnlang.emit.shared_values import SharedValues
from attnlang.emit.simd_printer import SimdPrinter, small_whole
from attnlang.ir.nodes import (
    QK,
    Binary,
    BinaryOp,
    Call,
    Cast,
    Compare,
    CompareOp,
    Const,
    Coord,
    CoordName,
    Dot,
    Expr,
    Function,
    Kind,
    Load,
    Logic,
    LogicOp,
    Raw,
    Select,
    Unary,
    UnaryOp,
)
from attnlang.symbolic.lines import Axis, Domain, Lines, Pair
from attnlang.symbolic.variability import Level, level

_PLACES = {Axis.ROW: "q_row", Axis.COLUMN: "kv_col"}
_ATOM = re.compile(r"[\w.]+")
_POINT = {Kind.INT: "Interval", Kind.FLOAT: "FloatInterval", Kind.BOOL: "Verdict"}


@dataclass(frozen=True, slots=True)
class IntervalPrinter:
    """Prints mask expressions over the intervals `q_row`, `q_idx`, `kv_col`, `kv_idx` of a tile."""

    scalars: SimdPrinter  # at the request level
    table: LineTable
    lines: Lines = field(default_factory=Lines)
    shared: SharedValues = field(default_factory=SharedValues)

    def text(self, expr: Expr, domain: Domain | None = None) -> str:
        """Print an expression as an interval, over the elements that count."""
        domain = domain or Domain()
        return self.shared.value(expr, lambda: self._own(expr, domain))

    def _own(self, expr: Expr, domain: Domain) -> str:
        code = self._lines(expr, domain) or self._node(expr, domain)
        known = self.lines.known_pair(expr, domain)
        return (
            code if known is None else _joined("all_of", [code, self._compared("meeting", known)])
        )

    def _lines(self, expr: Expr, domain: Domain) -> str | None:
        """Print a line, or a comparison of two."""
        line = self.lines.line(expr, domain)
        if line is not None:
            return f"range_of<{self.table.name(line)}>(r, {_PLACES[line.axis]})"
        pair = self.lines.pair(expr, domain)
        if pair is None:
            return None
        assert isinstance(expr, Compare)
        return f"{'' if expr.op == CompareOp.EQ else '~'}{self._compared('equal', pair)}"

    def _compared(self, function: str, pair: Pair) -> str:
        names = ", ".join(self.table.name(s, Summary.VALUES) for s in (pair.row, pair.column))
        return f"{function}<{names}>(r, q_row, kv_col)"

    def _node(self, expr: Expr, domain: Domain) -> str:
        if _is_scalar(expr):
            scalar = self.scalars.result(expr)
            if expr.type.kind == Kind.BOOL:
                return f"verdict({scalar})"
            return f"{_POINT[expr.type.kind]}::point({plain(scalar)})"
        match expr:
            case Coord(name=name):
                if name in (CoordName.Q_IDX, CoordName.Q_ROW, CoordName.KV_IDX, CoordName.KV_COL):
                    return name.value
                raise AssertionError(f"{name} is a value of the request")
            case QK() | Raw() | Dot():
                return "FloatInterval::any()"
            case Load():
                return self._load(expr, domain)
            case Unary(op=op, operand=operand):
                return f"{'~' if op == UnaryOp.NOT else '-'}({self.text(operand, domain)})"
            case Binary():
                return self._binary(expr, domain)
            case Compare(op=op, left=left, right=right):
                return f"({self.text(left, domain)} {op.value} {self.text(right, domain)})"
            case Logic(op=op):
                parts = [self.text(p.expr, p.domain) for p in self.lines.parts(expr, domain)]
                return _joined("all_of" if op == LogicOp.AND else "any_of", parts)
            case Select(condition=condition, then=then, otherwise=otherwise):
                operands = (self.text(e, domain) for e in (condition, then, otherwise))
                return f"select({', '.join(operands)})"
            case Cast(operand=operand):
                return self._cast(expr, self.text(operand, domain))
            case Call(function=function, args=args):
                return self._call(function, args, domain)
            case _:
                raise AssertionError(f"{type(expr).__name__} does not reach a mask")

    def _load(self, expr: Load, domain: Domain) -> str:
        """Print a read at an index of both: along one axis from its line, else of a box."""
        varying = [axis for axis, index in enumerate(expr.indices) if not _is_scalar(index)]
        texts = [self.text(index, domain) for index in expr.indices]
        if len(varying) == 1:
            return f"range_of<{self.table.tensor(expr, varying[0])}>(r, {texts[varying[0]]})"
        return f"load({', '.join(['p.' + param_field(expr.tensor), *texts])})"

    def _call(self, function: Function, args: tuple[Expr, ...], domain: Domain) -> str:
        if function == Function.BIT:
            words = self.lines.line(args[0], domain)
            if words is not None:
                name = self.table.name(words, Summary.BITS)
                index = self.text(args[1], domain)
                return f"bit_of<{name}>(r, {_PLACES[words.axis]}, {index})"
        texts = [self.text(a, domain) for a in args]
        if function in (Function.MIN, Function.MAX):
            code = texts[0]
            for text in texts[1:]:
                code = f"{function.value}({code}, {text})"
            return code
        return f"{function.value}({', '.join(texts)})"

    def _operand(self, expr: Expr, domain: Domain) -> str:
        """Print an operand of int arithmetic: one int of the call or request stays one."""
        if expr.type.kind == Kind.INT and _is_scalar(expr):
            code = plain(self.scalars.result(expr))
            return code if _ATOM.fullmatch(code) else f"({code})"
        return self.text(expr, domain)

    def _binary(self, expr: Binary, domain: Domain) -> str:
        operand = self.text if expr.op == BinaryOp.POW else self._operand
        a, b = operand(expr.left, domain), operand(expr.right, domain)
        match expr.op:
            case BinaryOp.FLOORDIV | BinaryOp.MOD:
                name = "floordiv" if expr.op == BinaryOp.FLOORDIV else "floormod"
                return f"{name}({self.text(expr.left, domain)}, {b})"
            case BinaryOp.POW:
                exponent = expr.right.operand if isinstance(expr.right, Cast) else expr.right
                if isinstance(exponent, Const) and expr.type.kind == Kind.INT:
                    return f"ipow({a}, {exponent.value})"
                if (n := small_whole(exponent)) is not None:
                    return f"powi({a}, {n})"
                if expr.right.type.kind == Kind.INT:
                    b = f"to_float({b})"
                return f"pow({a}, {b})"
            case BinaryOp.ADD | BinaryOp.SUB | BinaryOp.MUL | BinaryOp.DIV:
                return f"({a} {expr.op.value} {b})"
            case _:
                assert_never(expr.op)

    @staticmethod
    def _cast(expr: Cast, x: str) -> str:
        source, target = expr.operand.type.kind, expr.type.kind
        if source == target:
            return x
        if source == Kind.BOOL:
            one, zero = ("1.0", "0.0") if target == Kind.FLOAT else ("1", "0")
            point = _POINT[target]
            return f"select({x}, {point}::point({one}), {point}::point({zero}))"
        return f"to_float({x})" if target == Kind.FLOAT else f"truncate({x})"


def _is_scalar(expr: Expr) -> bool:
    return level(expr) in (Level.CALL, Level.REQUEST)


def _joined(function: str, parts: list[str]) -> str:
    """Print a chain of operands, each asked for only where those before it leave it open."""
    if len(parts) == 1:
        return parts[0]
    return f"{function}({', '.join(f'[&] {{ return {bare(part)}; }}' for part in parts)})"
