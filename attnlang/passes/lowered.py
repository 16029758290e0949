"""What the passes make of a variant: the expressions that a kernel evaluates, and the report.

Maps a specialised, simplified variant to `Lowered`. Invariant: the kernel's expressions are in
terms of the bare dot product `QK`; `variant` keeps what was written, in terms of `Raw`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from attnlang.ir.nodes import Expr, Variant
from attnlang.symbolic.fired import Fired


@dataclass(frozen=True, slots=True)
class Declined:
    """A rule that looked at the variant and did not fire, and why."""

    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Lowered:
    """A variant, ready to be planned.

    `exponent`, `shift` and `sink` are times log2(e), for `exp2`; `shift` is what the exponent lacks
    of softmax's argument in every column of a row (None: nothing); `factor` multiplies what `exp2`
    gives. Without a softmax these are None, `weight` is there, and `score` for who asks for the
    largest. `dropout` is the probability that either becomes 0. `column_mask` is the conjunction of
    the mask's conjuncts that read no row (None: there is none). `operations` counts those of one
    element: with everything computed in the inner loop as it was written, and what is left there
    once the coarser terms are hoisted.
    """

    variant: Variant
    exponent: Expr | None
    shift: Expr | None
    sink: Expr | None
    factor: Expr | None
    weight: Expr | None
    score: Expr | None
    dropout: Expr | None
    mask: Expr
    column_mask: Expr | None
    report: tuple[Fired, ...]
    declined: tuple[Declined, ...]
    operations: tuple[int, int]

    @property
    def rules(self) -> Counter[str]:
        """How often each rule fired."""
        return Counter(f.rule for f in self.report)

    @property
    def roots(self) -> tuple[tuple[str, Expr], ...]:
        """The kernel's expressions by name, without those that are None."""
        named = (
            ("exponent", self.exponent),
            ("shift", self.shift),
            ("sink", self.sink),
            ("factor", self.factor),
            ("weight", self.weight),
            ("score", self.score),
            ("dropout", self.dropout),
            ("mask", self.mask),
            ("column_mask", self.column_mask),
        )
        return tuple((name, expr) for name, expr in named if expr is not None)
