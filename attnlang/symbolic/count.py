"""How much an expression computes.

Maps expressions to a number of operations. Invariant: structurally equal parts count once, however
often they are written; a power is three (a logarithm, a product, an exponential); of a choice that
is made outside the loop over elements one arm runs there, the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeGuard

from attnlang.ir.nodes import (
    Binary,
    BinaryOp,
    Call,
    Cast,
    Compare,
    Const,
    Dot,
    Expr,
    L2Norm,
    Load,
    Logic,
    RmsNorm,
    Rope,
    Select,
    Unary,
)
from attnlang.ir.traverse import children, walk
from attnlang.symbolic.build import Interner
from attnlang.symbolic.variability import Level, Variabilities

_OPERATIONS = (
    Unary | Binary | Compare | Logic | Select | Cast | Call | Load | Dot | RmsNorm | L2Norm | Rope
)


def count_operations(exprs: Iterable[Expr]) -> int:
    """Return the number of operations of some expressions, each shared one counted once."""
    interner = Interner()
    roots = [interner.intern(e) for e in exprs]
    return sum(map(_cost, walk(*roots)))


def count_element_operations(exprs: Iterable[Expr | None]) -> int:
    """Return the operations that stay in the loop over elements when the others are hoisted."""
    interner, levels = Interner(), Variabilities()
    roots = [interner.intern(e) for e in exprs if e is not None]
    seen: dict[int, Expr] = {}
    stack = list(roots)
    while stack:
        expr = stack.pop()
        if id(expr) in seen or levels.level(expr) != Level.ELEMENT:
            continue
        seen[id(expr)] = expr
        if _is_invariant_choice(expr, levels):
            stack.append(expr.then)
        else:
            stack += children(expr)
    return sum(_cost(e) for e in seen.values() if not _is_invariant_choice(e, levels))


def _is_invariant_choice(expr: Expr, levels: Variabilities) -> TypeGuard[Select]:
    if not isinstance(expr, Select):
        return False
    return levels.level(expr.condition) in (Level.CALL, Level.REQUEST)


def _cost(expr: Expr) -> int:
    match expr:
        case Binary(BinaryOp.POW, _, exponent) if not isinstance(exponent, Const):
            return 3
    return int(isinstance(expr, _OPERATIONS))
