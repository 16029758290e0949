"""Products by level: constant and invariant factors are gathered so that they multiply once.

Maps a float scalar expression and a coefficient to `coefficient * expression`, the coefficient
pushed down through sums, products, quotients, negation and the branches of `Select` to where it
meets other invariant factors:

    log2e * (cap * tanh(scale * qk / cap))   ->  tanh(qk * (scale / cap)) * (cap * log2e)
    log2e * (scale * qk + m * (kv - q))      ->  qk * (scale * log2e) + (kv - q) * (m * log2e)

Value-preserving to rounding: float products, and sums of terms that hoist to the same loop, are
reassociated; nothing else moves. A sum is multiplied term by term only where it reads the dot
product: `(c[q_row] - c[kv_col])` may cancel, and is taken as it was written. Conditions, indices
and int arithmetic are left alone. The argument of every function is treated likewise, with the
coefficient 1. Factors are multiplied in the order of their levels (call, request, row, column,
element), so that what an emitter hoists out of a loop is one subtree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from attnlang.ir.nodes import (
    FLOAT,
    QK,
    Binary,
    BinaryOp,
    Call,
    Cast,
    Expr,
    Select,
    Unary,
    UnaryOp,
)
from attnlang.ir.traverse import map_children
from attnlang.sources import Span
from attnlang.symbolic.build import binary, const, negate, value_of
from attnlang.symbolic.variability import Level, Variabilities, level_of

_MAX_FACTORS = 32  # a product of shared products has exponentially many: the rest stay as they are

_SUMS = (BinaryOp.ADD, BinaryOp.SUB)
_PRODUCTS = (BinaryOp.MUL, BinaryOp.DIV)


@dataclass(frozen=True, slots=True)
class Factors:
    """`number * product(above) / product(below)`."""

    number: float = 1.0
    above: tuple[Expr, ...] = ()
    below: tuple[Expr, ...] = ()

    @property
    def is_one(self) -> bool:
        """Whether multiplying by these changes nothing."""
        return self.number == 1.0 and not self.above and not self.below

    def key(self) -> tuple[object, ...]:
        """Return what tells coefficients apart, by the identity of their factors."""
        return (repr(self.number), *map(id, self.above), None, *map(id, self.below))


ONE = Factors()


def scaled(expr: Expr, number: float = 1.0) -> Expr:
    """Return `number * expr` with products gathered by level. `expr` is a float scalar."""
    return Pusher().push(Factors(number), expr)


class Pusher:
    """One run over one DAG: each shared node is worked on once for each coefficient."""

    def __init__(self) -> None:
        self._levels = Variabilities()
        self._done: dict[tuple[int, tuple[object, ...]], tuple[Expr, Factors, Expr]] = {}

    def push(self, coefficient: Factors, expr: Expr) -> Expr:
        """Return `coefficient * expr`; the factors of the coefficient are done already."""
        key = (id(expr), coefficient.key())
        if key not in self._done:
            result = self._push(coefficient, expr)
            self._done[key] = (expr, coefficient, result)  # keeps what the key's ids name alive
        return self._done[key][2]

    def _push(self, coefficient: Factors, expr: Expr) -> Expr:
        match expr:
            case Binary(op) if op in _PRODUCTS:
                return self._product(coefficient, expr)
            case Unary(UnaryOp.NEG):
                return self._product(coefficient, expr)
            case Binary(op) if op in _SUMS and (coefficient.is_one or self._reads_raw(expr)):
                return self._sum(coefficient, expr)
            case Select() if self._reads_raw(expr):
                return self._branches(coefficient, expr)
            case _ if value_of(expr) is not None:
                return self._product(coefficient, expr)
        return self._build(coefficient, [self._inside(expr)], [], expr.span)

    def _inside(self, expr: Expr) -> Expr:
        """Gather products in the operands of a node that stays as it is."""
        match expr:
            case Select():
                return self._branches(ONE, expr)
            case Binary(op) if op in _SUMS:
                return self._sum(ONE, expr)
            case Call() | Binary() | Unary() | Cast():
                return map_children(expr, self._operand)
        return expr

    def _operand(self, expr: Expr) -> Expr:
        return self.push(ONE, expr) if expr.type == FLOAT else expr

    def _branches(self, coefficient: Factors, expr: Select) -> Expr:
        then = self.push(coefficient, expr.then)
        otherwise = self.push(coefficient, expr.otherwise)
        if then is expr.then and otherwise is expr.otherwise:
            return expr
        return replace(expr, then=then, otherwise=otherwise)

    def _reads_raw(self, expr: Expr) -> bool:
        return "raw" in self._levels.of(expr)

    # Sums

    def _sum(self, coefficient: Factors, expr: Expr) -> Expr:
        first, *rest = _terms(expr)
        # What was a product of a sum is a sum now, and its terms come first as they did.
        pushed = _terms(self.push(coefficient, first[1]))
        pushed += [(op, self.push(coefficient, term)) for op, term in rest]
        (_, result), *others = self._merge(pushed, expr.span)
        for op, term in others:
            result = binary(op, result, term, expr.span)
        return result

    def _merge(self, terms: list[tuple[BinaryOp, Expr]], span: Span) -> list[tuple[BinaryOp, Expr]]:
        """Add up, in the place of the first, the later terms that hoist to the same loop.

        Only behind a first term that does not hoist: otherwise the sum grows in its own order.
        """
        if self._levels.level(terms[0][1]) != Level.ELEMENT:
            return terms
        merged = terms[:1]
        for op, term in terms[1:]:
            for place, (sign, other) in enumerate(merged):
                if self._hoist_together(other, term):
                    inner = BinaryOp.ADD if op == sign else BinaryOp.SUB
                    merged[place] = (sign, binary(inner, other, term, span))
                    break
            else:
                merged.append((op, term))
        return merged

    def _hoist_together(self, left: Expr, right: Expr) -> bool:
        return level_of(self._levels.of(left) | self._levels.of(right)) != Level.ELEMENT

    # Products

    def _product(self, coefficient: Factors, expr: Expr) -> Expr:
        own = self._gather(expr)
        inner = [f for f in own.above if self._is_element(f)]
        under = [f for f in own.below if self._is_element(f)]
        outer = Factors(
            coefficient.number * own.number,
            (*coefficient.above, *(f for f in own.above if not self._is_element(f))),
            (*coefficient.below, *(f for f in own.below if not self._is_element(f))),
        )
        dot = any(isinstance(f, QK) for f in inner)  # the coefficient stays with the scale
        target = None if dot else next((f for f in inner if self._absorbs(f)), None)
        if target is not None and not outer.is_one:
            inner = [self.push(outer, f) if f is target else f for f in inner]
            outer = ONE
        return self._build(outer, inner, under, expr.span)

    def _is_element(self, expr: Expr) -> bool:
        return self._levels.level(expr) == Level.ELEMENT

    def _absorbs(self, expr: Expr) -> bool:
        """Whether a coefficient costs nothing more inside than outside."""
        match expr:
            case Binary(op) if op in _SUMS:
                return self._reads_raw(expr)
            case Select():
                return self._reads_raw(expr)
        return False

    def _gather(self, expr: Expr) -> Factors:
        """Flatten a product; in the factors that stay, products are gathered too."""
        number = 1.0
        above: list[Expr] = []
        below: list[Expr] = []
        stack = [(expr, False)]
        while stack:
            factor, inverse = stack.pop()
            value = value_of(factor)
            room = len(above) + len(below) + len(stack) < _MAX_FACTORS or factor is expr
            match factor:
                case Binary(BinaryOp.MUL, left, right) if room:
                    stack += [(right, inverse), (left, inverse)]
                case Binary(BinaryOp.DIV, left, right) if room:
                    stack += [(right, not inverse), (left, inverse)]
                case Unary(UnaryOp.NEG, operand) if room:
                    number = -number
                    stack.append((operand, inverse))
                case _ if value is not None and not (inverse and value == 0):
                    number = number / value if inverse else number * value
                case _:
                    (below if inverse else above).append(self.push(ONE, factor))
        return Factors(number, tuple(above), tuple(below))

    def _build(
        self, outer: Factors, inner: Sequence[Expr], under: Sequence[Expr], span: Span
    ) -> Expr:
        """Return `product(inner) * outer / product(under)`, `outer` grouped by level.

        `inner` may hoist as well when nothing else is left of a product.
        """
        elements = [f for f in inner if self._is_element(f)]
        outer = replace(outer, above=(*outer.above, *(f for f in inner if not self._is_element(f))))
        negative = outer.number == -1.0 and not outer.above and not outer.below
        if negative and elements:
            outer = ONE
        groups = [] if outer.is_one else self._groups(outer, span)
        result = _multiply([*elements, *groups], span) or const(1.0, span)
        if under:
            result = binary(BinaryOp.DIV, result, _multiply(under, span) or result, span)
        return negate(result) if negative and elements else result

    def _groups(self, outer: Factors, span: Span) -> list[Expr]:
        """Multiply out invariant factors: one product, or a row's and a column's."""
        columns = Factors(1.0, *self._pick(outer, (Level.COLUMN,)))
        others = (Level.CALL, Level.REQUEST, Level.ROW)
        if Level.ROW in {self._levels.level(f) for f in (*outer.above, *outer.below)}:
            rows = Factors(outer.number, *self._pick(outer, others))
            parts = [rows] if columns.is_one else [rows, columns]
        else:
            parts = [Factors(outer.number, *self._pick(outer, (*others, Level.COLUMN)))]
        return [_quotient(part, span) for part in parts]

    def _pick(
        self, factors: Factors, levels: Sequence[Level]
    ) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
        """Return the factors of these levels, in the order of the levels."""

        def of(side: tuple[Expr, ...]) -> tuple[Expr, ...]:
            return tuple(f for lv in levels for f in side if self._levels.level(f) == lv)

        return of(factors.above), of(factors.below)


def _terms(expr: Expr) -> list[tuple[BinaryOp, Expr]]:
    """Return the terms along the left spine of a sum, each with its sign."""
    terms: list[tuple[BinaryOp, Expr]] = []
    while isinstance(expr, Binary) and expr.op in _SUMS:
        terms.append((expr.op, expr.right))
        expr = expr.left
    terms.append((BinaryOp.ADD, expr))
    return terms[::-1]


def _multiply(factors: Sequence[Expr], span: Span) -> Expr | None:
    result: Expr | None = None
    for factor in factors:
        result = factor if result is None else binary(BinaryOp.MUL, result, factor, span)
    return result


def _quotient(factors: Factors, span: Span) -> Expr:
    """Return the value of constant and invariant factors, in their order."""
    above = list(factors.above)
    if factors.number != 1.0 or not above:
        # After the first factor, so that it reads as written and still folds into its loop.
        above.insert(min(1, len(above)), const(factors.number, span))
    below = _multiply(factors.below, span)
    product = _multiply(above, span) or const(factors.number, span)
    return product if below is None else binary(BinaryOp.DIV, product, below, span)
