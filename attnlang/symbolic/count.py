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

_OPERATIONS = (
    Unary | Binary | Compare | Logic | Select | Cast | Call | Load | Dot | RmsNorm | L2Norm | Rope
)


def count_operations(exprs: Iterable[Expr]) -> int:
    """Return the number of operations of some expressions, each shared one counted once."""
    interner = Interner()
    roots = [interner.intern(e) for e in exprs]
    return sum(isinstance(e, _OPERATIONS) for e in walk(*roots))
