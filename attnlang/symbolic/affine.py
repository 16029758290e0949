"""Sums of ints as coefficients and terms.

Maps an int expression to `constant + sum(coefficient * term)` and back. Exact, also where 64 bits
wrap, for they wrap in every order of a sum.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnlang.ir.nodes import INT, Binary, BinaryOp, Const, Expr, Unary, UnaryOp
from attnlang.sources import Span
from attnlang.symbolic.build import binary, const, negate

_MAX_TERMS = 64
_MAX_VALUE = 2**62  # of a coefficient or the constant; beyond it a sum is left alone


@dataclass(frozen=True, slots=True)
class Affine:
    """`constant + sum(coefficient * term)`; no coefficient is 0, no term stands twice."""

    terms: tuple[tuple[Expr, int], ...]
    constant: int

    def minus(self, other: Affine) -> Affine:
        """Return the difference of two sums."""
        found = list(self.terms)
        for term, coefficient in other.terms:
            _add(found, term, -coefficient)
        return Affine(tuple(found), self.constant - other.constant)

    def scaled(self, factor: int) -> Affine:
        """Return the sum times a factor that is not 0."""
        return Affine(tuple((t, c * factor) for t, c in self.terms), self.constant * factor)


def affine(expr: Expr) -> Affine | None:
    """Return an int expression as a sum, or None where it has too many terms or too large ones."""
    terms: list[tuple[Expr, int]] = []
    constant = 0
    steps = 0
    stack = [(expr, 1)]
    while stack:
        steps += 1
        node, factor = stack.pop()
        match node:
            case Binary(BinaryOp.ADD, left, right):
                stack += [(right, factor), (left, factor)]
            case Binary(BinaryOp.SUB, left, right):
                stack += [(right, -factor), (left, factor)]
            case Unary(UnaryOp.NEG, operand):
                stack.append((operand, -factor))
            case Binary(BinaryOp.MUL, Const(int(c)), x) | Binary(BinaryOp.MUL, x, Const(int(c))):
                stack.append((x, factor * c))
            case Const(int(c)):
                constant += factor * c
            case _:
                _add(terms, node, factor)
        if steps > 4 * _MAX_TERMS or len(terms) > _MAX_TERMS:
            return None
    if any(abs(c) > _MAX_VALUE for c in (constant, *(c for _, c in terms))):
        return None
    return Affine(tuple(terms), constant)


def _add(terms: list[tuple[Expr, int]], term: Expr, coefficient: int) -> None:
    for i, (other, c) in enumerate(terms):
        if other == term:
            terms[i] = (term, c + coefficient)
            if c + coefficient == 0:
                del terms[i]
            return
    if coefficient:
        terms.append((term, coefficient))


def build_sum(affine: Affine, span: Span) -> Expr:
    """Return the expression of a sum: first what is added, last the constant."""
    added = [(t, c) for t, c in affine.terms if c > 0]
    subtracted = [(t, -c) for t, c in affine.terms if c < 0]
    constant = affine.constant
    result: Expr | None = None
    if not added and (constant > 0 or not subtracted):
        result, constant = const(constant, span), 0
    for term, c in added:
        product = _times(term, c, span)
        result = product if result is None else binary(BinaryOp.ADD, result, product, span)
    for term, c in subtracted:
        product = _times(term, c, span)
        result = negate(product) if result is None else binary(BinaryOp.SUB, result, product, span)
    assert result is not None
    if constant:
        sign = BinaryOp.ADD if constant > 0 else BinaryOp.SUB
        result = binary(sign, result, const(abs(constant), span), span)
    return result


def _times(term: Expr, coefficient: int, span: Span) -> Expr:
    if coefficient == 1:
        return term
    return Binary(BinaryOp.MUL, term, const(coefficient, span), INT, span=span)


def sum_size(expr: Expr) -> int:
    """Return the operations of a sum, those inside its terms not counted."""
    match expr:
        case Binary(BinaryOp.ADD | BinaryOp.SUB, left, right):
            return 1 + sum_size(left) + sum_size(right)
        case Unary(UnaryOp.NEG, operand):
            return 1 + sum_size(operand)
        case Binary(BinaryOp.MUL, Const(), x) | Binary(BinaryOp.MUL, x, Const()):
            return 1 + sum_size(x)
    return 0
