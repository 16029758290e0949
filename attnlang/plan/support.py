"""What the CPU kernels of this version cannot run yet, said with the place in the spec.

The language is larger than the kernels: such a variant is checked, explained and interpreted by the
reference, and refused here, never computed wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnlang.diagnostics import Diagnostic
from attnlang.ir.nodes import Expr, Variant
from attnlang.passes import Lowered


@dataclass(frozen=True, slots=True)
class Unsupported(Diagnostic):
    """A construct that the language has and the kernels have not."""

    code: ClassVar[str] = "A501"
    what: str

    @property
    def headline(self) -> str:
        """What is wrong."""
        return f"the CPU kernels cannot run {self.what} yet"

    @property
    def label(self) -> str:
        """The words under the span."""
        return "used here"

    @property
    def notes(self) -> tuple[str, ...]:
        """What does work."""
        return ("`check`, `show` and the reference interpreter take all of the language",)

    @property
    def help(self) -> str | None:
        """The way round."""
        return (
            "call `.reference(...)` for the result, or compute this part in torch around the call"
        )


def unsupported(lowered: Lowered) -> tuple[Diagnostic, ...]:
    """Return one diagnostic for each construct of the variant that no CPU kernel runs."""
    variant: Variant = lowered.variant
    found: list[Diagnostic] = []

    def refuse(expr: Expr, what: str) -> None:
        found.append(Unsupported(what, span=expr.span))

    if variant.weights.softmax is not None and variant.weights.factor is not None:
        refuse(variant.weights.factor, "factors on softmax weights")
    if variant.weights.dropout is not None:
        refuse(variant.weights.dropout, "dropout")
    return tuple(found)
