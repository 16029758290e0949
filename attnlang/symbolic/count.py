"""How much an expression computes.

Maps expressions to a number of operations. Invariant: structurally equal parts count once, however
often they are written.
"""

from __future__ import annotations

from collections.abc import Iterable

from attnlang.ir.nodes import (
    Binary,
    Call,
    Cast,
    Compare,
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
from attnlang.ir.traverse import walk
from attnlang.symbolic.build import Interner
from attnlang.symbolic.variability import Level, Variabilities

_OPERATIONS = (
    Unary | Binary | Compare | Logic | Select | Cast | Call | Load | Dot | RmsNorm | L2Norm | Rope
)


def count_operations(exprs: Iterable[Expr]) -> int:
    """Return the number of operations of some expressions, each shared one counted once."""
    interner = Interner()
    roots = [interner.intern(e) for e in exprs]
    return sum(isinstance(e, _OPERATIONS) for e in walk(*roots))


def count_element_operations(exprs: Iterable[Expr | None]) -> int:
    """Return the operations that stay in the loop over elements when the others are hoisted."""
    interner, levels = Interner(), Variabilities()
    roots = [interner.intern(e) for e in exprs if e is not None]
    deep = (e for e in walk(*roots) if levels.level(e) == Level.ELEMENT)
    return sum(isinstance(e, _OPERATIONS) for e in deep)
