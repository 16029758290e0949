"""How each tensor is read: which indices are clamped, and how wide they are.

Maps the tensor reads of a kernel's expressions to a `Read` each. Invariant: an index that is not
clamped is proved to lie within its extent (`attnlang.symbolic.index_bounds`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attnlang.ir.nodes import Expr, Load, Variant
from attnlang.ir.printer import print_expr
from attnlang.ir.traverse import walk
from attnlang.plan.ranges import Ranges
from attnlang.symbolic.index_bounds import proved_indices


@dataclass(frozen=True, slots=True)
class Read:
    """One read; `proved` and `bits` have an entry for each index."""

    load: Load
    proved: tuple[bool, ...]
    bits: tuple[int, ...]

    @property
    def text(self) -> str:
        """Return the decision for people."""
        words = [
            f"{print_expr(index)} {'proved' if proved else 'clamped'} ({bits} bits)"
            for index, proved, bits in zip(self.load.indices, self.proved, self.bits, strict=True)
        ]
        return f"{self.load.tensor}: {', '.join(words)}"


def plan_reads(roots: Iterable[Expr], variant: Variant, ranges: Ranges) -> tuple[Read, ...]:
    """Return the reads of scalars, each once, in the order in which they are made."""
    found: dict[Expr, Read] = {}
    for expr in walk(*roots):
        if isinstance(expr, Load) and not expr.type.vector and expr not in found:
            bits = tuple(32 if ranges.fits32(i) else 64 for i in expr.indices)
            found[expr] = Read(expr, proved_indices(expr, variant), bits)
    return tuple(found.values())
