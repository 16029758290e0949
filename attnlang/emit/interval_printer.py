"""A mask as C++ over intervals: the three-valued verdict of a tile (`attnlang/host/interval.h`).

Ints are `Interval`, floats `FloatInterval`, bools `Verdict`. Values of the call and the request are
points, read from the fields that the functor has already computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from attnlang.emit.simd_printer import SimdPrinter, param_field, plain, small_whole
from attnlang.ir.nodes import (
    QK,
    Binary,
    BinaryOp,
    Call,
    Cast,
    Compare,
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
from attnlang.plan.terms import Term
from attnlang.symbolic.variability import Level, level

_POINT = {Kind.INT: "Interval", Kind.FLOAT: "FloatInterval", Kind.BOOL: "Verdict"}


@dataclass(frozen=True, slots=True)
class IntervalPrinter:
    """Prints mask expressions over the intervals `q_row`, `q_idx`, `kv_col`, `kv_idx` of a tile."""

    scalars: SimdPrinter  # at the request level
    terms: Mapping[Expr, Term]

    def text(self, expr: Expr) -> str:
        """Print an expression as an interval."""
        if level(expr) in (Level.CALL, Level.REQUEST):
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
            case Load(tensor=tensor, indices=indices):
                args = ", ".join(["p." + param_field(tensor), *(self.text(i) for i in indices)])
                return f"load({args})"
            case Unary(op=op, operand=operand):
                return f"{'~' if op == UnaryOp.NOT else '-'}({self.text(operand)})"
            case Binary():
                return self._binary(expr)
            case Compare(op=op, left=left, right=right):
                return f"({self.text(left)} {op.value} {self.text(right)})"
            case Logic(op=op, left=left, right=right):
                symbol = "&" if op == LogicOp.AND else "|"
                return f"({self.text(left)} {symbol} {self.text(right)})"
            case Select(condition=condition, then=then, otherwise=otherwise):
                parts = (self.text(e) for e in (condition, then, otherwise))
                return f"select({', '.join(parts)})"
            case Cast(operand=operand):
                return self._cast(expr, operand)
            case Call(function=function, args=args_):
                parts_ = [self.text(a) for a in args_]
                if function in (Function.MIN, Function.MAX):
                    code = parts_[0]
                    for part in parts_[1:]:
                        code = f"{function.value}({code}, {part})"
                    return code
                return f"{function.value}({', '.join(parts_)})"
            case _:
                raise AssertionError(f"{type(expr).__name__} does not reach a mask")

    def _binary(self, expr: Binary) -> str:
        a, b = self.text(expr.left), self.text(expr.right)
        match expr.op:
            case BinaryOp.FLOORDIV:
                return f"floordiv({a}, {b})"
            case BinaryOp.MOD:
                return f"floormod({a}, {b})"
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

    def _cast(self, expr: Cast, operand: Expr) -> str:
        x = self.text(operand)
        source, target = operand.type.kind, expr.type.kind
        if source == target:
            return x
        if source == Kind.BOOL:
            one, zero = ("1.0", "0.0") if target == Kind.FLOAT else ("1", "0")
            point = _POINT[target]
            return f"select({x}, {point}::point({one}), {point}::point({zero}))"
        return f"to_float({x})" if target == Kind.FLOAT else f"truncate({x})"
