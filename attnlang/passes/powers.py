"""Powers with an invariant base: the logarithm leaves the inner loop.

Maps `gamma ** x`, the base a value of the call or the head, the exponent one of the element, to
`exp2(x * log2(gamma))` where the base is positive and finite, and to itself elsewhere. The test is
one of the head: kernels branch on it, they do not compute both. Invariant: equal up to rounding;
in float32 the relative error is that of the product, 1e-7 times its magnitude, so that a weight
that is not vanishingly small keeps its digits.
"""

from __future__ import annotations

import math

from attnlang.ir.nodes import (
    BOOL,
    FLOAT,
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
from attnlang.ir.traverse import rewrite
from attnlang.symbolic.build import binary, const
from attnlang.symbolic.fired import Fired
from attnlang.symbolic.variability import Level, Variabilities

RULE = "power-by-exponential"


def powers_by_exponentials(root: Expr) -> tuple[Expr, tuple[Fired, ...]]:
    """Return the expression with such powers rewritten, and what was."""
    levels = Variabilities()
    fired: list[Fired] = []

    def rewritten(node: Expr) -> Expr:
        match node:
            case Binary(BinaryOp.POW, base, exponent) if (
                node.type == FLOAT
                and not isinstance(exponent, Const)
                and levels.level(base) in (Level.CALL, Level.REQUEST)
                and levels.level(exponent) == Level.ELEMENT
            ):
                result = _guarded(node, base, exponent)
                fired.append(Fired(RULE, node, result))
                return result
        return node

    return rewrite(root, rewritten), tuple(fired)


def _guarded(power: Binary, base: Expr, exponent: Expr) -> Expr:
    span = power.span
    if exponent.type.kind != Kind.FLOAT:
        exponent = Cast(exponent, FLOAT, span=span)
    log = Call(Function.LOG2, (base,), FLOAT, span=span)
    product = binary(BinaryOp.MUL, exponent, log, span)
    fast = Call(Function.EXP2, (product,), FLOAT, span=span)
    above = Compare(CompareOp.GT, base, const(0.0, span), BOOL, span=span)
    below = Compare(CompareOp.LT, base, const(math.inf, span), BOOL, span=span)
    inside = Logic(LogicOp.AND, above, below, span=span)
    return Select(inside, fast, power, FLOAT, span=span)
