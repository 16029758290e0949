"""How the vectors of a kernel are made: read where they lie, or by a program for each row.

Maps a lowered variant and its widths to `Transforms`. Invariant: a vector without a program is some
entries in a row of what the call passed, or of k'.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnlang.ir.nodes import Expr, Variant, Vector, VectorName
from attnlang.ir.nodes import Slice as SliceNode
from attnlang.ir.traverse import walk
from attnlang.plan.widths import Widths, fixed_int


@dataclass(frozen=True, slots=True)
class Operand:
    """q', k' or v': the program that makes a row, or else where its entries start in a row."""

    program: Expr | None
    start: int
    width: int


@dataclass(frozen=True, slots=True)
class Transforms:
    """What a kernel does to the vectors of a row.

    `value_from_key`: the call passes no v. `value_shares_key`: v' is a part of k', which is
    transformed, so that one row serves both products.
    """

    query: Operand
    key: Operand
    value: Operand
    out: Expr | None
    out_width: int
    value_from_key: bool
    value_shares_key: bool

    @property
    def value_within_key(self) -> int | None:
        """From which entry on a row of k' holds v'; None: it does not."""
        if self.value_shares_key:
            return self.value.start
        if self.value_from_key and self.value.program is None and self.key.program is None:
            return self.value.start - self.key.start
        return None

    @property
    def programs(self) -> tuple[tuple[str, Expr, int], ...]:
        """The programs by name, with the width of what they make."""
        named = (
            ("query", self.query.program, self.query.width),
            ("key", self.key.program, self.key.width),
            ("value", self.value.program, self.value.width),
            ("out", self.out, self.out_width),
        )
        return tuple((n, e, w) for n, e, w in named if e is not None)


def reads(expr: Expr, name: VectorName) -> bool:
    """Whether an expression reads a vector."""
    return any(isinstance(e, Vector) and e.name == name for e in walk(expr))


def plan_transforms(variant: Variant, widths: Widths) -> Transforms:
    """Decide how q', k', v' and out are made."""
    query = _operand(variant.q, widths.product, widths, VectorName.Q)
    key = _operand(variant.k, widths.product, widths, VectorName.K)
    from_key = reads(variant.v, VectorName.K) and not reads(variant.v, VectorName.V)
    base, start = _viewed(variant.v, widths)
    shares = key.program is not None and base is variant.k
    if shares:
        value = Operand(None, start, widths.acc)
    else:
        name = VectorName.K if from_key else VectorName.V
        value = _operand(variant.v, widths.acc, widths, name)
    plain = isinstance(variant.out, Vector) and variant.out.name == VectorName.ACC
    return Transforms(
        query=query,
        key=key,
        value=value,
        out=None if plain else variant.out,
        out_width=widths.out,
        value_from_key=from_key,
        value_shares_key=shares,
    )


def _operand(expr: Expr, width: int, widths: Widths, name: VectorName) -> Operand:
    base, start = _viewed(expr, widths)
    if isinstance(base, Vector) and base.name == name:
        return Operand(None, start, width)
    return Operand(expr, 0, width)


def _viewed(expr: Expr, widths: Widths) -> tuple[Expr, int]:
    """Return what an expression is a part of, and where the part starts."""
    start = 0
    while isinstance(expr, SliceNode):
        start += fixed_int(expr.start, widths.sizes)
        expr = expr.operand
    return expr, start


def describe(transforms: Transforms) -> list[str]:
    """Say for people how the vectors are made, a line each."""
    lines: list[str] = []
    for name, operand in (("q", transforms.query), ("k", transforms.key), ("v", transforms.value)):
        if operand.program is not None:
            how = "as the tile is loaded"
            if name != "q":
                how = "in one pass before (forward, keys used more than twice), else as staged"
            lines.append(f"{name}: {operand.width} entries, transformed {how}")
        elif name == "v" and transforms.value_shares_key:
            lines.append(f"v: entries {operand.start} on of the transformed k, not stored again")
        elif name == "v" and transforms.value_from_key:
            lines.append(f"v: {operand.width} entries of k from {operand.start} on, where they lie")
    if transforms.out is not None:
        lines.append(f"out: {transforms.out_width} entries, transformed after the last merge")
    return lines
