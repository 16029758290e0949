"""What the CPU kernels of this version cannot run yet, said with the place in the spec.

The language is larger than the kernels: such a variant is checked, explained and interpreted by the
reference, and refused here, never computed wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnlang.diagnostics import Diagnostic
from attnlang.ir.nodes import Dot, Expr, Variant, Vector, VectorName
from attnlang.ir.traverse import walk
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


def _has_dot(expr: Expr) -> Expr | None:
    return next((e for e in walk(expr) if isinstance(e, Dot)), None)


def unsupported(lowered: Lowered) -> tuple[Diagnostic, ...]:
    """Return one diagnostic for each construct of the variant that no CPU kernel runs."""
    variant: Variant = lowered.variant
    found: list[Diagnostic] = []

    def refuse(expr: Expr, what: str) -> None:
        found.append(Unsupported(what, span=expr.span))

    for expr, name in (
        (variant.q, VectorName.Q),
        (variant.k, VectorName.K),
        (variant.v, VectorName.V),
    ):
        if not (isinstance(expr, Vector) and expr.name == name):
            refuse(expr, f"a transform of `{name}`")
    if not (isinstance(variant.out, Vector) and variant.out.name == VectorName.ACC):
        refuse(variant.out, "an `out` expression")
    for _, root in lowered.roots:
        if (dot := _has_dot(root)) is not None:
            refuse(dot, "`dot` of two vectors")
    return tuple(found)
