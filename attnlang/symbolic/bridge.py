"""The one door between IR scalar expressions and sympy.

Maps an IR expression to a sympy one and back. Ints become sympy ints, and sums, products and powers
of ints are carried: that ring is exact in sympy and in 64 bits alike. In floats the four operations
and the smooth functions are carried unevaluated, and float constants as symbols, so that sympy
neither computes with them nor cancels what may be NaN. `Cast` is a marked function, so kinds
survive. Everything else (reads, divisions of ints, conditions, what may raise) is an opaque symbol
that stands for its node. Text is never parsed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import sympy  # type: ignore[import-untyped]

from attnlang.ir.nodes import (
    FLOAT,
    INT,
    Binary,
    BinaryOp,
    Call,
    Cast,
    Const,
    Coord,
    CoordName,
    Expr,
    Function,
    Kind,
    Size,
    Unary,
    UnaryOp,
)
from attnlang.ir.traverse import walk
from attnlang.sources import Span
from attnlang.symbolic.build import Interner, binary, const, negate

Widen = sympy.Function("widen")  # Cast of an int to float
_RING = (BinaryOp.ADD, BinaryOp.SUB, BinaryOp.MUL)
_MAX_POWER = 8
_MANY = 2**20

_FUNCTIONS = {
    Function.EXP: sympy.exp,
    Function.SIN: sympy.sin,
    Function.COS: sympy.cos,
    Function.TANH: sympy.tanh,
    Function.ERF: sympy.erf,
}
_NAMES = {v: k for k, v in _FUNCTIONS.items()}


class CannotReturnError(AssertionError):
    """Sympy made something that the IR has no node for: a bug of attnlang."""


class Bridge:
    """A table of symbols: what it carried over, it can bring back."""

    def __init__(self) -> None:
        self._interner = Interner()
        self._symbols: dict[int, sympy.Symbol] = {}
        self._nodes: dict[sympy.Symbol, Expr] = {}

    def to_sympy(self, expr: Expr) -> sympy.Expr:
        """Return the sympy expression of an int or float scalar."""
        return self._to(self._interner.intern(expr))

    def to_ir(self, expr: sympy.Expr, kind: Kind, span: Span) -> Expr:
        """Return the IR expression of a sympy expression in this bridge's symbols."""
        return _Return(self._nodes, kind, span).expr(expr)

    def _to(self, expr: Expr) -> sympy.Expr:
        match expr:
            case Const(int(value)) if expr.type == INT:
                return sympy.Integer(value)
            case Binary(BinaryOp.POW, x, Const(int(n))) if 0 <= n <= _MAX_POWER:
                return sympy.Pow(self._to(x), sympy.Integer(n), evaluate=expr.type == INT)
            case Binary(op, left, right) if op in _RING or (
                op == BinaryOp.DIV and left.type == FLOAT
            ):
                return _operation(op, self._to(left), self._to(right), expr.type == INT)
            case Unary(UnaryOp.NEG, x):
                return sympy.Mul(-1, self._to(x), evaluate=expr.type == INT)
            case Call(function, (x,)) if function in _FUNCTIONS:
                return _FUNCTIONS[function](self._to(x), evaluate=False)
            case Cast(x, kind) if x.type == INT and kind == FLOAT:
                return Widen(self._to(x))
        return self._symbol(expr)

    def _symbol(self, expr: Expr) -> sympy.Symbol:
        if id(expr) not in self._symbols:
            symbol = sympy.Symbol(f"x{len(self._symbols):04d}", **_assumptions(expr))
            self._symbols[id(expr)] = symbol
            self._nodes[symbol] = expr
        return self._symbols[id(expr)]


def _assumptions(expr: Expr) -> dict[str, bool]:
    """Return what sympy may assume of an opaque node. Floats may be infinite or NaN: nothing."""
    if expr.type != INT:
        return {"commutative": True}
    match expr:
        case Size():
            return {"integer": True, "nonnegative": True}
        case Coord(name) if name not in (CoordName.Q_IDX, CoordName.KV_IDX):
            return {"integer": True, "nonnegative": True}
    return {"integer": True}


def _operation(op: BinaryOp, left: sympy.Expr, right: sympy.Expr, evaluate: bool) -> sympy.Expr:
    match op:
        case BinaryOp.ADD:
            return sympy.Add(left, right, evaluate=evaluate)
        case BinaryOp.SUB:
            return sympy.Add(left, sympy.Mul(-1, right, evaluate=evaluate), evaluate=evaluate)
        case BinaryOp.MUL:
            return sympy.Mul(left, right, evaluate=evaluate)
        case _:
            return sympy.Mul(left, sympy.Pow(right, -1, evaluate=False), evaluate=False)


@dataclass(frozen=True, slots=True)
class _Return:
    """The way back, for expressions of one kind."""

    nodes: Mapping[sympy.Symbol, Expr]
    kind: Kind
    span: Span

    def expr(self, expr: sympy.Expr) -> Expr:
        if isinstance(expr, sympy.Symbol):
            return self.nodes[expr]
        if isinstance(expr, sympy.Integer):
            return self._number(int(expr))
        if isinstance(expr, sympy.Add):
            return self._sum(expr.args)
        if isinstance(expr, sympy.Mul):
            return self._product(expr.args)
        if isinstance(expr, sympy.Pow) and isinstance(expr.exp, sympy.Integer):
            return self._power(expr.base, int(expr.exp))
        if expr.func == Widen:
            return Cast(replace(self, kind=Kind.INT).expr(expr.args[0]), FLOAT, span=self.span)
        if expr.func in _NAMES:
            return Call(_NAMES[expr.func], (self.expr(expr.args[0]),), FLOAT, span=self.span)
        raise CannotReturnError(type(expr).__name__)

    def _number(self, value: int) -> Expr:
        return const(value if self.kind == Kind.INT else float(value), self.span)

    def _sum(self, terms: Sequence[sympy.Expr]) -> Expr:
        first, *others = sorted(terms, key=_is_negative) if self.kind == Kind.INT else terms
        result = self.expr(first)
        for term in others:
            minus = _is_negative(term)
            other = self.expr(_without_sign(term) if minus else term)
            op = BinaryOp.SUB if minus else BinaryOp.ADD
            result = binary(op, result, other, self.span)
        return result

    def _product(self, factors: Sequence[sympy.Expr]) -> Expr:
        if factors[0] == -1 and len(factors) > 1:
            return negate(self._product(factors[1:]))
        result: Expr | None = None
        for factor in factors:
            below = isinstance(factor, sympy.Pow) and factor.exp == -1
            other = self.expr(factor.base if below else factor)
            if below:
                top = result or self._number(1)
                result = Binary(BinaryOp.DIV, top, other, FLOAT, span=self.span)
            else:
                result = other if result is None else binary(BinaryOp.MUL, result, other, self.span)
        return result or self._number(1)

    def _power(self, base: sympy.Expr, exponent: int) -> Expr:
        if exponent < 0 and self.kind == Kind.INT:
            raise CannotReturnError("a negative power of an int")
        if exponent == -1:
            return self._product((sympy.Pow(base, -1, evaluate=False),))
        power = const(exponent, self.span)
        operand = self.expr(base)
        return Binary(BinaryOp.POW, operand, power, operand.type, span=self.span)


def _is_negative(term: sympy.Expr) -> bool:
    if isinstance(term, sympy.Mul):
        term = term.args[0]
    return isinstance(term, sympy.Integer) and bool(term < 0)


def _without_sign(term: sympy.Expr) -> sympy.Expr:
    if isinstance(term, sympy.Integer):
        return -term
    number, *rest = term.args
    if number != -1:
        rest = [-number, *rest]
    return rest[0] if len(rest) == 1 else sympy.Mul(*rest, evaluate=False)


def expanded(expr: Expr, max_terms: int) -> Expr | None:
    """Return an int polynomial expanded and collected; None where it has too many terms.

    None, too, where 64 bits do not hold a coefficient: sympy's ints do not wrap.
    """
    if _terms_of(expr) > max_terms:
        return None
    bridge = Bridge()
    result = bridge.to_ir(sympy.expand(bridge.to_sympy(expr)), Kind.INT, expr.span)
    numbers = (e.value for e in walk(result) if isinstance(e, Const) and e.type == INT)
    return result if all(-(2**63) <= n < 2**63 for n in numbers) else None


def _terms_of(root: Expr) -> int:
    """Bound the number of terms of an expanded polynomial."""
    counts: dict[int, int] = {}
    for expr in walk(root):
        match expr:
            case Binary(BinaryOp.ADD | BinaryOp.SUB, a, b):
                count = counts[id(a)] + counts[id(b)]
            case Binary(BinaryOp.MUL, a, b):
                count = counts[id(a)] * counts[id(b)]
            case Binary(BinaryOp.POW, a, Const(int(n))) if 0 <= n <= _MAX_POWER:
                count = counts[id(a)] ** n
            case Unary(UnaryOp.NEG, a):
                count = counts[id(a)]
            case _:
                count = 1
        counts[id(expr)] = min(count, _MANY)
    return counts[id(root)]
